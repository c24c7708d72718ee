"""One patient, one shift, one surrogate: what a secret decides for a patient across notes and runs,
and the sealed way back.

In: a secret of the house and a patient's key. Out: numbers that nobody can compute without it; a
map that nobody can open without it. Not done here: keeping the secret; it is never written.
"""

import base64
import hmac
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import write_text

VARIABLE = "MEDKD_DEID_SECRET"
_SHORTEST = 16


class Patient(NamedTuple):
    """A patient whom the house knows by a key, and the house's secret."""

    secret: bytes
    key: str

    def draw(self, what: str) -> int:
        """Draw the number that belongs to something of this patient: a date offset, a name."""
        message = f"{self.key}\0{what}".encode("utf-8", "replace")
        return int.from_bytes(hmac.digest(self.secret, message, "sha256")[:8])


def read_secret(path: Path | None) -> bytes:
    """Read the secret from a file, else from the environment; raise InputError without one."""
    if path is None:
        secret = os.environ.get(VARIABLE, "").strip().encode()
        place = f"the variable {VARIABLE}"
    else:
        place = str(path)
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise from_os_error(error, path) from error
    if len(secret) < _SHORTEST:
        raise InputError(
            f"{place}: a secret of at least {_SHORTEST} characters is needed for --patient-key and "
            f"--map; set {VARIABLE} or pass --secret-file"
        )
    return secret


def _fernet(secret: bytes) -> Any:
    from cryptography.fernet import Fernet

    return Fernet(base64.urlsafe_b64encode(hmac.digest(secret, b"map", "sha256")))


def seal_map(path: Path, secret: bytes, rows: Iterable[dict[str, Any]]) -> None:
    """Write which surrogate stands for what in each case, sealed; only its owner may read it."""
    content = json.dumps(list(rows), ensure_ascii=False).encode("utf-8", "replace")
    write_text(path, _fernet(secret).encrypt(content).decode() + "\n", private=True)


def open_map(path: Path, secret: bytes) -> list[dict[str, Any]]:
    """Read a sealed map: for each case its `id`, `days` and `surrogates`."""
    from cryptography.fernet import InvalidToken

    try:
        content = _fernet(secret).decrypt(path.read_bytes().strip())
    except OSError as error:
        raise from_os_error(error, path) from error
    except InvalidToken as error:
        raise InputError(f"{path}: another secret sealed it, or it was changed") from error
    return cast(list[dict[str, Any]], json.loads(content))
