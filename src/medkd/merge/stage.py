"""The stage `merge`: rationales and open datasets become one training set.

In: directories of earlier stages, files of any known schema, datasets on a hub. Out: `train.jsonl`,
`val.jsonl`, `test.jsonl` of `Example` records, `llamafactory/`, `messages/`, `statistics.json`,
`duplicates.json`, `contaminated.json`, `DATACARD.md`. Rows lie on the disk while they are compared.
Not done here: checking rationales (`verify`), refusing rows that are too long (`train`).
"""

import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from medkd.core.config import RUNTIME, Seed, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import write_json
from medkd.core.progress import Bar
from medkd.core.records import Example, Split
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.merge import layouts, llamafactory
from medkd.merge.against import read_questions
from medkd.merge.datacard import write_datacard
from medkd.merge.draws import draw_split, set_style
from medkd.merge.reviews import bring_back, find_review_files, overrule, read_decisions
from medkd.merge.rows import Origin, Row, simplify
from medkd.merge.schemas import Drop
from medkd.merge.selection import Selection, select
from medkd.merge.sources import find_benchmarks, find_sources, read_source, read_takes
from medkd.merge.spool import SPLITS, Spool
from medkd.merge.statistics import Statistics, write_plots
from medkd.merge.tokens import BATCH, Count, make_counter

WRITES = (
    *(f"{split}.jsonl" for split in SPLITS),
    "messages",
    "parquet",
    "llamafactory",
    "statistics.json",
    "statistics.html",
    "duplicates.json",
    "contaminated.json",
    "DATACARD.md",
    ".rows.tmp",
    ".questions.tmp",
)

Share = Annotated[float, Field(ge=0, lt=1)]

# pydantic's own `schema` is a method out of use since its version 2; what the user says is more
# worth than its warning.
warnings.filterwarnings("ignore", message='Field name "schema"')


class Config(StageConfig):
    """Merge rationales and open datasets into train, val and test."""

    input: Annotated[tuple[Path, ...], RUNTIME] = Field(min_length=1)
    """What to merge, repeated: a directory of verify, distill or merge, a file of any known schema,
    hf:owner/name or ms:owner/name."""
    schema: tuple[str, ...] = ()  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
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
    seed: Seed = 0
    """Another seed splits, styles and shuffles otherwise."""
    tokenizer: str = ""
    """Model whose tokenizer counts lengths (a folder, a name, `medkd:tiny`); without one they are
    in characters only."""
    parquet: bool = False
    """Write Parquet files as well."""
    llamafactory: Path | None = None
    """Folder for LLaMA-Factory's files, its own `data` for instance; `llamafactory` in the output
    where none is given."""

    @field_validator("input", "against", "schema", "take", mode="before")
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
    llamafactory.read_registry(folder)
    if config.parquet:
        layouts.check_parquet()
    count = make_counter(config.tokenizer) if config.tokenizer else None
    sources = find_sources(config.input, config.schema)
    benchmarks = find_benchmarks(config.against)
    paths = [source.path for source in sources]
    inputs = {"input": paths, "against": benchmarks, "reviews": find_review_files(paths)}
    with open_stage_output(
        "merge",
        config,
        inputs,
        WRITES,
        names={"input": [path.name for path in paths]},
        libraries=["rensa", "opencc"],
    ) as space:
        if space.is_finished:
            return space.manifest
        questions = read_questions(benchmarks)
        repairs, lost = Counter[str](), Counter[Drop]()
        with Spool(space.directory, config.seed) as spool:
            for source in sources:
                n_read, dropped = _read(source, spool, config, repairs)
                space.read(n_read)
                lost.update(dropped)
            chosen = merge(spool, config, questions)
            lost.update(chosen.dropped)
            _check_rest(chosen, lost, sources[0].path, config)
            space.drop_all({str(reason): n for reason, n in lost.items()})
            statistics = write_dataset(space, spool, chosen, config, count, folder)
        _describe(
            space, statistics, chosen, {str(reason): n for reason, n in lost.most_common()}, repairs
        )
        llamafactory.write_registry(folder, SPLITS)
        llamafactory.write_recipe(
            folder, [split for split in SPLITS if chosen.rows[split]], *statistics.longest()
        )
    return space.manifest


