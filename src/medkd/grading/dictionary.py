"""Loads jieba's dictionary when it is imported: by the server that the processes of
`overlap.open_pool` are forked from, and nobody else.

Not done here: cutting (`grading.overlap`).
"""

from medkd.grading.overlap import load_cutter

load_cutter()
