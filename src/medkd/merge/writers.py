"""Writes a dataset in the forms that trainers read, counts it meanwhile, and describes it.

In: examples, as lines of JSON, by split. Out: our own records, `messages/` (JSON Lines for TRL,
ms-swift and OpenAI's form), LLaMA-Factory's folder (every other entry of its registry stays as it
was), statistics, a data card. Not done here: checking licences, refusing rows that are too long.
"""

import hashlib
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, NamedTuple, cast, get_args
from urllib.parse import urlsplit

import orjson

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import write_atomically, write_json, write_text
from medkd.core.records import Example, Lineage, Split, Style, to_alpaca
from medkd.core.stage_output import StageOutput
from medkd.merge.selection import SPLITS
from medkd.models import chat_template, load
from medkd.text.files import read_text
from medkd.text.normalize import is_chinese

PARTS: tuple[str, ...] = ("question", "reasoning", "answer")
CUT_OFFS = (2048, 4096, 8192, 16384, 32768)
"""Lengths that the recipe chooses from: the first one that trims no row."""
SHOWN_CUT_OFFS = CUT_OFFS[:3]
"""Those of which the statistics say how many rows they trim."""
_PLACES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def to_messages(example: Example) -> dict[str, list[dict[str, str]]]:
    """Write an example as a conversation of one question; a bare one has no system turn."""
    user = "\n".join(part for part in (example.instruction, example.input) if part)
    turns = [("system", example.system)] if example.system else []
    turns += [("user", user), ("assistant", thinking.write(example.reasoning, example.answer))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


class Rendered(NamedTuple):
    """Some examples in every form, and what is counted of them."""

    records: list[bytes]
    messages: list[bytes]
    alpaca: list[bytes]
    facts: "list[RowFacts]"


def render(examples: Sequence[Example], tokenizer: str) -> Rendered:
    """Write some examples in every form, and measure them; `tokenizer` counts tokens."""
    n_tokens = make_counter(tokenizer)(examples) if tokenizer else [0] * len(examples)
    return Rendered(
        records=[example.model_dump_json().encode() for example in examples],
        messages=[orjson.dumps(to_messages(example)) for example in examples],
        alpaca=[
            orjson.dumps(to_alpaca(example, thinking.write(example.reasoning, example.answer)))
            for example in examples
        ],
        facts=list(map(measure, examples, n_tokens)),
    )


class DatasetFiles:
    """The files of a dataset while they are written; `stack` closes them."""

    def __init__(
        self, space: StageOutput, llamafactory: Path, by_source: Path | None, stack: ExitStack
    ) -> None:
        def open_file(path: Path) -> IO[bytes]:
            return stack.enter_context(write_atomically(path, binary=True))

        self._open = open_file
        open_records = space.open_records
        self._records = {s: stack.enter_context(open_records(f"{s}.jsonl")) for s in SPLITS}
        self._messages = {s: open_file(space.path(f"messages/{s}.jsonl")) for s in SPLITS}
        self._alpaca = {s: open_file(llamafactory / f"{name_dataset(s)}.json") for s in SPLITS}
        self._by_source = by_source
        """Folder for the rows of test, a file a source; None where they are not wanted."""
        self._sources: dict[str, IO[bytes]] = {}
        self._is_begun: dict[Split, bool] = dict.fromkeys(SPLITS, False)

    def write(self, split: Split, rendered: Rendered) -> None:
        """Append some examples to the files of their split."""
        for line in rendered.records:
            self._records[split].write(line)
        self._messages[split].writelines(line + b"\n" for line in rendered.messages)
        for row in rendered.alpaca:
            self._alpaca[split].write((b",\n" if self._is_begun[split] else b"[") + row)
            self._is_begun[split] = True
        if self._by_source and split == "test":
            for facts, line in zip(rendered.facts, rendered.records, strict=True):
                if facts.source not in self._sources:
                    name = re.sub(r"[^\w.-]+", "_", facts.source) or "_"
                    self._sources[facts.source] = self._open(self._by_source / f"{name}.jsonl")
                self._sources[facts.source].write(line + b"\n")

    def finish(self) -> None:
        """End the arrays."""
        for split in SPLITS:
            self._alpaca[split].write(b"]\n" if self._is_begun[split] else b"[]\n")


# --- Statistics ---------------------------------------------------------------------------------


class RowFacts(NamedTuple):
    """What is counted of one row."""

    source: str
    style: Style
    question: bytes
    """Hash by which different questions are told apart."""
    is_known: bool
    lengths: dict[str, int]
    """Characters of each part and of the whole, and tokens where they were counted."""
    is_chinese: bool
    lineage: Lineage


def measure(example: Example, n_tokens: int) -> RowFacts:
    """Measure one row; `n_tokens` is the length of the whole conversation, 0 where not counted."""
    lengths = dict(
        zip(PARTS, map(len, (example.input, example.reasoning, example.answer)), strict=True)
    )
    lengths["whole"] = sum(lengths.values()) + len(example.system) + len(example.instruction)
    return RowFacts(
        source=example.source,
        style=example.style,
        question=hashlib.blake2b(example.input.encode(), digest_size=8).digest(),
        is_known=bool(example.reference),
        lengths=lengths | ({"tokens": n_tokens} if n_tokens else {}),
        is_chinese=is_chinese(example.input),
        lineage=example.lineage,
    )


def _make_columns() -> defaultdict[str, "array[int]"]:
    return defaultdict(lambda: array("I"))


@dataclass
class Part:
    """What is known about one source within one split."""

    styles: Counter[str] = field(default_factory=Counter[str])
    questions: set[bytes] = field(default_factory=set[bytes])
    n_known: int = 0
    lengths: defaultdict[str, "array[int]"] = field(default_factory=_make_columns)


@dataclass
class Provenance:
    """Where the rows of one source come from."""

    licences: set[str] = field(default_factory=set[str])
    files: set[str] = field(default_factory=set[str])
    sites: set[str] = field(default_factory=set[str])
    url: str | None = None
    """The one address of all rows; empty where they have several."""

    def add(self, lineage: Lineage) -> None:
        self.licences.add(lineage.licence or "not stated")
        self.files.add(lineage.origin)
        self.sites.add(urlsplit(lineage.url).netloc)
        self.url = lineage.url if self.url in {None, lineage.url} else ""

    @property
    def address(self) -> str:
        return self.url or ", ".join(sorted(self.sites - {""}))


class Statistics:
    """A dataset as it is counted; memory holds a few numbers a row."""

    def __init__(self) -> None:
        self.parts = defaultdict[tuple[Split, str], Part](Part)
        self.provenance = defaultdict[str, Provenance](Provenance)
        self.languages, self.costs = Counter[str](), defaultdict[str, float](float)
        self.teachers, self.rules = set[str](), set[str]()

    def add(self, split: Split, facts: RowFacts) -> None:
        """Count one row."""
        part, lineage = self.parts[split, facts.source], facts.lineage
        part.styles[facts.style] += 1
        part.questions.add(facts.question)
        part.n_known += facts.is_known
        for name, length in facts.lengths.items():
            part.lengths[name].append(length)
        self.provenance[facts.source].add(lineage)
        self.languages["zh" if facts.is_chinese else "en"] += 1
        if lineage.cost.amount:
            self.costs[lineage.cost.currency] += lineage.cost.amount
        self.teachers |= {lineage.teacher} - {""}
        self.rules |= {lineage.deidentified_by} - {""}

    @property
    def n_rows(self) -> int:
        return sum(part.styles.total() for part in self.parts.values())

    def longest(self) -> tuple[int, bool]:
        """Return the length of the longest row of train and val, and whether it is in tokens;
        otherwise it is in characters."""
        parts = [part for (split, _), part in self.parts.items() if split != "test"]
        tokens = _join(parts, "tokens")
        return max(tokens or _join(parts, "whole"), default=0), bool(tokens)

    def summarise(self, repairs: Mapping[str, int]) -> dict[str, Any]:
        """Make the mapping of `statistics.json`."""
        sources = sorted({source for _, source in self.parts})
        return {
            "splits": {
                split: _describe([part for (s, _), part in self.parts.items() if s == split])
                for split in SPLITS
            },
            "sources": {
                source: {
                    "by_split": {
                        split: self.parts[split, source].styles.total() for split in SPLITS
                    },
                    **_describe([part for (_, s), part in self.parts.items() if s == source]),
                }
                for source in sources
            },
            "cut_offs": _describe_cut_offs(
                [part for (split, _), part in self.parts.items() if split == "train"]
            ),
            "repairs": {name: n for name, n in repairs.items() if n},
        }


def _join(parts: Sequence[Part], name: str) -> list[int]:
    """List the lengths of one kind in all parts."""
    return [length for part in parts for length in part.lengths[name]]


def _describe(parts: Sequence[Part]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "rows": sum(part.styles.total() for part in parts),
        "questions": len(set[bytes]().union(*(part.questions for part in parts))),
        "styles": {style: sum(part.styles[style] for part in parts) for style in get_args(Style)},
        "with_known_diagnosis": sum(part.n_known for part in parts),
        "characters": {name: summarise(_join(parts, name)) for name in PARTS},
    }
    if tokens := _join(parts, "tokens"):
        described["tokens"] = summarise(tokens)
    return described


def _describe_cut_offs(parts: Sequence[Part]) -> dict[str, Any]:
    """Say how many training rows a cut-off would trim, in tokens of the whole conversation, or in
    characters where none were counted."""
    tokens = _join(parts, "tokens")
    lengths = tokens or _join(parts, "whole")
    trimmed: dict[str, Any] = {}
    for bound in SHOWN_CUT_OFFS:
        n = sum(length > bound for length in lengths)
        share = round(n / len(lengths), 4) if lengths else 0.0
        trimmed[str(bound)] = {"rows": n, "share": share}
    return {"unit": "tokens" if tokens else "characters", "trimmed": trimmed}


def summarise(lengths: Iterable[int]) -> dict[str, int]:
    """Return median, 90th and 99th percentile and maximum; zeros for nothing."""
    ordered = sorted(lengths) or [0]
    return {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
        for name, share in _PLACES.items()
    }


# --- Tokens -------------------------------------------------------------------------------------

Count = Callable[[Sequence[Example]], list[int]]


@cache
def make_counter(name: str) -> Count:
    """Load a tokenizer by the name or folder of its model and make a function that counts the
    tokens of whole rows under its chat template, the end of the turn included; raises InputError
    where there is none."""
    try:
        folder = load.find_local(name)
        tokenizer = load.load_tokenizer(folder if folder.is_dir() else load.resolve_model(name))
    except ImportError as error:
        raise InputError(
            '--tokenizer: counting tokens needs the training side; pip install "medkd[train]", or '
            "leave it out"
        ) from error
    template = chat_template.find_template(tokenizer)

    def count(examples: Sequence[Example]) -> list[int]:
        texts = [
            chat_template.render(
                tokenizer,
                chat_template.make_messages(example.input, example.instruction, example.system),
                template,
            )
            + thinking.write(example.reasoning, example.answer)
            for example in examples
        ]
        encoded = cast(list[list[int]], tokenizer(texts, add_special_tokens=False)["input_ids"])
        return [len(ids) + 1 for ids in encoded]

    return count


# --- The card -----------------------------------------------------------------------------------


def write_datacard(
    path: Path,
    statistics: Statistics,
    summary: Mapping[str, Any],
    splits: Sequence[Split],
    dropped: Mapping[str, int],
) -> None:
    """Write the card; `splits` are those that have rows."""
    card = _load_template("DATACARD.md.jinja").render(
        licence=_common_licence(
            licence for source in statistics.provenance.values() for licence in source.licences
        ),
        languages=[language for language, _ in statistics.languages.most_common()] or ["zh"],
        size=_size_category(statistics.n_rows),
        n_rows=statistics.n_rows,
        n_questions=sum(one["questions"] for one in summary["splits"].values()),
        statistics=summary,
        sources=[
            {
                "name": name,
                "rows": summary["sources"][name]["rows"],
                "licences": sorted(source.licences),
                "files": sorted(source.files),
                "url": source.address,
            }
            for name, source in sorted(statistics.provenance.items())
        ],
        teachers=sorted(statistics.teachers),
        rules=sorted(statistics.rules),
        costs={currency: round(amount, 4) for currency, amount in statistics.costs.items()},
        dropped=dropped,
        splits=splits,
    )
    write_text(path, card)


def _escape_cell(text: object) -> str:
    """Keep a text inside its table cell and out of the page's own markup."""
    return (
        str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
    )


def _common_licence(licences: Iterable[str]) -> str:
    """Return the licence tag of the card: `apache-2.0` only where every row says so."""
    return "apache-2.0" if {licence.lower() for licence in licences} == {"apache-2.0"} else "other"


def _size_category(n: int) -> str:
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    return next((name for power, name in enumerate(names, start=3) if n < 10**power), names[-1])


def _load_template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters["cell"] = _escape_cell
    return environment.from_string(files("medkd.merge").joinpath(name).read_text(encoding="utf-8"))


# --- LLaMA-Factory ------------------------------------------------------------------------------

REGISTRY = "dataset_info.json"


def name_dataset(split: Split) -> str:
    """Return the name under which LLaMA-Factory knows a split."""
    return f"medkd_{split}"


def read_registry(folder: Path) -> dict[str, Any]:
    """Read the registry that is in a folder already; raises InputError where it is none, before
    anything is written."""
    path = folder / REGISTRY
    if not path.exists():
        return {}
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(
            "{}: cannot be read as JSON ({}); mend it or give another --llamafactory", path, error
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            "{}: is no mapping of datasets; mend it or give another --llamafactory", path
        )
    return cast(dict[str, Any], content)


def write_registry(folder: Path, splits: Sequence[Split], has_pairs: bool = False) -> None:
    """Enter the splits, and the preference pairs where there are any, into the registry; `system`
    is mapped, or LLaMA-Factory would drop it."""
    registry = read_registry(folder)
    for split in splits:
        registry[name_dataset(split)] = {
            "file_name": f"{name_dataset(split)}.json",
            "formatting": "alpaca",
            "columns": {
                "prompt": "instruction",
                "query": "input",
                "response": "output",
                "system": "system",
            },
        }
    if has_pairs:
        sides = {"chosen": "chosen", "rejected": "rejected"}
        registry["medkd_preferences"] = {
            "file_name": "medkd_preferences.json",
            "formatting": "alpaca",
            "ranking": True,
            "columns": {"prompt": "instruction", "query": "input", "system": "system", **sides},
        }
    write_json(folder / REGISTRY, registry)


def write_recipe(folder: Path, splits: Sequence[Split], longest: int, is_tokens: bool) -> None:
    """Write the worked example's settings as a recipe, and the DeepSpeed settings it names; its
    cut-off trims no row."""
    cut_off = next((bound for bound in CUT_OFFS if longest <= bound), CUT_OFFS[-1])
    text = _load_template("llamafactory.yaml.jinja").render(
        train=name_dataset("train"),
        val=name_dataset("val") if "val" in splits else "",
        cut_off=cut_off,
        longest=longest,
        unit="tokens" if is_tokens else "characters",
        fits=longest <= cut_off,
    )
    write_text(folder / "medkd_sft.yaml", text)
    write_text(
        folder / "medkd_deepspeed.json",
        files("medkd.merge").joinpath("deepspeed.json").read_text(encoding="utf-8"),
    )