def _read(
    source: Origin, spool: Spool, config: Config, repairs: Counter[str]
) -> tuple[int, Counter[Drop]]:
    """Put the rows of one file on the spool, as people left them; gives how many were read, and the
    lost ones by reason."""
    decisions = read_decisions(source.path)
    rejected = Counter[Drop]()

    def put(row: Row) -> None:
        kept = overrule(row, decisions.get(row.example.id))
        if isinstance(kept, Drop):
            rejected[kept] += 1
            return
        row = simplify(kept, repairs) if config.simplify else kept
        spool.add(
            row,
            row.split or draw_split(row.group, config.seed, config.val_share, config.test_share),
        )

    n_read, dropped = read_source(source, repairs, put)
    for row in bring_back(source, decisions):
        put(row)
    return n_read, dropped + rejected


def merge(spool: Spool, config: Config, questions: Sequence[tuple[str, str]] = ()) -> Selection:
    """Choose among the rows of a spool: no duplicates, nothing of the test split or a benchmark, as
    much of a source as wanted."""
    spool.settle()
    takes = read_takes(config.take, spool.sources)
    print(f"merge: comparing {len(spool)} questions", file=sys.stderr, flush=True)
    return select(spool, config.near, config.contained, questions, takes)


def _check_rest(chosen: Selection, lost: Counter[Drop], path: Path, config: Config) -> None:
    """Raise InputError where nothing is left, or nothing to train on because a benchmark took it
    all."""
    reasons = ", ".join(f"{reason} {n}" for reason, n in lost.most_common())
    if config.against and chosen.dropped[Drop.CONTAMINATED] and not chosen.rows["train"]:
        names = ", ".join(str(given) for given in config.against)
        raise InputError(
            f"{names}: every row to train on holds one of its questions ({reasons}); is it the training data itself? "
            "Give another --against or raise --contained"
        )
    if not any(chosen.rows.values()):
        raise InputError(
            f"{path}: no row could be used ({reasons}); check the files given as --input"
        )


def write_dataset(
    space: StageOutput,
    spool: Spool,
    chosen: Selection,
    config: Config,
    count: Count | None,
    folder: Path,
) -> Statistics:
    """Write every layout in one pass over the rows, and count them."""
    statistics = Statistics()
    with Bar("write", total=sum(map(len, chosen.rows.values()))) as bar:
        for split in SPLITS:
            with ExitStack() as stack:
                writers = layouts.open_layouts(space.directory, split, stack, config.parquet)
                writers.append(stack.enter_context(llamafactory.open_alpaca(folder, split)))
                for examples in _read_styled(spool, split, chosen.rows[split], config):
                    lengths = count(examples) if count else [None] * len(examples)
                    for example, n_tokens in zip(examples, lengths, strict=True):
                        for write in writers:
                            write(example)
                        statistics.add(split, example, n_tokens)
                    bar.advance(len(examples))
    return statistics


def _read_styled(
    spool: Spool, split: Split, numbers: Sequence[int], config: Config
) -> Iterator[list[Example]]:
    for start in range(0, len(numbers), BATCH):
        rows: Iterable[Example] = map(spool.read, numbers[start : start + BATCH])
        yield [set_style(example, split, config.seed, config.bare_share) for example in rows]


def _describe(
    space: StageOutput,
    statistics: Statistics,
    chosen: Selection,
    lost: dict[str, int],
    repairs: Counter[str],
) -> None:
    """Write statistics, plots, card and lists of what fell, and put the most telling numbers into
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
        lost,
    )
    if not write_plots(space.path("statistics.html"), statistics, summary):
        print("note: no plots, for matplotlib is missing; pip install matplotlib", file=sys.stderr)
    space.manifest.counts.kept = statistics.n_rows
    space.manifest.facts = {
        "splits": {split: len(rows) for split, rows in chosen.rows.items()},
        "sources": {source: one["rows"] for source, one in summary["sources"].items()},
        "cut_offs": summary["cut_offs"],
        "repairs": summary["repairs"],
    }
