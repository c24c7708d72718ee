"""Counts a dataset while it is written, and describes it: rows, styles, lengths in characters and
tokens, what a cut-off would trim, where it comes from, under which licences, what was left out.

In: examples, one after the other. Out: `statistics.json`, `DATACARD.md` in the Hugging Face form.
Not done here: checking licences, refusing rows that are too long (`train`).
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import write_text
from medkd.core.records import Example, Split, Style
from medkd.merge.row_store import SPLITS
from medkd.models import chat_template, load
from medkd.text.normalize import is_chinese

CUT_OFFS = (2048, 4096, 8192)
PARTS = ("question", "reasoning", "answer")
_PLACES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def _columns() -> dict[str, "array[int]"]:
    return {part: array("I") for part in (*PARTS, "whole", "tokens")}


@dataclass
class Part:
    """What is known about one source within one split."""

    styles: Counter[str] = field(default_factory=Counter[str])
    questions: set[int] = field(default_factory=set[int])
    """Hashes of the different questions."""
    n_known: int = 0
    lengths: dict[str, "array[int]"] = field(default_factory=_columns)


@dataclass
class Provenance:
    """Where the rows of one source come from."""

    licences: set[str] = field(default_factory=set[str])
    files: set[str] = field(default_factory=set[str])
    sites: set[str] = field(default_factory=set[str])
    url: str | None = None
    """The one address of all rows; empty where they have several."""

    def add(self, example: Example) -> None:
        lineage = example.lineage
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
        self.parts: dict[tuple[Split, str], Part] = {}
        self.provenance: dict[str, Provenance] = {}
        self.languages, self.costs = Counter[str](), Counter[str]()
        self.teachers, self.rules = set[str](), set[str]()

    def add(self, split: Split, example: Example, n_tokens: int | None = None) -> None:
        """Count one row; `n_tokens` is the length of the whole conversation."""
        part = self.parts.setdefault((split, example.source), Part())
        part.styles[example.style] += 1
        part.questions.add(hash(example.input))
        part.n_known += bool(example.reference)
        lengths = (len(example.input), len(example.reasoning), len(example.answer))
        whole = sum(lengths) + len(example.system) + len(example.instruction)
        for name, length in zip((*PARTS, "whole"), (*lengths, whole), strict=True):
            part.lengths[name].append(length)
        if n_tokens is not None:
            part.lengths["tokens"].append(n_tokens)
        self.provenance.setdefault(example.source, Provenance()).add(example)
        self.languages["zh" if is_chinese(example.input) else "en"] += 1
        lineage = example.lineage
        if lineage.cost.amount:
            self.costs[lineage.cost.currency] += lineage.cost.amount  # pyright: ignore[reportArgumentType]
        if lineage.teacher:
            self.teachers.add(lineage.teacher)
        if lineage.deidentified_by:
            self.rules.add(lineage.deidentified_by)

    @property
    def n_rows(self) -> int:
        return sum(part.styles.total() for part in self.parts.values())

    def longest(self) -> tuple[int, bool]:
        """Return the length of the longest row of train and val, and whether it is in tokens;
        otherwise it is in characters."""
        parts = [part for (split, _), part in self.parts.items() if split != "test"]
        unit = "tokens" if any(part.lengths["tokens"] for part in parts) else "whole"
        return max(
            (max(part.lengths[unit], default=0) for part in parts), default=0
        ), unit == "tokens"

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
                        split: self.parts.get((split, source), Part()).styles.total()
                        for split in SPLITS
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


def _describe(parts: Sequence[Part]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "rows": sum(part.styles.total() for part in parts),
        "questions": len(set[int]().union(*(part.questions for part in parts))),
        "styles": {style: sum(part.styles[style] for part in parts) for style in get_args(Style)},
        "with_known_diagnosis": sum(part.n_known for part in parts),
        "characters": {
            name: summarise(length for part in parts for length in part.lengths[name])
            for name in PARTS
        },
    }
    if any(part.lengths["tokens"] for part in parts):
        described["tokens"] = summarise(
            length for part in parts for length in part.lengths["tokens"]
        )
    return described


def _describe_cut_offs(parts: Sequence[Part]) -> dict[str, Any]:
    """Say how many training rows a cut-off would trim, in tokens of the whole conversation, or in
    characters where none were counted."""
    unit = "tokens" if any(part.lengths["tokens"] for part in parts) else "characters"
    lengths = [
        length
        for part in parts
        for length in part.lengths["tokens" if unit == "tokens" else "whole"]
    ]
    trimmed = {str(bound): sum(length > bound for length in lengths) for bound in CUT_OFFS}
    return {
        "unit": unit,
        "trimmed": {
            bound: {"rows": n, "share": round(n / len(lengths), 4) if lengths else 0.0}
            for bound, n in trimmed.items()
        },
    }


def summarise(lengths: Iterable[int]) -> dict[str, int]:
    """Return median, 90th and 99th percentile and maximum; zeros for nothing."""
    ordered = sorted(lengths) or [0]
    return {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
        for name, share in _PLACES.items()
    }


# --- Tokens -------------------------------------------------------------------------------------

Count = Callable[[Sequence[Example]], list[int]]


def make_counter(name: str) -> Count:
    """Load a tokenizer by the name or folder of its model and make a function that counts the
    tokens of whole rows under its chat template, the end of the turn included; raises InputError
    where there is none."""
    try:
        folder = load.tiny_dir() if name == load.TINY else Path(name).expanduser()
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
    from jinja2 import Environment, StrictUndefined

    template = files("medkd.merge").joinpath("DATACARD.md.jinja").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters["cell"] = _escape_cell
    card = environment.from_string(template).render(
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
    bounds = (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    )
    return next((name for bound, name in bounds if n < bound), "1M<n<10M")
