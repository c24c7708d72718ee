"""Merging rationales and open datasets into one training set: schemas, duplicates, layouts, the
stage itself."""
