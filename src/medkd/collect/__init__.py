"""Collecting: cases from a medical site or from files become `RawCase` records. They may name the
patient."""
