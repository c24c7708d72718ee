"""Language models: where they come from, how they are loaded, and which tokens open and end a
turn."""
