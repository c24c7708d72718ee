"""The stage `merge`: rationales and open datasets become one training set.

In: directories of earlier stages, or files of any known schema. Out: `train.jsonl`, `val.jsonl`, `test.jsonl` of `Example` records,
`llamafactory/`, `messages/`, `statistics.json`, `duplicates.json`, `DATACARD.md`.
Not done here: checking rationales (`verify`), tokens and their lengths (`train`).
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, cast

from pydantic import Field, field_validator, model_validator

from medkd.core.artifacts import resolve_input, write_json
from medkd.core.errors import InputError
from medkd.core.progress import Bar
from medkd.core.prompts import load_prompts
from medkd.core.recipe import HOW, StageConfig
from medkd.core.records import Example, Split
from medkd.core.workspace import Manifest, open_workspace
from medkd.merge import layouts
from medkd.merge.duplicates import find_repeats
from medkd.merge.files import read_rows
from medkd.merge.reviews import find_review_files, honour_reviews
from medkd.merge.schemas import Drop, Origin, Row, describe_schemas, read_row

MAX_WARNINGS = 10
"""Broken lines named on the screen for one file; all are counted."""


class Config(StageConfig):
    """Merge rationales and open datasets into train, val and test."""

    input: Annotated[tuple[Path, ...], HOW] = Field(min_length=1)
    """What to merge, repeated: a directory of verify, distill or merge, or a file of any known schema."""
    near: float = Field(default=0.8, gt=0, le=1)
    """Similarity (Jaccard, character 4-grams) from which two questions are the same; 1 drops exact copies only."""
    bare_share: float = Field(default=0.75, ge=0, le=1)
    """Share of training rows without system and instruction, so that the student thinks unasked."""
    val_share: float = Field(default=0.05, ge=0, lt=1)
    """Share for validation of the rows that come without a split."""
    test_share: float = Field(default=0.05, ge=0, lt=1)
    """Share for the test split of the rows that come without one."""
    seed: int = 0
    """Another seed splits, styles and shuffles otherwise."""

    @field_validator("input", mode="before")
    @classmethod
    def _accept_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share and test_share together leave nothing to train on")
        return self


class Merged(NamedTuple):
    """The dataset and what was lost on the way."""

    dataset: dict[Split, list[Example]]
    dropped: Counter[Drop]
    repeated: list[dict[str, str]]
    """Rows left out as duplicates: `id`, `of`, `exact`."""


def run(config: Config) -> Manifest:
    """Merge files into one dataset directory."""
    paths = [path for given in config.input for path in find_files(given)]
    with open_workspace("merge", config, inputs=[*paths, *find_review_files(paths)], libraries=["datasketch"]) as space:
        if space.is_finished:
            return space.manifest
        repairs, dropped = Counter[str](), Counter[Drop]()
        rows: list[Row] = []
        for path in dict.fromkeys(paths):
            n_read, found, lost = read_file(path, repairs)
            space.read(n_read)
            reviewed, rejected = honour_reviews(path, found, find_origin(path))
            rows.extend(reviewed)
            dropped.update(lost + rejected)
        merged = merge(rows, config)
        dropped.update(merged.dropped)
        space.drop_all({str(reason): n for reason, n in dropped.items()})
        if not any(merged.dataset.values()):
            reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.most_common())
            raise InputError(f"{paths[0]}: no row could be used ({reasons}); check the files given as --input")
        space.manifest.counts.kept = sum(space.write_records(f"{split}.jsonl", examples) for split, examples in merged.dataset.items())
        statistics = layouts.collect_statistics(merged.dataset, repairs)
        layouts.write_llamafactory(space.path("llamafactory"), merged.dataset)
        layouts.write_messages(space.path("messages"), merged.dataset)
        write_json(space.path("statistics.json"), statistics)
        write_json(space.path("duplicates.json"), merged.repeated)
        losses = {str(reason): n for reason, n in dropped.most_common()}
        layouts.write_datacard(space.path("DATACARD.md"), merged.dataset, statistics, losses)
        space.manifest.facts = {
            "splits": {split: len(examples) for split, examples in merged.dataset.items()},
            "sources": {source: one["rows"] for source, one in statistics["sources"].items()},
            "repairs": statistics["repairs"],
        }
    return space.manifest


def find_files(given: Path) -> list[Path]:
    """Name the files meant by one `--input`: itself, or what an earlier stage wrote in that directory."""
    if not given.is_dir():
        return [resolve_input(given, "", made_by="verify")]
    splits = [given / f"{split}.jsonl" for split in layouts.SPLITS]
    if any(path.exists() for path in splits):
        return [path for path in splits if path.exists() and path.stat().st_size]
    if (given / "rationales.jsonl").exists() and not (given / "verified.jsonl").exists():
        return [resolve_input(given, "rationales.jsonl", made_by="distill")]
    return [resolve_input(given, "verified.jsonl", made_by="verify")]


def read_file(path: Path, repairs: Counter[str]) -> tuple[int, list[Row], Counter[Drop]]:
    """Read the rows of one file of any schema: how many there were, the good ones, and the others by reason.

    Raises InputError where no row has the fields of a known schema.
    """
    origin = find_origin(path)
    rows: list[Row] = []
    dropped = Counter[Drop]()
    fields: list[str] = []
    n_read = 0
    with Bar(f"read {path.name}") as bar:
        for number, content in read_rows(path):
            n_read += 1
            found = read_row(content, origin, repairs)
            if isinstance(found, Row):
                rows.append(found)
            else:
                dropped[found] += 1
                fields = fields or (list(map(str, cast(dict[str, Any], content))) if isinstance(content, dict) else [])
                if found is Drop.BROKEN and dropped[found] <= MAX_WARNINGS:
                    print(f"warning: {path.name}:{number}: broken JSON; row passed over", file=sys.stderr)
            bar.advance()
    if not rows and dropped[Drop.UNKNOWN_SCHEMA] + dropped[Drop.NO_OBJECT] + dropped[Drop.BROKEN] == n_read:
        raise InputError(f"{path}: no known schema; found fields: {', '.join(fields) or 'none'}; expected {describe_schemas()}")
    return n_read, rows, dropped


def find_origin(path: Path) -> Origin:
    """Say where the rows of a file come from, as far as its name tells."""
    for part, source in _known_sources().items():
        if part in path.name:
            return Origin(path, source["name"], source["url"], source["licence"])
    return Origin(path, path.stem)


def merge(rows: Iterable[Row], config: Config) -> Merged:
    """Drop duplicates, split by group, set the style of every row and shuffle, all the same on any machine."""
    preferred = sorted(rows, key=_preference)
    repeats = find_repeats([row.example.input for row in preferred], [row.example.reference for row in preferred], config.near)
    dropped = Counter(Drop.EXACT_DUPLICATE if repeat.is_exact else Drop.NEAR_DUPLICATE for repeat in repeats.values())
    repeated = [
        {"id": preferred[number].example.id, "of": preferred[repeat.of].example.id, "exact": str(repeat.is_exact).lower()}
        for number, repeat in repeats.items()
    ]
    dataset: dict[Split, list[Example]] = {split: [] for split in layouts.SPLITS}
    for number, row in enumerate(preferred):
        if number not in repeats:
            split = row.split or draw_split(row.group, config)
            dataset[split].append(set_style(row.example, split, config))
    for examples in dataset.values():
        examples.sort(key=lambda example: _draw(config.seed, "order", example.id))
    return Merged(dataset, dropped, repeated)


def _preference(row: Row) -> tuple[int, bool, int, str]:
    """Put the copy first that stays: of the test split, then of val, then with a known diagnosis, then with the longer reasoning."""
    order = {"test": 0, "val": 1, "train": 2, None: 2}
    return order[row.split], not row.example.reference, -len(row.example.reasoning), row.example.id


def draw_split(group: str, config: Config) -> Split:
    """Draw the split of a group of rows that came without one; other rows have no part in it."""
    place = _draw(config.seed, "split", group)
    if place < config.test_share:
        return "test"
    return "val" if place < config.test_share + config.val_share else "train"


def set_style(example: Example, split: Split, config: Config) -> Example:
    """Make a row bare, or put it under a system prompt and one of the instructions; val and test are always bare."""
    if split != "train" or _draw(config.seed, "style", example.id) < config.bare_share:
        return example.model_copy(update={"style": "bare", "system": "", "instruction": ""})
    language = "zh" if layouts.is_chinese(example.input) else "en"
    instructions = list_instructions(language, has_diagnosis=bool(example.reference))
    chosen = instructions[int(_draw(config.seed, "instruction", example.id) * len(instructions))]
    return example.model_copy(update={"style": "instructed", "system": load_prompts(language).system, "instruction": chosen})


@cache
def list_instructions(language: str, has_diagnosis: bool) -> Sequence[str]:
    """List the instructions for a record with a known diagnosis, or for an open question."""
    if has_diagnosis:
        prompts = load_prompts(language)
        return (prompts.instruction, *prompts.paraphrases)
    return cast(dict[str, list[str]], _read_table("instructions.yaml"))[language]


def _known_sources() -> dict[str, dict[str, str]]:
    return cast(dict[str, dict[str, str]], _read_table("sources.yaml"))


@cache
def _read_table(name: str) -> Any:
    import yaml

    return yaml.safe_load(files("medkd.merge").joinpath(name).read_text(encoding="utf-8"))


def _draw(seed: int, purpose: str, key: str) -> float:
    """Give a number from 0 to 1 that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}:{key}".encode()).digest()[:8]) / 2**64
