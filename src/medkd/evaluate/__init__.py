"""Asking a model the questions it never saw, and saying what it can do with the doubt that belongs
to each number."""
