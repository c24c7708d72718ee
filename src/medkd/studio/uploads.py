"""Files that a browser hands over: checked for what they say they are, kept below the runs.

In: the files of a form. Out: their path under `uploads`. Nothing that is there is ever overwritten.
Not done here: reading cases from them (`collect.files`).
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from medkd.core.errors import InputError
from medkd.studio.workspace import UPLOADS

MAX_BYTES = 200 * 2**20
KINDS = {
    ".json": "text",
    ".jsonl": "text",
    ".csv": "text",
    ".tsv": "text",
    ".html": "text",
    ".htm": "text",
    ".xhtml": "text",
    ".xlsx": "zip",
    ".parquet": "parquet",
}
"""Suffix to the form of a file's content."""
_BEGINNINGS = {"zip": b"PK\x03\x04", "parquet": b"PAR1"}
_HEAD_BYTES = 4096
_UNSAFE = re.compile(r"[^\w.\- ()（）]")
_MAX_NAME = 100


class Upload(NamedTuple):
    """One file of a form."""

    name: str
    """As the browser says it; a file of a folder with its path in it."""
    size: int
    content: IO[bytes]


def keep(files: Sequence[Upload], runs: Path) -> Path:
    """Keep a file, or several in a folder of their own; returns its path.

    Raises InputError for a file that is none of the known kinds, too large, or there already.
    """
    files = [
        file for file in files if file.name and not Path(file.name).name.startswith((".", "~$"))
    ]
    if not files:
        raise InputError("no file was chosen")
    if sum(file.size for file in files) > MAX_BYTES:
        raise InputError(f"more than {MAX_BYTES // 2**20} MB; put the files into a --data folder")
    for file in files:
        check_kind(file)
    top = runs / UPLOADS
    first = Path(file_name) if "/" in (file_name := files[0].name) else Path()
    folder = clean_name(first.parts[0]) if first.parts else "cases"
    if len(files) == 1:
        target = top / clean_name(Path(files[0].name).name)
        if target.exists():
            raise InputError(f"{target.name} is there already; rename the file and choose it again")
        _write(files[0], target)
        return target
    target = _find_free(top / folder)
    for number, file in enumerate(files):
        path = target / clean_name(Path(file.name).name)
        _write(file, path if not path.exists() else path.with_stem(f"{path.stem}-{number}"))
    return target


def clean_name(name: str) -> str:
    r"""Make a name that is one part of a path and nothing else.

    >>> clean_name("../../etc/passwd"), clean_name("病例 1.csv"), clean_name("a\x00.json")
    ('passwd', '病例 1.csv', 'a_.json')
    """
    plain = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    plain = _UNSAFE.sub("_", plain).strip(" .-")
    stem, dot, suffix = plain.rpartition(".")
    return (
        f"{(stem or 'file')[:_MAX_NAME]}{dot}{suffix[:10]}" if dot else plain[:_MAX_NAME] or "file"
    )


def check_kind(file: Upload) -> None:
    """Raise InputError for a file that is not what its name says."""
    kind = KINDS.get(Path(file.name).suffix.lower())
    shown = clean_name(file.name)
    if kind is None:
        known = ", ".join(sorted({suffix[1:] for suffix in KINDS}))
        raise InputError(f"{shown}: no file of cases; known are {known}")
    head = file.content.read(_HEAD_BYTES)
    file.content.seek(0)
    is_text = b"\0" not in head.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16, which spreadsheets export
        is_text = True
    if not (is_text if kind == "text" else head.startswith(_BEGINNINGS[kind])):
        raise InputError(f"{shown}: is not what its name says; export the file again")


def _find_free(folder: Path) -> Path:
    names = (folder if n == 1 else folder.with_name(f"{folder.name}-{n}") for n in range(1, 10_000))
    return next(path for path in names if not path.exists())


def _write(file: Upload, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        while chunk := file.content.read(2**20):
            target.write(chunk)
