"""Hashes in the place of ids that may name a patient.

In: an id. Out: its hash, salted with a secret that stays beside the raw cases in
`private_ids.json`, with the pairs. Not done here: telling which ids are private (`replace`).
"""

import hmac
import json
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medkd.core.errors import InputError, from_os_error
from medkd.core.jsonl import first_problem, write_text

FILE_NAME = "private_ids.json"


class _Pairs(BaseModel):
    """The content of `private_ids.json`."""

    model_config = ConfigDict(extra="forbid")
    salt: str
    ids: dict[str, str] = {}


class PrivateIds:
    """The hashes of a directory of raw cases.

    The file is made when the first id needs it. The same directory gives the same hashes again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pairs: _Pairs | None = None

    def hash(self, native: str) -> str:
        """Hash an id without its source; note the pair."""
        pairs = self._pairs = self._pairs or self._load()
        digest = hmac.new(bytes.fromhex(pairs.salt), native.encode("utf-8", "replace"), "sha256")
        return pairs.ids.setdefault(native, f"id{digest.hexdigest()[:16]}")

    def save(self) -> None:
        """Write the pairs, readable by their owner alone."""
        if self._pairs is not None:
            text = json.dumps(self._pairs.model_dump(), ensure_ascii=False)
            write_text(self.path, text + "\n", private=True)

    def _load(self) -> _Pairs:
        try:
            pairs = _Pairs.model_validate_json(self.path.read_bytes())
            bytes.fromhex(pairs.salt)
            return pairs
        except FileNotFoundError:
            self._pairs = _Pairs(salt=secrets.token_hex(32))
            self.save()  # before any hash leaves, so that no other salt follows a killed run
            return self._pairs
        except OSError as error:
            raise from_os_error(error, self.path) from error
        except (ValidationError, ValueError) as error:
            what = first_problem(error) if isinstance(error, ValidationError) else "salt is no hex"
            raise InputError(
                f"{self.path}: {what}; it holds the salt of earlier runs: put the right file back, "
                "or move it away to begin with new hashes"
            ) from error
