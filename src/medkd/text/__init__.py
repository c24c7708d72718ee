"""Text, whatever it says: one view for comparing, likeness, lists of diagnoses, tables and their encodings."""
