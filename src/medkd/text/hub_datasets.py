"""Datasets on a hub: `hf:owner/name`, `ms:owner/name`.

In: names, with `/FILE` behind them where only some files are wanted (`*` may stand in it), or
`:SPLIT` for those with that word in their name. Out:
local files, from `datasets/` or the cache of the hub's own client: no code of a dataset is run. Not
done here: reading them (`text.tables`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

from medkd.core.errors import InputError

DATASETS = Path("datasets")
"""Folder of the working directory in which files fetched by hand are looked for first."""
SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
_NAME = re.compile(
    r"(?P<hub>hf|ms):(?P<dataset>[\w.-]+/[\w.-]+)(?:/(?P<file>.+)|:(?P<split>[\w.-]+))?"
)
_NO_DATA = {
    "dataset_infos.json",
    "dataset_info.json",
    "package.json",
    "config.json",
    "configuration.json",
}
_SHARD = re.compile(r"[-_]\d{3,}-of-\d{3,}")


class UnreachableError(InputError):
    """A dataset that its hub does not give."""


def fetch_all(names: Iterable[str]) -> dict[str, list[Path]]:
    """Fetch the files of several datasets; where hubs do not give some, raises one InputError that
    names every file to fetch by hand, and where to put it."""
    found: dict[str, list[Path]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            found[name] = fetch(name)
        except UnreachableError as error:
            missing[name] = str(error)
    if missing:
        todo = "; ".join(_say_by_hand(name) for name in missing)
        raise InputError(
            "{}; check the name and the network (HF_ENDPOINT names a mirror), or "
            "fetch by hand: {}; then run this again",
            next(iter(missing.values())),
            todo,
        )
    return found


def _say_by_hand(name: str) -> str:
    match = _match_name(name)
    dataset, file = match["dataset"], match["file"]
    site, branch = (
        ("huggingface.co", "main") if match["hub"] == "hf" else ("modelscope.cn", "master")
    )
    page = f"https://{site}/datasets/{dataset}"
    address = f"{page}/resolve/{branch}/{file}" if file else f"the data file of {page}"
    return f"{address} to {DATASETS / dataset / (file or '')}"


def _match_name(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    if not match:
        raise InputError(
            "{}: no name of a dataset; write hf:owner/name or ms:owner/name, and "
            "/FILE behind it for one file of several",
            name,
        )
    return match


def fetch(name: str, preferred: str = "") -> list[Path]:
    """Find the data files of a dataset in `DATASETS`, or fetch them; raises InputError where there
    are none, or several and neither is one named nor has one the preferred word in its name."""
    match = _match_name(name)
    wanted = match["file"] or (f"*{match['split']}*" if match["split"] else None)
    by_hand = DATASETS / match["dataset"]
    if by_hand.is_dir() and (not wanted or any(by_hand.glob(wanted))):
        return choose_files(by_hand, name, wanted or "", preferred)
    patterns = [wanted] if wanted else [f"*{suffix}" for suffix in SUFFIXES]
    folder = (_fetch_from_huggingface if match["hub"] == "hf" else _fetch_from_modelscope)(
        name, match["dataset"], patterns
    )
    return choose_files(folder, name, wanted or "", preferred)


def choose_files(folder: Path, name: str, wanted: str = "", preferred: str = "") -> list[Path]:
    """Choose the data files in a dataset's folder: those wanted, or the only one there is, its
    shards counted as one; of several, those with the preferred word in their name."""
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
            "{}: no {} file{} in it; look at the dataset's page",
            name,
            ", ".join(SUFFIXES),
            f" named {wanted}" if wanted else "",
        )
    files = {_SHARD.sub("", key) for key in names}
    named = {key: path for key, path in names.items() if preferred and preferred in key}
    if len(files) > 1 and not wanted and named:
        return list(named.values())
    if len(files) > 1 and not wanted:
        raise InputError(
            "{0}: holds several files ({1}); name one, as in {0}/{2}",
            name,
            ", ".join(sorted(files)[:8]),
            min(files),
        )
    return list(names.values())


def _fetch_from_huggingface(name: str, dataset: str, patterns: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UnreachableError(
            "{}: the huggingface_hub package is missing (pip install huggingface_hub)", name
        ) from error
    return _download(
        name, lambda: snapshot_download(dataset, repo_type="dataset", allow_patterns=list(patterns))
    )


def _fetch_from_modelscope(name: str, dataset: str, patterns: Sequence[str]) -> Path:
    try:
        from modelscope import dataset_snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnreachableError(
            "{}: the modelscope package is missing (pip install modelscope)", name
        ) from error
    return _download(
        name,
        lambda: str(cast(Any, dataset_snapshot_download)(dataset, allow_patterns=list(patterns))),
    )


def _download(name: str, download: Callable[[], str]) -> Path:
    try:
        return Path(download())
    except Exception as error:
        reason = shorten(str(error), 120, placeholder=" …") or type(error).__name__
        raise UnreachableError("{}: cannot be fetched ({})", name, reason) from error
