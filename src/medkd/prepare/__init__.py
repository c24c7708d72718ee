"""From de-identified cases to questions that do not hold their own answer."""
