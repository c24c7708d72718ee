"""Which folders the studio may read, and what lies in them: runs, their steps, files of records.

In: the directory of runs and the named data folders. Out: paths, each proven to lie inside;
manifests, read again only when they change. Not done here: starting runs (`studio.jobs`), reading
records (`studio.jsonl_index`).
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from pydantic import (
    BaseModel,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from medkd.core.errors import InputError, MedkdError
from medkd.core.jsonl import MANIFEST
from medkd.core.stage_output import Manifest, read_manifest
from medkd.models.inspect import read_json

UPLOADS = "uploads"
NO_RECORDS = (
    *("metrics.jsonl", "reviews.jsonl", "samples.jsonl", "ledger.jsonl"),
    *("rows.jsonl", "general_rows.jsonl"),
)
"""Files of lines that are no records of cases."""
MAX_DEPTH = 3
"""How deep below the directory of runs a step may lie."""
FRESH_S = 2.0
"""For how long a look through all runs counts: many browsers share one."""
HUB_NAME = re.compile(r"(hf|ms):[\w.-]+/[\w.-]+(/[\w.-]+)*")


class Proof(BaseModel):
    """What an export reports of its proof; what somebody has edited into something else counts as
    not reported."""

    n: int = 0
    n_thinking: int = 0
    n_stopped: int = 0

    @field_validator("*", mode="wrap")
    @classmethod
    def _take(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return check(value)
        except ValidationError:
            return cls.model_fields[str(info.field_name)].get_default()


class Gguf(Proof):
    """What it reports of its GGUF file."""

    file: str = ""
    bytes: int = 0


class Facts(Proof):
    """What the pages read of a manifest's facts."""

    splits: dict[str, int] = {}
    languages: dict[str, int] = {}
    repairs: list[str] = []
    unseen: bool | None = None
    gguf: Gguf | None = None


class Step(NamedTuple):
    """A stage's directory."""

    name: str
    """Its path below the directory of runs, as the pages show it."""
    run: str
    path: Path
    manifest: Manifest

    @property
    def facts(self) -> Facts:
        return Facts.model_validate(self.manifest.facts)

    @property
    def is_plain(self) -> bool:
        """Whether it is no variant of its stage, such as `train-answers`."""
        return re.fullmatch(rf"{self.manifest.stage}(-\d+)?", self.path.name) is not None

    @property
    def base(self) -> str:
        """What a model that was made here was made of; empty where it is not told."""
        places = (self.path, self.path / "adapter")
        told = (read_json(place / "lineage.json") or {} for place in places)
        return next((str(one["base_model"]) for one in told if one.get("base_model")), "")


