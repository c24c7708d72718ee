"""What tests look up in a ledger."""

from pathlib import Path

from medkd.completers.accounts import open_accounts
from medkd.completers.attempts import Attempt


def list_attempts(path: Path) -> list[Attempt]:
    """Give all attempts of a ledger, the oldest first."""
    with open_accounts(path) as accounts:
        return list(accounts.attempts())


def count_missing(path: Path) -> int:
    with open_accounts(path) as accounts:
        return accounts.count_missing()
