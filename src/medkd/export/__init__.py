"""Handing a model over: merged, whole, and proven to think and to stop with plain
`transformers`."""
