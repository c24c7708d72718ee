"""The foundation every floor stands on: records, artifacts, recipes, the thinking format, errors.
No torch, no network."""
