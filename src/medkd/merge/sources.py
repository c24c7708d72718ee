"""Reads what is merged: files of any known schema, as people left them, row by row.

In: directories of stages, files, names on a hub; `reviews.jsonl` beside rationales. Out: `Row`s, an
`Example` each with its origin, or a `Dropped` that names the field at fault. Not done here: reading
files (`text.tables`), the schemas of open datasets (`text.question_rows`), duplicates, styles.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.jsonl import first_problem, list_parts, printable_name, resolve_input
from medkd.core.progress import warn_large_drops
from medkd.core.records import Checked, Example, Lineage, Rationale, Split
from medkd.core.reviews import REVIEWS, Decision, Review, read_reviews, settle
from medkd.core.task import list_instructions
from medkd.text.files import RawRow
from medkd.text.hub_datasets import fetch_all
from medkd.text.normalize import is_chinese
from medkd.text.question_rows import (
    EXAM,
    SCHEMAS,
    QuestionRow,
    RowError,
    find_schema,
    kind_of,
    load_list,
    name_fields,
    read_question_row,
)
from medkd.text.tables import SourceFile, find_source, is_hub_name, read_rows

SPLIT_FILES: dict[str, Split] = {"train.jsonl": "train", "val.jsonl": "val", "test.jsonl": "test"}
REVIEWED = ("verified.jsonl", "rationales.jsonl")
REJECTED = ("rejected.jsonl", "undecided.jsonl")
"""Where people may find rows that they take all the same."""
REPLAY, REPLAY_SHARE = "replay/", 0.1
"""What the name of a source of general rows begins with, and its share where none is given."""
MAX_WARNINGS = 10
"""Broken rows named on the screen for one file; all are counted."""


class DropReason(StrEnum):
    """Why a row is left out."""

    BROKEN = "broken_line"
    """It is no JSON, or a row of a table with too many or too few cells."""
    NO_OBJECT = "no_object"
    """It is JSON, but no object with fields."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """Its fields are those of no known schema."""
    INVALID = "invalid_record"
    """It has the fields of one of our own records with values that are none."""
    NOT_TEXT = "not_text"
    """A field that should be text is a number, a list or something else."""
    ODD_TURNS = "odd_turns"
    """A conversation that nobody answers, or in which others than user and assistant speak."""
    NO_QUESTION = "no_question"
    """The question is blank."""
    NO_REASONING = "no_reasoning"
    """There is no reasoning to learn from."""
    NO_ANSWER = "no_answer"
    """The answer is blank."""
    TAG_INSIDE = "tag_inside"
    """A thinking tag is left inside a text."""
    INCOMPLETE = "incomplete"
    """The teacher was cut off."""
    EXACT_DUPLICATE = "exact_duplicate"
    """The same question is there already with nearly the same reasoning, white space, width and
    punctuation apart, or this one goes in circles."""
    OVER_TRACES = "over_traces"
    """Another reasoning for a question that has as many as wanted (`--traces`), or is in val or
    test, which hold each question once."""
    NEAR_DUPLICATE = "near_duplicate"
    """Nearly the same question is there already."""
    REVIEW = "rejected_by_reviewer"
    """A person judged the rationale not to be learnt from."""
    CONTAMINATED = "contaminated"
    """Its question holds one of the test split or of a benchmark."""
    OVER_CAP = "over_cap"
    """Its source was to give fewer rows (`--take`, `--replay`)."""


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
NEXT_STEPS_OF_ALL = {
    DropReason.NEAR_DUPLICATE: "their questions differ by a few characters; --near 1 keeps all but "
    "exact copies (in a recipe: near, under merge)",
    DropReason.CONTAMINATED: "their questions hold one of the test split or of a benchmark; "
    "--contained 1 leaves out whole copies only (in a recipe: contained, under merge)",
}
"""What to do where much of all the files is dropped for a reason."""


class Dropped(NamedTuple):
    """A row that is left out; `detail` names the field and what is wrong with it."""

    reason: DropReason
    detail: str = ""
    place: str = ""
    fields: str = ""
    """Those of the raw row, named."""


class Row(NamedTuple):
    """An example on its way into the dataset."""

    example: Example
    split: Split | None
    """The split it came with."""
    group: str
    """Rows of one group go to one split."""


OWN: dict[str, tuple[frozenset[str], type[Example] | type[Rationale] | type[Checked]]] = {
    "verified rationales": (frozenset({"rationale", "verdicts"}), Checked),
    "rationales": (
        frozenset({"question", "reasoning", "answer", "finish_reason", "model"}),
        Rationale,
    ),
    "examples": (frozenset({"style", "input", "reasoning", "answer", "lineage"}), Example),
}
"""Our own records."""

OPEN, CHOICE = "open-question", "multiple-choice"
"""The tasks of a foreign row, and of an exam's."""


