"""Finds the files that are to be merged, says where their rows come from, and reads them.

In: what the user gave: directories of stages, files, names on a hub. Out: `Source`s, and their rows
one by one.
Not done here: what a row means (`merge.rows`), how a file is read (`merge.files`).
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import cast

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.progress import Bar
from medkd.core.yaml_io import read_shipped_yaml
from medkd.merge.files import name_fields, read_rows
from medkd.merge.hubs import fetch, is_hub_name
from medkd.merge.rows import Origin, Row, read_row
from medkd.merge.schemas import FOREIGN, OWN, Drop, describe_schemas
from medkd.merge.spool import SPLITS

MAX_WARNINGS = 10
"""Broken lines named on the screen for one file; all are counted."""


def find_sources(given: Sequence[Path], schemas: Sequence[str]) -> list[Origin]:
    """Name every file that is meant, each once, and where its rows come from; raises InputError for
    what is not there."""
    origins: dict[Path, Origin] = {}
    for one in given:
        hub = str(one) if is_hub_name(one) else ""
        for path in fetch(hub) if hub else _find_files(one):
            origins.setdefault(path.resolve(), find_origin(path, hub))
    return _say_schemas(list(origins.values()), schemas)


def find_benchmarks(given: Sequence[Path]) -> list[Path]:
    """Name the files of benchmarks: files themselves, the questions of a stage's directory, or a
    dataset on a hub."""
    found: list[Path] = []
    for one in given:
        if is_hub_name(one):
            found.extend(fetch(str(one)))
        elif (one / "test.jsonl").exists():
            found.append(one / "test.jsonl")
        else:
            found.append(resolve_input(one, "questions.jsonl", made_by="prepare"))
    return found


def _find_files(given: Path) -> list[Path]:
    """Name the files meant by one `--input`: itself, or what an earlier stage wrote in that
    directory."""
    if not given.is_dir():
        return [resolve_input(given, "", made_by="verify")]
    splits = [given / f"{split}.jsonl" for split in SPLITS]
    if any(path.exists() for path in splits):
        return [path for path in splits if path.exists() and path.stat().st_size]
    if (given / "rationales.jsonl").exists() and not (given / "verified.jsonl").exists():
        return [resolve_input(given, "rationales.jsonl", made_by="distill")]
    return [resolve_input(given, "verified.jsonl", made_by="verify")]


def find_origin(path: Path, hub: str = "") -> Origin:
    """Say where the rows of a file come from, as far as its name or that of its dataset tells."""
    for part, source in _known_sources().items():
        if part in path.name:
            return Origin(path, source["name"], source["url"], source["licence"])
    if hub:
        owner, name = hub[3:].split("/")[:2]
        site = (
            "https://huggingface.co/datasets"
            if hub.startswith("hf:")
            else "https://modelscope.cn/datasets"
        )
        return Origin(path, name, f"{site}/{owner}/{name}")
    return Origin(path, path.stem)


@cache
def _known_sources() -> dict[str, dict[str, str]]:
    return cast(dict[str, dict[str, str]], read_shipped_yaml("medkd.merge", "sources.yaml"))


def _say_schemas(origins: list[Origin], schemas: Sequence[str]) -> list[Origin]:
    """Set the schemas that were said: `NAME` for all files, `FILE=NAME` for one."""
    for said in schemas:
        file, _, schema = said.rpartition("=")
        known = [*FOREIGN, *OWN]
        if schema not in known:
            raise InputError(
                f"--schema {said}: no schema {schema!r}{did_you_mean(schema, known)}; known: {', '.join(known)}"
            )
        meant = [
            place
            for place, origin in enumerate(origins)
            if not file or file in {origin.path.name, str(origin.path)}
        ]
        if not meant:
            raise InputError(
                f"--schema {said}: no --input is called {file!r}; given: {', '.join(o.path.name for o in origins)}"
            )
        for place in meant:
            origins[place] = origins[place]._replace(schema=schema)
    return origins


def read_takes(takes: Sequence[str], sources: Sequence[str]) -> Mapping[str, float]:
    """Read `SOURCE=NUMBER`, a share up to 1 or a number of rows; raises InputError for a source
    that gave no row."""
    found: dict[str, float] = {}
    for take in takes:
        source, _, number = take.rpartition("=")
        try:
            found[source] = float(number)
        except ValueError as error:
            raise InputError(
                f"--take {take}: {number!r} is no number; write it as {source or 'SOURCE'}=0.5 or =5000"
            ) from error
        if source not in sources:
            raise InputError(
                f"--take {take}: no row comes from {source!r}{did_you_mean(source, list(sources))}; sources: {', '.join(sources)}"
            )
        if not found[source] >= 0:
            raise InputError(f"--take {take}: a share or a number of rows cannot be negative")
    return found


def read_source(
    origin: Origin, repairs: Counter[str], put: Callable[[Row], None]
) -> tuple[int, Counter[Drop]]:
    """Put the rows of one file of any schema where they go; gives how many there were, and the lost
    ones by reason.

    Raises InputError where no row has the fields of a known schema.
    """
    path = origin.path
    dropped = Counter[Drop]()
    fields: list[str] = []
    n_read = 0
    with Bar(f"read {path.name}") as bar:
        for number, content in read_rows(path):
            n_read += 1
            found = read_row(content, origin, repairs)
            if isinstance(found, Row):
                put(found)
            else:
                dropped[found] += 1
                fields = fields or name_fields(content)
                if found is Drop.BROKEN and dropped[found] <= MAX_WARNINGS:
                    print(
                        f"warning: {path.name}:{number}: broken row; passed over", file=sys.stderr
                    )
            bar.advance()
    if dropped[Drop.BROKEN] > MAX_WARNINGS:
        print(f"warning: {path.name}: {dropped[Drop.BROKEN]} broken rows in all", file=sys.stderr)
    if dropped[Drop.UNKNOWN_SCHEMA] + dropped[Drop.NO_OBJECT] + dropped[Drop.BROKEN] == n_read:
        expected = describe_schemas([origin.schema] if origin.schema else ())
        raise InputError(
            f"{path}: no known schema; found fields: {', '.join(fields) or 'none'}; expected {expected}"
        )
    return n_read, dropped