class Workspace:
    """The folders named on the command line; nothing outside them is read or written."""

    def __init__(self, runs: Path, data: Sequence[Path] = ()) -> None:
        self.runs = runs
        self.data = tuple(data)
        for folder in self.data:
            if not folder.exists():
                raise InputError("medkd studio: --data {}: no such folder; check the path", folder)
        self._roots = [folder.resolve() for folder in (self.runs, *self.data)]
        self._seen: dict[str, tuple[int, Step | None]] = {}
        self._last: list[Step] = []
        self._looked_at = -FRESH_S
        self._lock = Lock()

    def resolve(self, name: str | Path) -> Path:
        """Find a file or folder by its name below the runs, or by its path; raises InputError where
        it lies outside every folder of the workspace."""
        if "\0" in str(name) or any("\ud800" <= c <= "\udfff" for c in str(name)):
            raise InputError("this is no name of a file; choose another")
        given = Path(name)
        candidates = [given] if given.is_absolute() else [self.runs / given, given]
        inside = [candidate for candidate in candidates if self._is_inside(candidate)]
        if not inside:
            raise InputError(
                "{}: lies outside {} and the --data folders; start the studio with "
                "--data FOLDER to use it",
                name,
                self.runs,
            )
        return next((candidate for candidate in inside if candidate.exists()), inside[-1])

    def check(self, text: str, is_path: bool = False) -> None:
        """Raise InputError for a text of a form that whatever reads it may take for a file outside:
        any that is written as a path or that a file bears, and with `is_path` all but names of a
        hub."""
        if text and ((is_path and not HUB_NAME.fullmatch(text)) or _is_like_a_path(text)):
            try:  # relative ones are read from where the command runs
                self.resolve(Path(text).expanduser().absolute())
            except (RuntimeError, ValueError):  # a user that is not there; a NUL
                self.resolve(text)

    def _is_inside(self, path: Path) -> bool:
        """Tell whether a path leads into one of the folders, links followed."""
        real = path.resolve()
        return any(real.is_relative_to(root) for root in self._roots)

    def forget(self) -> None:
        """Look through all runs again the next time: something was just started or deleted."""
        with self._lock:
            self._looked_at = -FRESH_S

    def list_runs(self) -> list[str]:
        """Name the runs, the newest first."""
        newest = {step.run: step.manifest.started_at for step in self.list_steps()}
        return sorted(newest, key=lambda run: (newest[run], run), reverse=True)

    def list_steps(self, run: str | None = None, stage: str = "") -> list[Step]:
        """List steps, the oldest first: those of a run, as they are now, or all of the last look
        through all runs, while it is fresh; with a stage, those of the stage."""
        if run is not None:
            steps = [step for step in self._scan(self.resolve(run)) if step.run == run]
        else:
            with self._lock:  # one looks for all who ask meanwhile
                if time.monotonic() - self._looked_at > FRESH_S:
                    self._last, self._looked_at = self._scan(self.runs), time.monotonic()
                steps = self._last
        return [step for step in steps if step.manifest.stage == stage] if stage else steps

    def find_step(self, name: str) -> Step:
        """Find a step by name; raises InputError where there is none."""
        step = self._read(str(self.resolve(name) / MANIFEST))
        if step is None:
            raise InputError("{}: no step of a run; choose another", name)
        return step

    def list_files(self, run: str) -> list[str]:
        """Name the files of records of a run, step by step."""
        return [
            f"{step.name}/{path.name}"
            for step in self.list_steps(run)
            for path in sorted(step.path.glob("[!.]*.jsonl"))
            if path.name not in NO_RECORDS
        ]

    def list_given(self, suffixes: Sequence[str]) -> list[str]:
        """Name the files that people put into the data folders, or uploaded."""
        return [
            str(path)
            for folder in (self.runs / UPLOADS, *self.data)
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in suffixes and path.is_file()
        ]

    def _scan(self, top: Path) -> list[Step]:
        found = (self._read(path) for path in _find_manifests(str(top), MAX_DEPTH))
        steps = (step for step in found if step)
        return sorted(steps, key=lambda step: (step.manifest.started_at, step.name))

    def _read(self, path: str) -> Step | None:
        try:
            changed_at = os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands are looked at
        except OSError:
            return None
        seen = self._seen.get(path)
        if seen is None or seen[0] != changed_at:
            folder = Path(path).parent
            try:
                name = folder.relative_to(self.runs).as_posix()
                run = name.rpartition("/")[0] or name
                seen = (changed_at, Step(name, run, folder, read_manifest(folder)))
            except (MedkdError, OSError, ValueError):
                seen = (changed_at, None)
            self._seen[path] = seen
        return seen[1]


def _is_like_a_path(text: str) -> bool:
    if text.startswith(("/", ".", "~")) or ".." in Path(text).parts:
        return True
    try:
        return text.casefold().startswith("file:") or Path(text).exists()
    except (OSError, ValueError):
        return True


def _find_manifests(folder: str, depth: int) -> Iterator[str]:
    """Find manifests below a folder, not looking into the steps themselves."""
    try:
        with os.scandir(folder) as entries:
            children = list(entries)
    except OSError:
        return
    if any(entry.name == MANIFEST for entry in children):
        yield f"{folder}/{MANIFEST}"
    elif depth:
        for entry in children:
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _find_manifests(entry.path, depth - 1)
