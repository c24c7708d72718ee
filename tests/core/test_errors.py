import errno
from pathlib import Path

import pytest

from medkd.core.errors import (
    HumanActionRequiredError,
    InputError,
    MedkdError,
    ProofError,
    StoppedError,
    from_os_error,
)


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 3, "the disk is full"),
        (errno.EDQUOT, 3, "the disk is full"),
        (errno.EFBIG, 3, "the disk is full"),
        (errno.ENOENT, 2, "no such file or directory"),
        (errno.EACCES, 2, "permission denied"),
        (errno.EROFS, 2, "permission denied"),
        (errno.EADDRINUSE, 2, "the port is taken"),
        (errno.EIO, 3, "run the same command again"),
    ],
)
def test_a_system_error_becomes_one_line_with_place_and_next_step(
    number: int, code: int, says: str
) -> None:
    error = from_os_error(OSError(number, "what the system says"), Path("runs/demo/cases.jsonl"))
    assert error.exit_code == code
    assert says in str(error)
    assert str(error).startswith("runs/demo/cases.jsonl: ")
    assert "; " in str(error)
    assert "\n" not in str(error)


def test_the_place_that_the_system_names_wins() -> None:
    assert str(from_os_error(OSError(errno.ENOENT, "", "there"), "here")).startswith("there: ")


def test_what_is_resumable_exits_with_3_and_what_is_unusable_with_2() -> None:
    assert [kind("").exit_code for kind in (MedkdError, InputError)] == [2, 2]
    assert [
        kind("").exit_code for kind in (StoppedError, ProofError, HumanActionRequiredError)
    ] == [
        3,
        3,
        3,
    ]
