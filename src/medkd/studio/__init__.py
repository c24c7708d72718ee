"""The road in a browser: pages on the same files and the same runs as the command line.

In: the directories named on the command line. Out: pages; detached runs, started and stopped.
Not done here: the work of a stage.
"""
