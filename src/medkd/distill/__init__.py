"""A teacher explains: from questions to rationales, every attempt on a ledger, and the bill of it.

Not done here: judging the rationales (`verify`).
"""