@cache
def find_any_schema(fields: frozenset[str]) -> str | None:
    """Name the schema that fields are known by: of our own records, else of open datasets."""
    own = (name for name, (needed, _) in OWN.items() if needed <= fields)
    return next(own, None) or find_schema(fields)


def describe_schemas(names: Sequence[str] = ()) -> str:
    """List what is expected, for an error message: all there are, or those named."""
    needed = {name: needed for name, (needed, _) in OWN.items()}
    needed |= {name: schema.needed for name, schema in SCHEMAS.items() if name.isascii()}
    needed[EXAM] = frozenset({"question", "options", "answer"})
    return "; ".join(
        f"{name}: {', '.join(sorted(fields))}"
        for name, fields in needed.items()
        if not names or name in names
    )


def read_row(
    row: RawRow, source: SourceFile, repairs: Counter[str], needs_reasoning: bool = True
) -> Row | Dropped:
    """Turn one raw row into a `Row`, or say why not; counts what it repaired."""
    if row.problem:
        return Dropped(DropReason.BROKEN, row.problem)
    if not isinstance(row.content, dict):
        return Dropped(DropReason.NO_OBJECT, f"{kind_of(row.content)} in place of an object")
    fields = cast("dict[str, Any]", row.content)
    schema = source.schema or find_any_schema(frozenset(map(str, fields)))
    if schema in OWN:
        return _read_own(fields, schema, source)
    try:
        found = read_question_row(fields, schema, repairs, source.path) if schema else None
    except RowError as error:
        return Dropped(DropReason(error.problem), str(error))
    if found is None:
        return Dropped(DropReason.UNKNOWN_SCHEMA, f"found fields: {name_fields(fields)}")
    if needs_reasoning and not found.reasoning:
        return Dropped(DropReason.NO_REASONING, found.no_reasoning)
    return _make_row(found, _find_mark(fields), source, repairs)


def _make_row(found: QuestionRow, mark: str, source: SourceFile, repairs: Counter[str]) -> Row:
    heads = (f"{instruction}\n" for instruction in list_instructions())
    head = next(filter(found.asked.startswith, heads), "")  # which rows have one is drawn anew
    repairs["instruction_taken_off"] += bool(head)
    question = found.asked.removeprefix(head).strip()
    content = "\0".join((question, found.reasoning, found.answer))
    example = Example(
        id=f"{source.name}:{hashlib.sha256(content.encode()).hexdigest()[:16]}",
        source=source.name,
        style="bare",
        input=question,
        reasoning=found.reasoning,
        answer=found.answer,
        reference=found.answer if found.options else "",
        task=CHOICE if found.options else OPEN,
        language="zh" if is_chinese(question) else "en",
        lineage=Lineage(
            origin=printable_name(source.path),
            url=source.url,
            licence=source.licence,
            deidentified_by=mark,
        ),
    )
    return Row(example, None, question)


def _find_mark(fields: Mapping[str, Any]) -> str:
    """Find what de-identified a row of ours that came back in a foreign form."""
    lineage: Any = fields.get("lineage")
    if isinstance(lineage, str) and "deidentified_by" in lineage:
        lineage = load_list(lineage)
    inner = cast("dict[str, Any]", lineage) if isinstance(lineage, dict) else {}
    mark = fields.get("deidentified_by") or inner.get("deidentified_by")
    return mark if isinstance(mark, str) else ""


# --- Our own records ----------------------------------------------------------------------------


def _read_own(fields: dict[str, Any], schema: str, source: SourceFile) -> Row | Dropped:
    try:
        record = OWN[schema][1].model_validate(fields)
    except ValidationError as error:
        return Dropped(DropReason.INVALID, first_problem(error))
    if isinstance(record, Example):
        return _from_example(record, source)
    return from_rationale(record.rationale if isinstance(record, Checked) else record, source)


