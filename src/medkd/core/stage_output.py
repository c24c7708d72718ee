"""A stage's output directory: its lock, its manifest, and which files in it are the stage's own.

In: a stage's config, its inputs by role, the names it writes. Out: an open directory that is new,
unfinished or finished. Not done here: the form of the records in it (`core.jsonl`).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ValidationError

from medkd import __version__
from medkd.core.config import StageConfig
from medkd.core.errors import InputError, MedkdError, from_os_error, is_disk_full
from medkd.core.i18n import get_spoken
from medkd.core.jsonl import (
    MANIFEST,
    RecordWriter,
    Shard,
    first_problem,
    hash_path,
    list_parts,
    sweep_leftovers,
    write_text,
)
from medkd.core.parallel import DoneWork
from medkd.core.progress import warn_large_drops
from medkd.core.records import Cost, Record

WAIT_S = 10.0
"""How long a second process waits for a directory before it is refused."""
LOCK_POLL_S = 0.1
DONE = ".done"
"""Name of the file of what is done of unfinished work."""
_HOW = {"engine", "shard_rows", *StageConfig.model_fields}
Inputs = Mapping[str, Path | Sequence[Path]]
"""Role (`input`, `against`) to the path or the paths in it, in order."""


class Counts(BaseModel):
    """Records in, kept, and dropped by reason."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}


class Manifest(BaseModel):
    """The record of a stage's work: enough to decide whether to repeat it, and to trace numbers."""

    stage: str
    state: Literal["running", "stopped", "finished"] = "running"
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    """Path to sha256."""
    roles: dict[str, list[str]] = {}
    """Role to its paths, in order; empty in manifests of version 0.1."""
    names: dict[str, list[str]] = {}
    """Role to the names of its inputs, where the result depends on them."""
    counts: Counts = Counts()
    facts: dict[str, Any] = {}
    """What else the stage reports: rates, findings, repairs."""
    cost: Cost = Cost()
    outputs: list[str] = []
    """Files that this stage wrote; version 0.1 listed every file it found."""
    shards: dict[str, Shard] = {}
    """Parts among them."""
    versions: dict[str, str] = {}
    started_at: str = ""
    seconds: float = 0.0

    def describe_counts(self) -> str:
        """Say how many records came in, were kept, and were dropped for each reason."""
        texts, counts = get_spoken(), self.counts
        said = texts.of("cli", "{read} in, {kept} kept", read=counts.read, kept=counts.kept)
        return said + "".join(
            texts.of("cli", ", {n} {reason}", n=n, reason=texts.word("reason", reason))
            for reason, n in counts.dropped.items()
        )


