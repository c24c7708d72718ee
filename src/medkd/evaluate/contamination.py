"""Whether a test is fair: questions of the training data, and questions that hold their own answer.

In: the questions; the folder of a model, whose manifests lead to its training rows. Out: counts.
Not done here: near duplicates (`merge --against`), what a base model read before its release.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader
from medkd.core.records import Example, Preference
from medkd.core.stage_output import MANIFEST, hash_path, read_manifest
from medkd.grading.extract import split_list
from medkd.grading.names import normalize_name, parse_name

MANY_SEEN = 0.5
"""Share of seen questions from which a test is the training over again."""


class Seen(NamedTuple):
    """Which questions a model was trained on, as far as its lineage tells."""

    ids: frozenset[str]
    training_path: Path | None
    """The file it was trained on; None where no lineage leads to one."""


def find_seen(examples: Iterable[Example], test_path: Path, model: Path | None) -> Seen:
    """Look up the questions in what the model was trained on; a file named train.jsonl is training
    data, whoever is asked."""
    if test_path.name == "train.jsonl":
        return Seen(frozenset(e.id for e in examples), test_path)
    training_path = find_training(model) if model else None
    if training_path is None:
        return Seen(frozenset(), None)
    kind = Preference if training_path.name == "preferences.jsonl" else Example
    trained = {_digest(e.input) for e in RecordReader(training_path, kind, made_by="merge")}
    return Seen(frozenset(e.id for e in examples if _digest(e.input) in trained), training_path)


def find_training(folder: Path, depth: int = 4) -> Path | None:
    """Follow the manifests from a model or an adapter back to the rows it was trained on."""
    for place in (folder, folder.parent):
        if depth and (place / MANIFEST).exists():
            try:
                manifest = read_manifest(place)
            except InputError:  # another program's manifest.json: it tells nothing of ours
                continue
            paths = [
                _find_input(Path(path), digest, place) for path, digest in manifest.inputs.items()
            ]
            if manifest.stage in {"train", "reinforce"}:
                return next(
                    (p for p in paths if p and p.suffix == ".jsonl" and p.name != "val.jsonl"), None
                )
            if manifest.stage == "export":
                return next(
                    (found for p in paths if p and (found := find_training(p, depth - 1))), None
                )
    return None


def _find_input(path: Path, digest: str, place: Path) -> Path | None:
    """Find what a stage read: where it said, or the same content under its name beside it, if the
    run was moved or named from elsewhere."""
    if path.exists():
        return path
    parts = path.parts[1:] if path.is_absolute() else path.parts
    beside = (
        above.joinpath(*parts[n:])
        for above in place.resolve().parents
        for n in range(len(parts) - 1)
    )
    return next((found for found in beside if found.exists() and hash_path(found) == digest), None)


def refuse_seen(seen: Seen, n: int, test_path: Path) -> None:
    """Refuse a test that is the training over again."""
    if seen.ids and len(seen.ids) >= MANY_SEEN * n:
        raise InputError(
            "{}: {} of {} questions are in the training data ({}); give the test "
            "split, or --allow-seen to measure what was learnt by heart",
            test_path,
            len(seen.ids),
            n,
            seen.training_path,
        )


def holds_answer(question: str, reference: str) -> bool:
    """Tell whether a question holds its principal known diagnosis word for word.

    >>> holds_answer("头痛3月，目前诊断脑积水。", "脑积水"), holds_answer("头痛3月。", "脑积水")
    (True, False)
    """
    known = split_list(reference)
    name = parse_name(known[0].text) if known else None
    return (
        name is not None
        and len(name.core) >= 3
        and (name.core in normalize_name(question) or name.plain in normalize_name(question))
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(re.sub(r"\s", "", text).encode()).digest()
