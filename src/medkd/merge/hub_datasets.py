"""Fetches a dataset's files from a hub: `hf:owner/name` from Hugging Face, `ms:owner/name` from
ModelScope.

In: such a name, with `/FILE` behind it where only some files are wanted (`*` may stand in it). Out:
local files, from the cache of the hub's own client. The files themselves are read: no code of a
dataset is run, and the manifest holds their hashes.
Not done here: reading them (`text.tables`).
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from medkd.core.errors import InputError

SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
_NAME = re.compile(r"(?P<hub>hf|ms):(?P<dataset>[\w.-]+/[\w.-]+)(?:/(?P<file>.+))?")
_NO_DATA = {
    "dataset_infos.json",
    "dataset_info.json",
    "package.json",
    "config.json",
    "configuration.json",
}
_SHARD = re.compile(r"[-_]\d{3,}-of-\d{3,}")


def fetch(name: str) -> list[Path]:
    """Fetch the data files of a dataset; raises InputError where there are none, or several and
    none is named."""
    match = _NAME.fullmatch(name)
    if not match:
        raise InputError(
            f"{name}: no name of a dataset; write hf:owner/name or ms:owner/name, and /FILE "
            "behind it for one file of several"
        )
    wanted = match["file"]
    patterns = [wanted] if wanted else [f"*{suffix}" for suffix in SUFFIXES]
    folder = (_fetch_from_huggingface if match["hub"] == "hf" else _fetch_from_modelscope)(
        name, match["dataset"], patterns
    )
    return choose_files(folder, name, wanted or "")


def choose_files(folder: Path, name: str, wanted: str = "") -> list[Path]:
    """Choose the data files in a dataset's folder: those wanted, or the only one there is, its
    shards counted as one."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.name not in _NO_DATA
    )
    names = {
        path.relative_to(folder).as_posix(): path
        for path in found
        if not path.relative_to(folder).as_posix().startswith(".")
    }
    if wanted:
        names = {key: path for key, path in names.items() if fnmatch(key, wanted)}
    if not names:
        raise InputError(
            f"{name}: no {', '.join(SUFFIXES)} file{f' named {wanted}' if wanted else ''} in it; "
            "look at the dataset's page"
        )
    files = {_SHARD.sub("", key) for key in names}
    if len(files) > 1 and not wanted:
        raise InputError(
            f"{name}: holds several files ({', '.join(sorted(files)[:8])}); name one, as in "
            f"{name}/{min(files)}"
        )
    return list(names.values())


def _fetch_from_huggingface(name: str, dataset: str, patterns: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(
            f"{name}: the huggingface_hub package is missing; pip install huggingface_hub"
        ) from error
    return _download(
        name, lambda: snapshot_download(dataset, repo_type="dataset", allow_patterns=list(patterns))
    )


def _fetch_from_modelscope(name: str, dataset: str, patterns: Sequence[str]) -> Path:
    try:
        from modelscope import dataset_snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{name}: the modelscope package is missing; pip install modelscope"
        ) from error
    return _download(
        name, lambda: str(dataset_snapshot_download(dataset, allow_patterns=list(patterns)))
    )


def _download(name: str, download: Callable[[], str]) -> Path:
    try:
        return Path(download())
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{name}: cannot be fetched ({reason}); check the name and the network, or give a "
            "local file"
        ) from error
