"""The one definition of a right, well-formed, honest answer, for verify, rewards and evaluate.

No models, no network, no files but its own tables.
"""
