"""What tests look up in a ledger."""

from pathlib import Path

from medkd.completers.ledger import Attempt, open_reader


def list_attempts(path: Path) -> list[Attempt]:
    """Return all attempts of a ledger, the oldest first."""
    with open_reader(path) as accounts:
        return list(accounts.attempts())