def _from_example(example: Example, source: SourceFile) -> Row | Dropped:
    """Take an example as it is; its file says which split it belongs to."""
    if "task" not in example.model_fields_set:  # of version 0.1
        update = {"language": "zh" if is_chinese(example.input) else "en"}
        update |= {} if example.reference else {"task": OPEN}
        example = example.model_copy(update=update)
    split = SPLIT_FILES.get(f"{source.path.stem}.jsonl")
    return _find_gap(example) or Row(example, split, example.lineage.case_id or example.input)


def from_rationale(rationale: Rationale, source: SourceFile) -> Row | Dropped:
    """Make an example of a teacher's rationale, with its mark of de-identification."""
    if not rationale.complete:
        return Dropped(DropReason.INCOMPLETE, f"finish_reason {rationale.finish_reason!r}")
    question = rationale.question
    lineage = Lineage(
        origin=printable_name(source.path),
        case_id=question.case_id,
        url=question.url,
        licence=question.licence,
        teacher=rationale.model,
        mode=rationale.mode,
        attempts=rationale.attempts,
        cost=rationale.cost,
        deidentified_by=question.deidentified_by,
    )
    example = Example(
        id=rationale.id,
        source=question.source,
        style="bare",
        department=question.department,
        input=question.input,
        reasoning=rationale.reasoning.strip(),
        answer=rationale.answer.strip(),
        reference=question.reference,
        task=question.task,
        language=question.language,
        known=question.known,
        lineage=lineage,
    )
    return _find_gap(example) or Row(example, question.split, question.case_id)


def _find_gap(example: Example) -> Dropped | None:
    """Name the first part of one of our own records that is blank."""
    parts = (
        (DropReason.NO_QUESTION, "input", example.input),
        (DropReason.NO_REASONING, "reasoning", example.reasoning),
        (DropReason.NO_ANSWER, "answer", example.answer),
    )
    blank = (Dropped(why, f"{name} is empty") for why, name, text in parts if not text.strip())
    return next(blank, None)


# --- Files --------------------------------------------------------------------------------------


def find_sources(given: Sequence[Path], schemas: Sequence[str]) -> list[SourceFile]:
    """Name every file that is meant, each once, and where its rows come from; raises InputError for
    what is not there."""
    sources: dict[Path, SourceFile] = {}
    for path, hub in list_files(given, _find_rows):
        source = find_source(path, hub)
        if path.name.startswith("part-") and not hub:  # a part of its folder
            source = source._replace(name=printable_name(path.absolute().parent))
        sources.setdefault(path.resolve(), source)
    return _set_schemas(list(sources.values()), schemas)


def find_replayed(given: Sequence[str]) -> dict[SourceFile, float]:
    """Read `FILE` or `FILE=SHARE`: the files of general rows, each with its share of the other
    training rows; raises InputError for a share that is none."""
    found: dict[SourceFile, float] = {}
    for one in given:
        name, _, said = one.rpartition("=")
        share = read_number(said) if name else None
        name, share = (one, REPLAY_SHARE) if share is None else (name, share)
        if not 0 < share <= 10:
            raise InputError("--replay {}: {:g} is no share; write {}=0.1", one, share, name)
        for source in find_sources([Path(name)], ()):
            found[source._replace(name=f"{REPLAY}{source.name}")] = share
    return found


def list_files(
    given: Sequence[Path], find: Callable[[Path], list[Path]]
) -> Iterator[tuple[Path, str]]:
    """List files, each with the name of its dataset on a hub; `find` finds those of a path."""
    hubs = [str(one) for one in given if is_hub_name(one)]
    fetched = fetch_all(hubs) if hubs else {}
    for one in given:
        hub = str(one) if is_hub_name(one) else ""
        yield from ((path, hub) for path in (fetched[hub] if hub else find(one)))


