"""The one definition of a right, well-formed, honest answer; verification, rewards and evaluation
all call it.

No models and no network in here, and no files but its own tables.
"""
