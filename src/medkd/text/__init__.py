"""Text of any kind: one view for comparing, likeness, lists of diagnoses, tables, encodings."""
