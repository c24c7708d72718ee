"""Bytes of a file to text: UTF-8, UTF-16 with its mark, GB18030 (and so GBK and GB2312); a page may
name its own.

Not done here: what the text means (`files`, `tables`, `saved`).
"""

import re
from pathlib import Path

from medkd.core.errors import InputError, from_os_error

_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{2,20})", re.IGNORECASE
)
_CHINESE = {"gb2312", "gbk", "gb18030", "x-gbk"}
_MAX_BAD = 0.01
"""Share of bad characters up to which a text is still UTF-8, with damage."""


def read_bytes(path: Path) -> bytes:
    """Read a whole file; raises InputError where it is empty or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty; check --input")
    return content


def decode(content: bytes, path: Path) -> str:
    """Decode a file's text; single bad bytes in UTF-8 do not make it GB18030."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    text = content.decode("utf-8-sig", "replace")
    if text.count("\ufffd") > _MAX_BAD * len(text):
        try:
            return content.decode("gb18030")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: neither UTF-8 nor GB18030 text; export it again as UTF-8"
            ) from error
    return text


def decode_page(content: bytes) -> str:
    """Decode a saved page as it says of itself, where that is true; never fails."""
    named = _CHARSET.search(content[:4096])
    if named and named[1].decode().lower() in _CHINESE:
        text = content.decode("gb18030", "replace")
        if text.count("\ufffd") <= _MAX_BAD * len(text):
            return text
    try:
        return decode(content, Path("page"))
    except InputError:
        return content.decode("gb18030", "replace")
