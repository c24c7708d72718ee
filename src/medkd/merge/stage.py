"""The stage `merge`: rationales and open datasets become one training set.

In: directories of earlier stages, files of any known schema, datasets on a hub. Out: `train.jsonl`,
`val.jsonl`, `test.jsonl` of `Example` records, other trainers' forms, statistics, a data card. Not
done here: checking rationales (`verify`), refusing rows that are too long (`train`).
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from medkd.core.config import RUNTIME, Seed, StageConfig
from medkd.core.errors import InputError
from medkd.core.i18n import tell
from medkd.core.jsonl import ShardRows, count_lines, write_json
from medkd.core.parallel import DoneWork, Engine, cut, map_in_order
from medkd.core.progress import Bar
from medkd.core.records import Example, Split, hash_uniform
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.core.task import TaskFile, find_task, name_task
from medkd.merge import writers
from medkd.merge.decontamination import find_benchmarks, read_questions
from medkd.merge.pairs import NAME, Pairing, find_worse_files, read_worse
from medkd.merge.selection import (
    SPLITS,
    RowStore,
    Selection,
    StoredRows,
    describe_rows,
    read_takes,
    select,
)
from medkd.merge.sources import (
    NEXT_STEPS,
    NEXT_STEPS_OF_ALL,
    REPLAY,
    Dropped,
    DropReason,
    MergedFile,
    Row,
    RowReader,
    find_replayed,
    find_review_files,
    find_sources,
)
from medkd.merge.writers import DatasetFiles, Rendered, Statistics, write_datacard
from medkd.text.files import RawRow
from medkd.text.normalize import load_opencc

WRITES = (
    *(f"{split}.jsonl" for split in SPLITS),
    "test_by_source",
    "messages",
    NAME,
    "llamafactory",
    "statistics.json",
    "duplicates.json",
    "contaminated.json",
    "DATACARD.md",
)

Share = Annotated[float, Field(ge=0, lt=1)]
_LEFT_BEFORE = (".rows.tmp", ".questions.tmp")
"""What a merge of an earlier version left where it was killed."""
_BATCH = 256
"""Rows that are read, signed or written together."""
_MANY = 8
"""Batches from which other processes pay for their start."""


class Config(StageConfig):
    """Merge rationales and open datasets into train, val and test."""

    renamed = {"schema": "row_schema"}  # noqa: RUF012 - a class variable of the base

    input: Annotated[tuple[Path, ...], RUNTIME] = Field(min_length=1)
    """What to merge, repeated: a directory of verify, distill or merge, a file of any known schema,
    hf:owner/name or ms:owner/name."""
    row_schema: tuple[str, ...] = ()
    """Schema of all files (`alpaca`), or of one (`a.json=alpaca`), repeated; read from the fields
    where none is given."""
    against: Annotated[tuple[Path, ...], RUNTIME] = ()
    """Benchmark files, repeated: rows that hold a question of theirs are left out."""
    contained: float = Field(default=0.5, gt=0, le=1)
    """Share of the character 8-grams of a benchmark's or test question from which a row holds
    it."""
    near: float = Field(default=0.7, gt=0, le=1)
    """Similarity (Jaccard, character 3-grams) from which two questions are the same; 1 drops exact
    copies only."""
    traces: int = Field(default=1, ge=1)
    """Rows of one question that training keeps where their reasoning differs (`distill --samples`);
    val and test hold each question once."""
    pairs: Annotated[tuple[Path, ...], RUNTIME] = ()
    """Directories with worse answers to the questions of train, repeated: verify, distill, evaluate
    or select; the pairs stand in preferences.jsonl."""
    replay: tuple[str, ...] = ()
    """General instruction rows mixed into train, repeated: a file, or `FILE=0.2` for a share of the
    other training rows (default: 0.1)."""
    take: tuple[str, ...] = ()
    """How much of a source, repeated: `medical-o1=0.5` (a share), `hwtcm=5000` (at most so many
    rows)."""
    simplify: bool = False
    """Write traditional characters as simplified ones (OpenCC)."""
    bare_share: float = Field(default=0.75, ge=0, le=1)
    """Share of training rows without system and instruction, so that the student thinks unasked."""
    val_share: Share = 0.05
    """Share for validation of the rows that come without a split."""
    test_share: Share = 0.05
    """Share for the test split of the rows that come without one."""
    task: TaskFile = ""
    """Task file, where rows are of a task of your own."""
    seed: Seed = 0
    """Another seed splits, styles and shuffles otherwise."""
    tokenizer: str = ""
    """Model whose tokenizer counts lengths (a folder, a name, `medkd:tiny`); without one they are
    in characters only."""
    engine: Engine = "local"
    """Where rows are read, signed and written: on this machine's processors, or on a Ray
    cluster."""
    shard_rows: ShardRows = 0
    """Write the records as a folder of packed parts of so many rows (part-00000.jsonl.zst); 0: one
    plain file."""
    llamafactory: Path | None = None
    """Folder for LLaMA-Factory's files, its own `data` for instance; `llamafactory` in the output
    where none is given."""

    @field_validator("input", "against", "row_schema", "take", "pairs", "replay", mode="before")
    @classmethod
    def _accept_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share and test_share together leave nothing to train on")
        return self


def run(config: Config) -> Manifest:
    """Merge files into one dataset directory."""
    folder = config.llamafactory or config.out / "llamafactory"
    writers.read_registry(folder)
    if config.tokenizer:
        writers.make_counter(config.tokenizer)
    sources = find_sources(config.input, config.row_schema)
    benchmarks = find_benchmarks(config.against) if config.against else []
    paths = [source.path for source in sources]
    worse_files = find_worse_files(config.pairs) if config.pairs else []
    replayed = find_replayed(config.replay)
    inputs = {"input": paths, "against": benchmarks, "reviews": find_review_files(paths)}
    inputs |= {"pairs": worse_files} if worse_files else {}
    inputs |= {"replay": [source.path for source in replayed]} if replayed else {}
    with open_stage_output(
        "merge",
        config,
        inputs,
        WRITES,
        names={"input": [path.name for path in paths], **name_task(config.task, "student")},
        libraries=["rensa", "opencc"],
    ) as space:
        if space.is_finished:
            return space.manifest
        for name in _LEFT_BEFORE:
            space.path(name).unlink(missing_ok=True)
        questions = read_questions(benchmarks) if benchmarks else []
        repairs = Counter[str]()
        merged = [MergedFile(source) for source in sources]
        merged += [MergedFile(source, is_replay=True) for source in replayed]
        pairing = Pairing(read_worse(worse_files, config.task)) if worse_files else None
        store = RowStore(space.directory)
        shares = {source.name: share for source, share in replayed.items()}
        chosen = merge(merged, config, store, questions, repairs, shares, space.open_done_work())
        space.read(sum(file.n_read for file in merged))
        lost = sum((file.dropped for file in merged), chosen.dropped.copy())
        problems = [problem for file in merged for problem in file.problems.items()]
        _check_rest(chosen, lost, problems, config)
        space.drop_all({str(reason): n for reason, n in lost.items()})
        space.next_steps = NEXT_STEPS_OF_ALL
        statistics = write_dataset(space, store, chosen, config, folder, pairing)
        _describe(space, statistics, chosen, lost, repairs, config)
        if replayed:
            space.manifest.facts["replay"] = sum(
                space.manifest.facts["sources"].get(source.name, 0) for source in replayed
            )
        if pairing:
            space.manifest.facts["pairs"] = pairing.write(space.directory, folder)
        if problems:
            space.manifest.facts["first_dropped"] = [f"{why}: {place}" for why, place in problems]
        writers.write_registry(folder, SPLITS, has_pairs=pairing is not None)
        writers.write_recipe(
            folder, [split for split in SPLITS if chosen.rows[split]], *statistics.longest()
        )
    return space.manifest


def merge(
    merged: Sequence[MergedFile],
    config: Config,
    store: RowStore,
    questions: Sequence[tuple[str, str]],
    repairs: Counter[str],
    replay: Mapping[str, float],
    done: DoneWork | None = None,
) -> Selection:
    """Put the rows of files into a store one by one and choose among them: no duplicates, nothing
    of the test split or of a benchmark's `questions` (place and text), as much of a source as
    wanted. `replay` holds sources of general rows with their share of the other training rows."""
    rows = ((number, row) for number, file in enumerate(merged) for row in file)
    work = partial(_read_batch, readers=[file.reader for file in merged], config=config)
    n_finished = 0
    paths = [file.reader.source.path for file in merged]
    counts = [count_lines(path) if path.suffix == ".jsonl" else None for path in paths]
    with Bar("read", None if None in counts else sum(filter(None, counts))) as bar:
        for batch in map_in_order(work, cut(rows, _BATCH), _MANY, config.engine, 1, done):
            repairs.update(batch.repairs)
            store.add(batch.stored)
            for number, dropped in batch.dropped:
                merged[number].drop(dropped)
            for file in merged[n_finished : batch.last]:
                file.finish()
            n_finished = batch.last
            bar.advance(batch.n_read)
    for file in merged[n_finished:]:
        file.finish()
    takes = read_takes(config.take, store.sources)
    tell("merge: comparing {} questions", store.n_rows, to=sys.stderr)
    return select(store, config.near, config.contained, questions, takes, config.traces, replay)


class _ReadBatch(NamedTuple):
    n_read: int
    last: int
    """Number of the file of the last row."""
    stored: StoredRows
    dropped: list[tuple[int, Dropped]]
    """Each with the number of its file."""
    repairs: Counter[str]


def _read_batch(
    batch: Sequence[tuple[int, RawRow]], readers: Sequence[RowReader], config: Config
) -> _ReadBatch:
    """Read some raw rows and work out what is compared of them."""
    repairs = Counter[str]()
    rows: list[Row] = []
    dropped: list[tuple[int, Dropped]] = []
    for number, raw in batch:
        row = readers[number].read(raw, repairs)
        if isinstance(row, Dropped):
            dropped.append((number, row))
        else:
            rows.append(_simplify(row, repairs) if config.simplify else row)
    stored = describe_rows(rows, config.seed, config.val_share, config.test_share)
    return _ReadBatch(len(batch), batch[-1][0], stored, dropped, repairs)


def _simplify(row: Row, repairs: Counter[str]) -> Row:
    """Write traditional characters as simplified ones; counts the rows that held any."""
    example, convert = row.example, load_opencc().convert
    texts = {name: getattr(example, name) for name in ("input", "reasoning", "answer", "reference")}
    changed = {name: new for name, text in texts.items() if (new := convert(text)) != text}
    if not changed:
        return row
    repairs["simplified"] += 1
    group = example.lineage.case_id or changed.get("input", example.input)
    return row._replace(example=example.model_copy(update=changed), group=group)


def _check_rest(
    chosen: Selection,
    lost: Counter[DropReason],
    problems: Sequence[tuple[DropReason, str]],
    config: Config,
) -> None:
    """Raise InputError where nothing is left, or nothing to train on because a benchmark took it
    all."""
    reasons = ", ".join(f"{reason} {n}" for reason, n in lost.most_common())
    if config.against and chosen.dropped[DropReason.CONTAMINATED] and not chosen.rows["train"]:
        names = ", ".join(str(given) for given in config.against)
        raise InputError(
            "{}: every row to train on holds one of its questions ({}); is it the "
            "training data itself? Name another --against or raise --contained",
            names,
            reasons,
        )
    if not any(chosen.rows.values()):
        first = f"; the first: {problems[0][1]}" if problems else ""
        most = max(lost, key=lost.__getitem__, default=None)
        step = NEXT_STEPS.get(most, "check the files named by --input") if most else "check --input"
        raise InputError(
            "{}: no row could be used ({}){}; {}", config.input[0], reasons, first, step
        )


def write_dataset(
    space: StageOutput,
    store: RowStore,
    chosen: Selection,
    config: Config,
    folder: Path,
    pairing: Pairing | None = None,
) -> Statistics:
    """Write every form in one pass over the rows, count them, and pair those of train."""
    statistics = Statistics()
    by_source = space.path("test_by_source") if len(store.sources) > 1 else None
    batches: Iterable[tuple[Split, list[bytes]]] = (
        (split, list(map(store.read_line, numbers)))
        for split in SPLITS
        for numbers in cut(chosen.rows[split], _BATCH)
    )
    work = partial(_render, config=config)
    with Bar("write", total=sum(map(len, chosen.rows.values()))) as bar, ExitStack() as stack:
        files = DatasetFiles(space, folder, by_source, stack)
        for split, rendered in map_in_order(work, batches, _MANY, config.engine, size=1):
            files.write(split, rendered)
            for facts in rendered.facts:
                statistics.add(split, facts)
            if pairing and split == "train":
                for line in rendered.records:
                    pairing.add(Example.model_validate_json(line))
            bar.advance(len(rendered.records))
        files.finish()
    return statistics


def _render(batch: tuple[Split, list[bytes]], config: Config) -> tuple[Split, Rendered]:
    """Write some stored rows of one split in every form, under their style."""
    split, lines = batch
    examples = [
        example
        if example.source.startswith(REPLAY)
        else set_style(example, split, config.seed, config.bare_share, config.task)
        for example in map(Example.model_validate_json, lines)
    ]
    return split, writers.render(examples, config.tokenizer)


def _describe(
    space: StageOutput,
    statistics: Statistics,
    chosen: Selection,
    lost: Counter[DropReason],
    repairs: Counter[str],
    config: Config,
) -> None:
    """Write statistics, the card and lists of what fell, and put the most telling numbers into
    the manifest."""
    summary = statistics.summarise(repairs)
    write_json(space.path("statistics.json"), summary)
    write_json(space.path("duplicates.json"), chosen.repeated)
    write_json(space.path("contaminated.json"), chosen.contaminated)
    write_datacard(
        space.path("DATACARD.md"),
        statistics,
        summary,
        [split for split in SPLITS if chosen.rows[split]],
        {str(reason): n for reason, n in lost.most_common()},
    )
    if n_over := lost[DropReason.OVER_TRACES]:
        tell(
            "note: {} rows reason otherwise about a question that has its row already; --traces {} "
            "keeps more of them in training",
            n_over,
            config.traces + 1,
            to=sys.stderr,
        )
    if not chosen.rows["train"]:
        tell(
            "note: train.jsonl is empty: all {} rows kept are of val and test; bring more "
            "questions, or lower val_share and test_share",
            statistics.n_rows,
            to=sys.stderr,
        )
    space.manifest.counts.kept = statistics.n_rows
    space.manifest.facts = {
        "splits": {split: len(rows) for split, rows in chosen.rows.items()},
        "questions": {split: one["questions"] for split, one in summary["splits"].items()},
        "sources": {source: one["rows"] for source, one in summary["sources"].items()},
        "cut_offs": summary["cut_offs"],
        "repairs": summary["repairs"],
    }


def set_style(
    example: Example, split: Split, seed: int, bare_share: float, task: str = ""
) -> Example:
    """Make a row bare, or put it under the system prompt and one of the instructions of its task;
    val and test are always bare. `task` is a task file of the user's."""
    if split != "train" or hash_uniform(seed, "style", example.id) < bare_share:
        return example.model_copy(update={"style": "bare", "system": "", "instruction": ""})
    student = find_task(example.task, task).student
    instructions = student.instructions[example.language]
    chosen = instructions[int(hash_uniform(seed, "instruction", example.id) * len(instructions))]
    return example.model_copy(
        update={
            "style": "instructed",
            "system": student.system[example.language],
            "instruction": chosen,
        }
    )