class StageOutput:
    """A stage's output directory while the stage works on it; made by `open_stage_output`."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        writes: Sequence[str] = (),
        foreign: Collection[str] = (),
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self._writes = writes
        self._foreign = frozenset(foreign)
        self._dropped: Counter[str] = Counter()
        self.next_steps: Mapping[Any, str] = {}
        """What to do where a large share of the records is dropped for a reason; said at the
        end."""
        self._started = time.monotonic()

    @property
    def is_finished(self) -> bool:
        """Whether this very work is already done and only needs to be read."""
        return self.manifest.state == "finished"

    def path(self, name: str) -> Path:
        return self.directory / name

    def read(self, n: int) -> None:
        """Count records that were read."""
        self.manifest.counts.read += n

    def drop(self, reason: str, n: int = 1) -> None:
        """Count records that were dropped."""
        self.drop_all({reason: n})

    def drop_all(self, reasons: Mapping[str, int]) -> None:
        """Count dropped records of several reasons."""
        self._dropped.update({str(reason): n for reason, n in reasons.items() if n})

    def open_done_work(self) -> DoneWork:
        """Name the file of what is done of this very work; it goes when the work is finished."""
        decisive = {k: v for k, v in self.manifest.config.items() if k not in _HOW}
        roles = list(_list_hashes(self.manifest).items())
        content = [decisive, roles, self.manifest.names, self.manifest.versions]
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return DoneWork(self.path(DONE), key)

    @contextmanager
    def open_records(self, name: str) -> Generator[RecordWriter]:
        """Open a file of records, or its parts where the config has `shard_rows`."""
        with RecordWriter(self.path(name), self.manifest.config.get("shard_rows", 0)) as writer:
            yield writer
        self.manifest.shards |= writer.shards

    def write_records(self, name: str, records: Iterable[Record]) -> int:
        with self.open_records(name) as writer:
            for record in records:
                writer.add(record)
        return writer.n

    def save(self) -> None:
        """Write the manifest as it stands."""
        write_text(self.path(MANIFEST), self.manifest.model_dump_json(indent=2) + "\n")

    def close(self, state: Literal["stopped", "finished"]) -> None:
        """Record how the work ended; `open_stage_output` does this."""
        self.manifest.state = state
        self.manifest.seconds = round(self.manifest.seconds + time.monotonic() - self._started, 3)
        counts = self.manifest.counts
        counts.dropped = dict(self._dropped.most_common())
        if state == "finished":
            self.path(DONE).unlink(missing_ok=True)
            warn_large_drops(self.manifest.stage, counts.read, counts.dropped, self.next_steps)
        self.manifest.outputs = sorted(
            name
            for name in _find_written(self.directory, self._writes)
            if name not in self._foreign and not _is_hidden(name)
        )
        self.save()


@contextmanager
def open_stage_output(
    stage: str,
    config: StageConfig,
    inputs: Inputs,
    writes: Sequence[str],
    libraries: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    follows_inputs: bool = False,
    wait_s: float = WAIT_S,
) -> Generator[StageOutput, None, None]:
    """Open a stage's `--out` for work, and close it with a record of how the work ended.

    `writes` lists what the stage may write, as patterns of names in the directory (`train.jsonl`;
    `adapter` with all that is in it). Nothing else in the directory is ever changed or deleted. A
    directory of the same config and inputs is continued, or is finished. One of another config is
    refused unless `--resume` (continue all the same) or `--overwrite` (delete what the stage wrote
    and begin again). `names` holds, by role, names of inputs on which the result depends.
    `follows_inputs` lets a stage whose work is keyed by content continue when its inputs changed.
    """
    directory, writes = config.out, (*writes, DONE)
    if directory.exists() and not directory.is_dir():
        raise InputError("{}: is a file; choose a directory for --out", directory)
    manifest = _make_manifest(stage, config, inputs, names or {})
    with hold_directory(directory, wait_s):
        previous = find_manifest(directory)
        is_same = previous is not None and _is_same_work(previous, manifest, config, follows_inputs)
        if previous is not None and previous.stage != stage:
            raise InputError(
                "{}: holds the output of {}; choose another --out", directory, previous.stage
            )
        if previous is None or not is_same or config.overwrite:
            _refuse_inputs_inside(directory, manifest)
        if previous is None:
            _refuse_foreign(directory, stage, writes)
        elif is_same and not config.overwrite:
            if previous.state == "finished" and (
                not follows_inputs or _have_same_content(previous, manifest)
            ):
                yield StageOutput(directory, previous)
                return
            manifest.seconds = previous.seconds
        elif config.overwrite:
            _delete_outputs(directory, previous, manifest, writes)
        elif not config.resume:
            raise InputError(
                "{}: was made with another config or input ({}); continue with --resume, "
                "begin again with --overwrite, or choose another --out",
                directory,
                _find_difference(previous, manifest, config),
            )
        foreign = _find_foreign(directory, previous, writes) if previous else set[str]()
        output = StageOutput(directory, manifest, writes, foreign)
        yield from _work(output, libraries, is_new=previous is None)


def _work(
    output: StageOutput, libraries: Sequence[str], is_new: bool
) -> Generator[StageOutput, None, None]:
    directory, manifest = output.directory, output.manifest
    manifest.started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    manifest.versions = _list_versions(libraries)
    sweep_leftovers(directory)
    output.save()
    try:
        yield output
    except BaseException as error:
        # A disk too full for the manifest leaves the state "running", which is continued too.
        with contextlib.suppress(Exception):
            output.close("stopped")
        if isinstance(error, InputError) and is_new:
            _remove_if_bare(directory)
        if is_disk_full(error) and not isinstance(error, MedkdError | OSError):
            raise from_os_error(OSError(errno.ENOSPC, "full"), directory) from error
        raise
    output.close("finished")


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a stage's directory; raises InputError where there is none."""
    manifest = find_manifest(directory)
    if manifest is None:
        raise InputError("{}: no {}; is it the --out of a stage?", directory, MANIFEST)
    return manifest


def is_finished(directory: Path) -> bool:
    """Tell whether a directory holds the finished output of a stage."""
    manifest = find_manifest(directory)
    return manifest is not None and manifest.state == "finished"


