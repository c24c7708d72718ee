"""Talking to models in the terminal: one, or several side by side."""
