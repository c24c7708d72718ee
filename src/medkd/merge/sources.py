"""Finds the files that are to be merged, says where their rows come from, and reads them as people
left them.

In: directories of stages, files, names on a hub; `reviews.jsonl` beside rationales. Out:
`SourceFile`s and their `Row`s one by one. Not done here: what a row means (`merge.schemas`),
reading files (`text.tables`).
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.progress import Bar, warn_large_drops
from medkd.core.records import Checked, Split
from medkd.core.reviews import REVIEWS, Decision, Review, read_reviews, settle
from medkd.merge.schemas import (
    OWN,
    Dropped,
    DropReason,
    Row,
    describe_schemas,
    from_rationale,
    read_row,
)
from medkd.text.hub_datasets import SourceFile, fetch_all, find_source, is_hub_name
from medkd.text.question_rows import EXAM, SCHEMAS, name_fields
from medkd.text.tables import read_rows

SPLIT_FILES: dict[Split, str] = {"train": "train.jsonl", "val": "val.jsonl", "test": "test.jsonl"}
REVIEWED = ("verified.jsonl", "rationales.jsonl")
REJECTED = ("rejected.jsonl", "undecided.jsonl")
"""Where people may find rows that they take all the same."""
REPLAY, REPLAY_SHARE = "replay/", 0.1
"""What the name of a source of general rows begins with, and its share where none is given."""
MAX_WARNINGS = 10
"""Broken rows named on the screen for one file; all are counted."""
HAVE_IT_WRITTEN = (
    "rows without reasoning teach none; have a teacher write it: medkd collect --source files "
    "--input FILE --out DIR/collect, then deidentify, prepare --task open-question (an exam: "
    "multiple-choice), distill and verify, and merge --input DIR/verify"
)
NEXT_STEPS = {
    DropReason.BROKEN: "export the file again",
    DropReason.NO_OBJECT: "export it as an array of objects, or as JSON Lines",
    DropReason.UNKNOWN_SCHEMA: "rename its fields, or say its schema with --row-schema",
    DropReason.INVALID: "make it again with this version",
    DropReason.NOT_TEXT: "write that field as text",
    DropReason.ODD_TURNS: "name who speaks user and assistant, and end with an answer",
    DropReason.NO_QUESTION: "look at that field, or name another schema with --row-schema",
    DropReason.NO_REASONING: HAVE_IT_WRITTEN,
    DropReason.NO_ANSWER: "look at that field, or name another schema with --row-schema",
    DropReason.TAG_INSIDE: "take the tags out of the texts",
    DropReason.INCOMPLETE: 'ask again for what was cut with "medkd distill", more --max-tokens',
}
"""What to do where much of a file is dropped for a reason."""


def find_sources(given: Sequence[Path], schemas: Sequence[str]) -> list[SourceFile]:
    """Name every file that is meant, each once, and where its rows come from; raises InputError for
    what is not there."""
    sources: dict[Path, SourceFile] = {}
    fetched = fetch_all(str(one) for one in given if is_hub_name(one))
    for one in given:
        hub = str(one) if is_hub_name(one) else ""
        for path in fetched[hub] if hub else _find_files(one):
            sources.setdefault(path.resolve(), find_source(path, hub))
    return _set_schemas(list(sources.values()), schemas)


def find_benchmarks(given: Sequence[Path]) -> list[Path]:
    """Name the files of benchmarks: files themselves, the questions of a stage's directory, or a
    dataset on a hub."""
    found: list[Path] = []
    fetched = fetch_all(str(one) for one in given if is_hub_name(one))
    for one in given:
        if is_hub_name(one):
            found.extend(fetched[str(one)])
        elif (one / "test.jsonl").exists():
            found.append(one / "test.jsonl")
        else:
            found.append(resolve_input(one, "questions.jsonl", made_by="prepare"))
    return found


def find_replayed(given: Sequence[str]) -> dict[SourceFile, float]:
    """Read `FILE` or `FILE=SHARE`: the files of general rows, each with its share of the other
    training rows; raises InputError for a share that is none."""
    found: dict[SourceFile, float] = {}
    for one in given:
        name, _, said = one.rpartition("=")
        try:
            share = float(said) if name else REPLAY_SHARE
        except ValueError:
            name, share = "", REPLAY_SHARE
        if not 0 < share <= 10:
            raise InputError("--replay {}: {:g} is no share; write {}=0.1", one, share, name)
        for source in find_sources([Path(name or one)], ()):
            found[source._replace(name=f"{REPLAY}{source.name}")] = share
    return found


def _find_files(given: Path) -> list[Path]:
    """Name the files meant by one `--input`: itself, or what an earlier stage wrote in that
    directory."""
    if not given.is_dir():
        return [resolve_input(given, "", made_by="verify")]
    splits = [given / name for name in SPLIT_FILES.values()]
    if any(path.exists() for path in splits):
        return [path for path in splits if path.exists() and path.stat().st_size]
    if (given / "rationales.jsonl").exists() and not (given / "verified.jsonl").exists():
        return [resolve_input(given, "rationales.jsonl", made_by="distill")]
    return [resolve_input(given, "verified.jsonl", made_by="verify")]


def _set_schemas(sources: list[SourceFile], schemas: Sequence[str]) -> list[SourceFile]:
    """Set the schemas that were said: `NAME` for all files, `FILE=NAME` for one."""
    known = [*SCHEMAS, EXAM, *OWN]
    for said in schemas:
        file, _, schema = said.rpartition("=")
        if schema not in known:
            raise InputError(
                "--row-schema {}: no schema {!r}{}; known: {}",
                said,
                schema,
                did_you_mean(schema, known),
                ", ".join(known),
            )
        meant = [
            place
            for place, source in enumerate(sources)
            if not file or file in {source.path.name, str(source.path)}
        ]
        if not meant:
            given = ", ".join(source.path.name for source in sources)
            raise InputError(
                "--row-schema {}: no --input is called {!r}; given: {}", said, file, given
            )
        for place in meant:
            sources[place] = sources[place]._replace(schema=schema)
    return sources


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
                "--take {}: {!r} is no number; write {}=0.5 or =5000",
                take,
                number,
                source or "SOURCE",
            ) from error
        if source not in sources:
            raise InputError(
                "--take {}: no row comes from {!r}{}; sources: {}",
                take,
                source,
                did_you_mean(source, list(sources)),
                ", ".join(sources),
            )
        if not 0 <= found[source] < float("inf"):
            raise InputError(
                "--take {}: a share or a number of rows cannot be negative or endless", take
            )
    return found


class SourceReader:
    """The rows of one file of any schema, as people left them: what a reviewer rejected is left
    out, what a reviewer wrote replaces the teacher's words.

    Iterating raises InputError where no row has the fields of a known schema.
    """

    def __init__(self, source: SourceFile, repairs: Counter[str], is_replay: bool = False) -> None:
        self.source = source
        self._is_replay = is_replay
        """Whether its rows are general ones: all of them for train, with reasoning or without."""
        self.n_read = 0
        self.dropped: Counter[DropReason] = Counter()
        self.problems: dict[DropReason, str] = {}
        """The first row of each drop reason: its place, and which field is wrong."""
        self._repairs = repairs

    def __iter__(self) -> Iterator[Row]:
        decisions = read_decisions(self.source.path)
        for row in self._read():
            kept = apply_review(row, decisions.get(row.example.id))
            if isinstance(kept, Dropped):
                self._drop(kept, row.example.id)
            else:
                yield kept
        for row in restore_rejected(self.source, decisions):
            kept = apply_review(row, decisions[row.example.id])
            if isinstance(kept, Row):
                yield kept

    def _read(self) -> Iterator[Row]:
        fields = ""
        with Bar(f"read {self.source.path.name}") as bar:
            for raw in read_rows(self.source.path):
                self.n_read += 1
                found = read_row(raw, self.source, self._repairs, not self._is_replay)
                if isinstance(found, Row):
                    yield self._bring_to_train(found) if self._is_replay else found
                else:
                    self._drop(found, raw.place)
                    fields = fields or name_fields(raw.content)
                bar.advance()
        n_unknown = sum(
            self.dropped[reason]
            for reason in (DropReason.UNKNOWN_SCHEMA, DropReason.NO_OBJECT, DropReason.BROKEN)
        )
        if n_unknown == self.n_read:
            schema = self.source.schema
            raise InputError(
                "{}: no known schema; found fields: {}; expected {}",
                self.source.path,
                fields or "none",
                describe_schemas([schema] if schema else ()),
            )
        warn_large_drops(
            self.source.path.name, self.n_read, self.dropped, NEXT_STEPS, self.problems
        )

    def _bring_to_train(self, row: Row) -> Row:
        """Make a row of any schema a bare one of this source in train."""
        bare = {"source": self.source.name, "style": "bare", "system": "", "instruction": ""}
        return row._replace(example=row.example.model_copy(update=bare), split="train")

    def _drop(self, dropped: Dropped, place: str) -> None:
        reason, detail = dropped
        self.dropped[reason] += 1
        self.problems.setdefault(reason, f"{place}: {detail}" if detail else place)
        if reason is DropReason.BROKEN and self.dropped[reason] <= MAX_WARNINGS:
            print(f"warning: {place}: {detail}; passed over", file=sys.stderr)


def find_review_files(paths: Iterable[Path]) -> list[Path]:
    """Name what people add to these files: their judgements, and the rows that the checks had
    rejected."""
    folders = dict.fromkeys(
        path.parent for path in paths if path.name in REVIEWED and (path.parent / REVIEWS).exists()
    )
    return [
        folder / name
        for folder in folders
        for name in (REVIEWS, *REJECTED)
        if (folder / name).exists()
    ]


def read_decisions(path: Path) -> dict[str, Review]:
    """Read what people decided about the rows of a file: id to the judgement that counts."""
    is_reviewed = path.name in REVIEWED and (path.parent / REVIEWS).exists()
    reviews = read_reviews(path.parent) if is_reviewed else {}
    return {key: settle(of_row) for key, of_row in reviews.items()}


def apply_review(row: Row, review: Review | None) -> Row | Dropped:
    """Leave out what a person rejected, and take a person's words where there are some."""
    if review is None or review.decision is Decision.ACCEPT:
        return row
    if review.decision is Decision.REJECT:
        return Dropped(DropReason.REVIEW)
    words = {
        "reasoning": review.reasoning.strip() or row.example.reasoning,
        "answer": review.answer.strip() or row.example.answer,
    }
    return row._replace(example=row.example.model_copy(update=words))


def restore_rejected(source: SourceFile, decisions: Mapping[str, Review]) -> Iterator[Row]:
    """Read the rows that checks rejected, or left undecided, and that people took."""
    wanted = {key for key, review in decisions.items() if review.decision is not Decision.REJECT}
    if source.path.name != REVIEWED[0] or not wanted:
        return
    for rejected in map(source.path.with_name, REJECTED):
        if not rejected.exists() or not rejected.stat().st_size:
            continue
        for checked in RecordReader(rejected, Checked, made_by="verify"):
            if checked.rationale.id in wanted:
                row = from_rationale(checked.rationale, source)
                if isinstance(row, Row):
                    yield row