def _find_rows(given: Path) -> list[Path]:
    """Name the files meant by one `--input`: itself, also in parts, or what an earlier stage wrote
    in that directory."""
    if not given.is_dir() or given.name in REVIEWED:
        return [resolve_input(given, "", made_by="verify")]
    if splits := [path for name in SPLIT_FILES if (path := given / name).exists()]:
        return [path for path in splits if path.stat().st_size]
    if not (given / "verified.jsonl").exists():
        if (given / "rationales.jsonl").exists():
            return [resolve_input(given, "rationales.jsonl", made_by="distill")]
        if parts := list_parts(given):
            return parts
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


def read_number(text: str) -> float | None:
    """Read a number; None where there is none."""
    try:
        return float(text)
    except ValueError:
        return None


# --- Rows as people left them -------------------------------------------------------------------


class RowReader(NamedTuple):
    """Reads the rows of one file: what a reviewer rejected is left out, what a reviewer wrote
    replaces the teacher's words."""

    source: SourceFile
    decisions: Mapping[str, Review]
    """By id of the rationale."""
    is_replay: bool = False
    """Whether its rows are general ones: all of them for train, with reasoning or without."""

    def read(self, raw: RawRow, repairs: Counter[str]) -> Row | Dropped:
        """Read a raw row."""
        row = read_row(raw, self.source, repairs, not self.is_replay)
        if isinstance(row, Dropped):
            return row._replace(place=raw.place, fields=name_fields(raw.content))
        if self.is_replay:
            bare = {"source": self.source.name, "style": "bare", "system": "", "instruction": ""}
            return row._replace(example=row.example.model_copy(update=bare), split="train")
        return apply_review(row, self.decisions.get(row.example.id))


class MergedFile:
    """A file that is merged: its raw rows, and what became of them."""

    def __init__(self, source: SourceFile, is_replay: bool = False) -> None:
        self.reader = RowReader(source, read_decisions(source.path), is_replay)
        self.n_read = 0
        self.dropped: Counter[DropReason] = Counter()
        self.problems: dict[DropReason, str] = {}
        """The first row of each drop reason: its place, and which field is wrong."""
        self._fields = ""

    def __iter__(self) -> Iterator[RawRow]:
        for raw in read_rows(self.reader.source.path):
            self.n_read += 1
            yield raw
        yield from _read_restored(self.reader.source.path, self.reader.decisions)

    def drop(self, dropped: Dropped) -> None:
        """Count a row that is left out; the first broken ones are named on the screen."""
        reason, place = dropped.reason, dropped.place
        self.dropped[reason] += 1
        self.problems.setdefault(reason, f"{place}: {dropped.detail}" if dropped.detail else place)
        self._fields = self._fields or dropped.fields
        if reason is DropReason.BROKEN and self.dropped[reason] <= MAX_WARNINGS:
            print(f"warning: {place}: {dropped.detail}; passed over", file=sys.stderr)

    def finish(self) -> None:
        """Warn of what took many rows; raises InputError where no row has the fields of a known
        schema."""
        path, schema = self.reader.source.path, self.reader.source.schema
        unread = (DropReason.UNKNOWN_SCHEMA, DropReason.NO_OBJECT, DropReason.BROKEN)
        if sum(self.dropped[reason] for reason in unread) == self.n_read:
            raise InputError(
                "{}: no known schema; found fields: {}; expected {}",
                path,
                self._fields or "none",
                describe_schemas([schema] if schema else ()),
            )
        warn_large_drops(path.name, self.n_read, self.dropped, NEXT_STEPS, self.problems)


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
        return Dropped(DropReason.REVIEW, place=row.example.id)
    words = {
        "reasoning": review.reasoning.strip() or row.example.reasoning,
        "answer": review.answer.strip() or row.example.answer,
    }
    return row._replace(example=row.example.model_copy(update=words))


def _read_restored(path: Path, decisions: Mapping[str, Review]) -> Iterator[RawRow]:
    """Read the rows that checks rejected, or left undecided, and that people took."""
    wanted = {key for key, review in decisions.items() if review.decision is not Decision.REJECT}
    for rejected in map(path.with_name, REJECTED if path.name == REVIEWED[0] and wanted else ()):
        if rejected.exists() and rejected.stat().st_size:
            for raw in read_rows(rejected):
                checked = cast("dict[str, Any]", raw.content) if not raw.problem else {}
                if checked.get("rationale", {}).get("id") in wanted:
                    yield raw
