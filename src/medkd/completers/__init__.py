"""Models that answer: an endpoint over HTTP whose every attempt is on a ledger, a model on this
machine, a script for tests.

In: `core.records.Request`. Out: `core.records.Completion`.
Not done here: what to ask (`distill.courses`) and what a right answer is (`grading`).
"""
