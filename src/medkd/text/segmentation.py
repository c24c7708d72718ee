"""Loads jieba, which cuts Chinese text into words.

Out: the module, silent, its dictionary's cache in a folder of this user's own: jieba unmarshals the
cache, and any other user could put one into the shared folder for temporary files.
"""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Any, cast


def cache_dir() -> Path:
    """Return this user's own folder for what can be made again, and make it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "medkd"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


@cache
def load_jieba() -> Any:
    """Import jieba and set it up, once a process."""
    import jieba  # pyright: ignore[reportMissingTypeStubs]

    jieba.setLogLevel(logging.CRITICAL)
    try:
        folder = str(cache_dir())
    except OSError:  # without a cache the dictionary is read anew each time
        folder = os.devnull
    cast(Any, jieba.dt).tmp_dir = folder
    return jieba
