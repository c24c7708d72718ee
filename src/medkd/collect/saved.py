"""Saved pages of the case site: the bytes of a file in, a `RawCase` or None out.

Not done here: reading the layouts (`pages`), walking a folder (`files`).
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from medkd.collect.encodings import decode_page
from medkd.collect.pages import native_id_of, parse_case
from medkd.collect.sections import SectionNames
from medkd.core.records import RawCase

_ADDRESS = re.compile(
    r"saved from url=\(\d{1,6}\)(?P<saved>\S{1,500})|"
    r"<link[^>]{0,200}?rel=[\"']?canonical[\"']?[^>]{0,200}?href=[\"'](?P<link>[^\"']{1,500})|"
    r"<meta[^>]{0,200}?property=[\"']og:url[\"'][^>]{0,200}?content=[\"'](?P<meta>[^\"']{1,500})",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<!\d)(\d{2,12})(?:-\d{1,3})?$")
_LONGEST_HEAD = 20_000
MAX_BYTES = 16 * 2**20
"""A saved page longer than this is none."""


def read_saved_page(path: Path, content: bytes, names: SectionNames) -> RawCase | None:
    """Read a case from a saved page, its address from what the browser noted in it, else its id
    from the file's name."""
    if len(content) > MAX_BYTES:
        return None
    html = decode_page(content)
    url = next(
        (
            address
            for found in _ADDRESS.finditer(html[:_LONGEST_HEAD])
            for address in found.groups()
            if address
        ),
        "",
    )
    stem = path.stem.strip()
    number = _NUMBER.search(stem)
    native_id = native_id_of(url) or (number[1] if number else stem)
    saved_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return parse_case(html, native_id, url, saved_at, names)
