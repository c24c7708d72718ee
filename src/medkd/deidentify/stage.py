"""The stage `deidentify`: raw cases in, cases and an audit out.

In: `raw_cases.jsonl`. Out: `cases.jsonl`, and in the manifest how often each rule found something,
never what.
Not done here: finding and replacing (`detect`, `replace`). A clean report is no proof that nothing
is left.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import field_validator

from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.parallel import map_in_order
from medkd.core.progress import track
from medkd.core.records import Case, RawCase
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.deidentify.review import write_review
from medkd.deidentify.rules import VERSION
from medkd.deidentify.surrogates import Style

REVIEW = "review.html"
WRITES = ("cases.jsonl", REVIEW)
MAX_CHARACTERS = 200_000


class Config(StageConfig):
    """Find and replace what identifies a patient."""

    input: Annotated[Path, RUNTIME]
    """Raw cases: the directory of collect, or a JSON Lines file."""
    style: Style = "mask"
    """What stands in an identifier's place: a mark such as [姓名1], or a surrogate that looks
    real."""
    review: Annotated[bool, RUNTIME] = False
    """Also write review.html, the ORIGINAL text with what was found marked, for a person to look
    through. It names patients."""
    rules: str = VERSION
    """Name and version of the rules: a directory made by an older version is not taken for a
    finished one."""

    @field_validator("rules")
    @classmethod
    def _check(cls, rules: str) -> str:
        if rules != VERSION:
            raise ValueError(f"these rules are not here, only {VERSION!r}")
        return rules


class DropReason(StrEnum):
    """Why a raw case goes no further."""

    DUPLICATE_ID = "duplicate_id"
    """Another case before it has the same id."""
    EMPTY = "empty"
    """It holds no text in any section."""
    TOO_LONG = "too_long"
    """No record is that long: a file read wrongly, or something else."""


def run(config: Config) -> Manifest:
    """De-identify a file of raw cases."""
    path = resolve_input(config.input, "raw_cases.jsonl", made_by="collect")
    with open_stage_output("deidentify", config, {"input": path}, WRITES) as space:
        if config.review:
            write_review(space.path(REVIEW), path)
        if space.is_finished:
            return space.manifest
        reader = RecordReader(path, RawCase, made_by="collect")
        audit: Counter[str] = Counter()
        kept = space.write_records(
            "cases.jsonl",
            deidentify_all(track(reader, "deidentify", unit="cases"), space, audit, config.style),
        )
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        if not kept:
            raise InputError(
                f"{path}: no case holds any text of at most {MAX_CHARACTERS:,} characters; "
                "look at it, and collect again if the pages or columns were misread"
            )
        space.manifest.counts.kept = kept
        space.manifest.facts = {"rules": VERSION, "finds_by_rule": dict(audit.most_common())}
    return space.manifest


def deidentify_all(
    cases: Iterable[RawCase], space: StageOutput, audit: Counter[str], style: Style = "mask"
) -> Iterator[Case]:
    """De-identify cases in order, count drops in the workspace and finds by rule in the audit."""
    from medkd.deidentify.replace import deidentify

    for clean, finds in map_in_order(partial(deidentify, style=style), _choose(cases, space)):
        audit.update(finds)
        yield clean


def _choose(cases: Iterable[RawCase], space: StageOutput) -> Iterator[RawCase]:
    """Leave out what cannot go further, with its reason."""
    seen: set[str] = set()
    for case in cases:
        n_characters = sum(len(text.strip()) for text in case.sections.values())
        if case.id in seen:
            space.drop(DropReason.DUPLICATE_ID)
        elif not n_characters:
            space.drop(DropReason.EMPTY)
        elif n_characters > MAX_CHARACTERS:
            space.drop(DropReason.TOO_LONG)
        else:
            yield case
        seen.add(case.id)
