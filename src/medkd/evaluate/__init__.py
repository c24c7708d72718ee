"""Measures a model on questions it never saw, each score with an interval."""
