"""Rows that de-identification did not make reach no network model unless a person says so."""

import pytest

from medkd.core.errors import InputError
from medkd.core.privacy import check_deidentified


def test_one_row_without_a_mark_is_refused_and_counted():
    with pytest.raises(InputError, match=r"rows\.jsonl: 1 of 3 rows .*--accept-identified"):
        check_deidentified(["rules 3", "", "rules 3"], "rows.jsonl", "the endpoint", False)


def test_accepted_rows_are_counted():
    assert check_deidentified(["", "", "rules 3"], "rows.jsonl", "the judge", True) == 2
