"""From raw cases to de-identified ones: the only door through which patient text may go further."""
