"""A stage's output directory: what was made there, from what, and how far it came
(`manifest.json`).

In: a stage's config and input paths. Out: an open directory that knows whether to begin, to go on,
or that all is done.
Not done here: the form of the records in it (`core.jsonl`).
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medkd import __version__
from medkd.core.config import StageConfig
from medkd.core.errors import InputError, MedkdError, from_os_error, is_disk_full
from medkd.core.jsonl import first_problem, write_records, write_text
from medkd.core.records import Cost, Record

MANIFEST = "manifest.json"
WHOLE_HASH_BYTES = 256 * 2**20
"""Files up to this size are hashed whole; of larger ones the size and both ends (1 MiB each)."""


class Counts(BaseModel):
    """Records in, kept, and dropped by reason."""

    model_config = ConfigDict(extra="forbid")
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}


class Manifest(BaseModel):
    """What a stage did: enough to know whether to do it again, and to trace every number to its
    origin."""

    model_config = ConfigDict(extra="forbid")
    stage: str
    state: Literal["running", "stopped", "finished"] = "running"
    identity: str
    """Hash of what decides the content: the config without the fields of *how* it runs, and the
    inputs."""
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    """Path to sha256."""
    counts: Counts = Counts()
    facts: dict[str, Any] = {}
    """What else the stage has to say: rates, findings, repairs."""
    cost: Cost = Cost()
    outputs: list[str] = []
    versions: dict[str, str] = {}
    started_at: str = ""
    seconds: float = 0.0


def hash_path(path: Path) -> str:
    """Give the sha256 of a file, or of a directory's relative paths and file hashes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for child in sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and p.name != MANIFEST and not p.name.endswith(".html")
        ):
            digest.update(f"{child.relative_to(path).as_posix()} {hash_path(child)}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_HASH_BYTES:
            while chunk := file.read(2**20):
                digest.update(chunk)
        else:
            digest.update(str(size).encode() + file.read(2**20))
            file.seek(-(2**20), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


class StageOutput:
    """A stage's output directory while the stage works on it; made by `open_stage_output`."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._dropped: Counter[str] = Counter()
        self._started = time.monotonic()

    @property
    def is_finished(self) -> bool:
        """Whether this very work is already done and only needs to be read."""
        return self.manifest.state == "finished"

    def path(self, name: str) -> Path:
        return self.directory / name

    def read(self, n: int) -> None:
        self.manifest.counts.read += n

    def drop(self, reason: str, n: int = 1) -> None:
        if n:
            self._dropped[str(reason)] += n

    def drop_all(self, reasons: Mapping[str, int]) -> None:
        for reason, n in reasons.items():
            self.drop(reason, n)

    def write_records(self, name: str, records: Iterable[Record]) -> int:
        return write_records(self.path(name), records)

    def save(self) -> None:
        """Write the manifest as it stands."""
        write_text(self.path(MANIFEST), self.manifest.model_dump_json(indent=2) + "\n")

    def close(self, state: Literal["stopped", "finished"]) -> None:
        """Write down how the work ended; `open_stage_output` does this."""
        self.manifest.state = state
        self.manifest.seconds = round(self.manifest.seconds + time.monotonic() - self._started, 3)
        self.manifest.counts.dropped = dict(self._dropped.most_common())
        self.manifest.outputs = sorted(
            p.relative_to(self.directory).as_posix()
            for p in self.directory.rglob("*")
            if p.is_file() and p.name != MANIFEST and not p.name.startswith(".")
        )
        self.save()


@contextmanager
def open_stage_output(
    stage: str,
    config: StageConfig,
    inputs: Sequence[Path] = (),
    libraries: Sequence[str] = (),
    keep: Sequence[str] = (),
    follows_inputs: bool = False,
) -> Generator[StageOutput, None, None]:
    """Open a stage's `--out` for work, and close it with the truth about how the work ended.

    A directory of the same config and inputs goes on, or is `is_finished`. One of another config is
    refused unless `--resume` (go on all the same) or `--overwrite` (begin again; files matching
    `keep` stay: what was paid is never deleted). `follows_inputs` lets a stage whose work is keyed
    by content go on when its inputs changed.
    """
    directory = config.out
    hashes = {str(path): hash_path(path) for path in inputs}
    identity = _identity(stage, config, [] if follows_inputs else sorted(hashes.values()))
    previous = _read_manifest(directory)
    manifest = Manifest(
        stage=stage, identity=identity, config=config.model_dump(mode="json"), inputs=hashes
    )
    if previous is None:
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory}: is a file; choose a directory for --out")
    elif previous.stage != stage:
        raise InputError(
            f"{directory}: holds the output of {previous.stage}; choose another --out for {stage}"
        )
    elif previous.identity == identity and not config.overwrite:
        if previous.state == "finished" and (not follows_inputs or previous.inputs == hashes):
            yield StageOutput(directory, previous)
            return
        manifest.seconds = previous.seconds
    elif config.overwrite:
        _clear(directory, keep)
    elif not config.resume:
        raise InputError(
            f"{directory}: was made with another config or input ({_difference(previous, manifest)}); "
            "go on with --resume, begin again with --overwrite, or choose another --out"
        )
    manifest.started_at = datetime.now(UTC).isoformat(timespec="seconds")
    manifest.versions = _versions(libraries)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, directory) from error
    workspace = StageOutput(directory, manifest)
    workspace.save()
    try:
        yield workspace
    except BaseException as error:
        _close_after_failure(workspace)
        if isinstance(error, InputError) and previous is None:
            _remove_if_bare(directory)
        if is_disk_full(error) and not isinstance(error, MedkdError | OSError):
            raise from_os_error(OSError(errno.ENOSPC, "full"), directory) from error
        raise
    workspace.close("finished")


def _close_after_failure(workspace: StageOutput) -> None:
    """Note that the work stopped; a disk too full for the note leaves the state 'running', which
    also goes on."""
    with contextlib.suppress(Exception):
        workspace.close("stopped")


def _remove_if_bare(directory: Path) -> None:
    """Leave nothing behind where refused input made nothing: with the input mended, the same
    command must not be refused."""
    with contextlib.suppress(OSError):
        if [child.name for child in directory.iterdir()] == [MANIFEST]:
            (directory / MANIFEST).unlink()
            directory.rmdir()


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a stage's directory; raises InputError where there is none."""
    manifest = _read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: no {MANIFEST}; is it the --out of a stage?")
    return manifest


def _read_manifest(directory: Path) -> Manifest | None:
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path}: {first_problem(error)}; move the directory away or choose another --out"
        ) from error


def _identity(stage: str, config: StageConfig, hashes: Sequence[str]) -> str:
    decisive = {"stage": stage, "config": config.fingerprint_fields(), "inputs": list(hashes)}
    return hashlib.sha256(
        json.dumps(decisive, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


def _difference(previous: Manifest, manifest: Manifest) -> str:
    before, now = previous.config, manifest.config
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key) and key not in {"resume", "overwrite", "out"}
    )
    return "changed: " + ", ".join(changed) if changed else "the input files changed"


def _clear(directory: Path, keep: Sequence[str]) -> None:
    for child in directory.iterdir():
        if any(child.match(pattern) for pattern in keep):
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    found = {"medkd": __version__, "python": platform.python_version()}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