def find_manifest(directory: Path) -> Manifest | None:
    """Read the manifest of a stage's directory; None where there is none."""
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValidationError as error:
        raise InputError(
            "{}: {}; move the directory away or choose another --out", path, first_problem(error)
        ) from error


# One process at a time.


@contextmanager
def hold_directory(directory: Path, wait_s: float) -> Generator[None]:
    """Hold a directory, making it; raises InputError where another process holds it for too long.

    The lock ends with the process, however that ends; on a file system without locks there is none.
    """
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise from_os_error(error, directory) from error
    try:
        _wait_for_lock(handle, directory, wait_s)
        yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # refused, and nothing was written
                directory.rmdir()
        os.close(handle)


def _wait_for_lock(handle: int, directory: Path, wait_s: float) -> None:
    deadline, is_told = time.monotonic() + wait_s, False
    while not _take_lock(handle):
        if time.monotonic() > deadline:
            raise InputError(
                "{}: another process is working here; wait until it has ended, stop it, "
                "or choose another --out",
                directory,
            )
        if not is_told:
            print(f"{directory}: waiting for another process", file=sys.stderr, flush=True)
            is_told = True
        time.sleep(LOCK_POLL_S)


def _take_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def is_locked(directory: Path) -> bool:
    """Tell whether a process is working in a stage's directory."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return not _take_lock(handle)
    finally:
        os.close(handle)


# What decides the work.


def _make_manifest(
    stage: str, config: StageConfig, inputs: Inputs, names: Mapping[str, Sequence[str]]
) -> Manifest:
    roles = {
        role: [
            part
            for path in ([given] if isinstance(given, Path) else given)
            for part in list_parts(path) or [path]
        ]
        for role, given in inputs.items()
    }
    hashes = {str(path): hash_path(path, config.out) for paths in roles.values() for path in paths}
    return Manifest(
        stage=stage,
        config=config.model_dump(mode="json"),
        inputs=hashes,
        roles={role: list(map(str, paths)) for role, paths in roles.items()},
        names={role: list(listed) for role, listed in names.items()},
    )


def _list_hashes(manifest: Manifest) -> dict[str, list[str]]:
    return {
        role: [manifest.inputs[path] for path in paths] for role, paths in manifest.roles.items()
    }


def _is_same_work(
    previous: Manifest, manifest: Manifest, config: StageConfig, follows_inputs: bool
) -> bool:
    """Tell whether a directory was begun with the same config and inputs.

    Fields are compared one by one: a field that a newer version added counts as its default, one
    that it removed counts for nothing. Manifests of version 0.1 have no roles: their inputs are
    compared in order.
    """
    if _list_changed(previous, config):
        return False
    if follows_inputs:
        return True
    if previous.roles:
        return _list_hashes(previous) == _list_hashes(manifest) and previous.names == manifest.names
    if _name_rules(previous) != _name_rules(manifest):
        return False
    files, others = ([Path(path).name for path in one.inputs] for one in (previous, manifest))
    return _have_same_content(previous, manifest) and (not manifest.names or files == others)


def _name_rules(manifest: Manifest) -> list[str]:
    """Name the version of the rules that made a directory; version 0.1 kept it in the config."""
    return manifest.names.get("rules") or [str(manifest.config.get("rules", "none"))]


def _have_same_content(previous: Manifest, manifest: Manifest) -> bool:
    return list(previous.inputs.values()) == list(manifest.inputs.values())


def _list_changed(previous: Manifest, config: StageConfig) -> list[str]:
    """List the deciding fields in which a config differs from that of an earlier manifest."""
    known = type(config).model_fields
    before = {k: v for k, v in config.rename_keys(previous.config).items() if k in known}
    with contextlib.suppress(ValidationError):
        before = type(config).model_validate(before).fingerprint_fields()
    now = config.fingerprint_fields()
    return sorted(key for key in now if before.get(key) != now[key])


def _find_difference(previous: Manifest, manifest: Manifest, config: StageConfig) -> str:
    if changed := _list_changed(previous, config):
        return "changed: " + ", ".join(changed)
    if previous.names.get("task") != manifest.names.get("task"):
        return "the task file changed"
    if previous.names.get("reviews") != manifest.names.get("reviews"):
        return "reviews.jsonl changed"
    if (made_by := _name_rules(previous)) != (rules := _name_rules(manifest)):
        return f"rules: {', '.join(made_by)} then, {', '.join(rules)} now"
    if sorted(previous.inputs.values()) == sorted(manifest.inputs.values()):
        return "the same input files in another role or order, or under other names"
    return "the input files changed"


# Whose files these are.


def _refuse_inputs_inside(directory: Path, manifest: Manifest) -> None:
    """Raise InputError for an input that lies in `--out`: the stage would write beside it."""
    places = (directory.resolve(), directory.absolute())
    for role, paths in manifest.roles.items():
        for path in (Path(path) for path in paths if "://" not in path):
            readings = (path.resolve(), path.absolute())
            if any(reading.is_relative_to(place) for reading in readings for place in places):
                raise InputError(
                    "{}: lies inside --out {}; choose another --out, so that --{} stays as it is",
                    path,
                    directory,
                    role,
                )


def _refuse_foreign(directory: Path, stage: str, writes: Sequence[str]) -> None:
    """Raise InputError where a file that the stage would write is already there, made by others."""
    if not directory.is_dir():
        return
    for child in sorted(directory.iterdir()):
        if not _is_hidden(child.name) and _matches(child.name, writes):
            raise InputError(
                "{}: was not made by {}; choose another --out, or move it away", child, stage
            )


def _matches(name: str, writes: Sequence[str]) -> bool:
    """Tell whether the first part of a name in the directory matches a pattern.

    >>> _matches("adapter/config.json", ["adapter"]), _matches("reviews.jsonl", ["r*.json"])
    (True, False)
    """
    return any(fnmatchcase(name.partition("/")[0], pattern) for pattern in writes)


def _is_hidden(name: str) -> bool:
    """Tell whether a name is private to the stage: it is deleted, and not listed as an output."""
    return name.startswith(".")


def _find_written(directory: Path, writes: Sequence[str]) -> Iterator[str]:
    """Yield the names of files in the directory that the stage wrote, as the patterns tell."""
    for child in directory.iterdir():
        if not _matches(child.name, writes) or child.name == MANIFEST:
            continue
        if child.is_symlink() or not child.is_dir():
            yield child.name
            continue
        for path in child.rglob("*"):
            if path.is_symlink() or path.is_file():
                yield path.relative_to(directory).as_posix()


def _find_foreign(directory: Path, previous: Manifest, writes: Sequence[str]) -> set[str]:
    """Find files that match the patterns but were put there by others since the stage ended; a
    stage that was killed could not name what it wrote, so all that matches is its own."""
    if previous.state == "running":
        return set()
    return {
        name
        for name in _find_written(directory, writes)
        if name not in previous.outputs and not _is_hidden(name)
    }


def _delete_outputs(
    directory: Path, previous: Manifest, manifest: Manifest, writes: Sequence[str]
) -> None:
    """Delete what the stage wrote; inputs and other paths of the config stay."""
    foreign = _find_foreign(directory, previous, writes)
    kept = _find_kept(directory, previous, manifest)
    emptied: set[Path] = set()
    for name in list(_find_written(directory, writes)):
        path = directory / name
        real = path.parent.resolve() / path.name
        if name in foreign or any(real == one or one in real.parents for one in kept):
            continue
        path.unlink()
        emptied.update(p for p in path.parents if directory in p.parents)
    for folder in sorted(emptied, key=lambda p: len(p.parts), reverse=True):
        with contextlib.suppress(OSError):  # something that is not ours is still in it
            folder.rmdir()


def _find_kept(directory: Path, *manifests: Manifest) -> set[Path]:
    """Find the paths inside the directory that an earlier or the present config names."""
    place = directory.resolve()
    kept: set[Path] = set()
    for manifest in manifests:
        values: list[Any] = [value for key, value in manifest.config.items() if key != "out"]
        lists = [cast("list[Any]", value) for value in values if isinstance(value, list)]
        for value in (*manifest.inputs, *values, *chain.from_iterable(lists)):
            if isinstance(value, str) and value and "\0" not in value:
                path = Path(value).resolve()
                if place in path.parents:
                    kept.add(path)
    return kept


def _remove_if_bare(directory: Path) -> None:
    """Leave nothing behind where refused input made nothing: with the input repaired, the same
    command must not be refused."""
    with contextlib.suppress(OSError):
        if {child.name for child in directory.iterdir()} <= {MANIFEST, DONE}:
            (directory / DONE).unlink(missing_ok=True)
            (directory / MANIFEST).unlink()
            directory.rmdir()


def _list_versions(libraries: Sequence[str]) -> dict[str, str]:
    found = {"medkd": __version__, "python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
