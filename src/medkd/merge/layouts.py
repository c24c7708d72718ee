"""Writes a dataset in the forms that trainers read, and says what is in it.

In: examples by split. Out: `llamafactory/` (alpaca JSON with a `dataset_info.json` that maps `system`), `messages/` (JSON Lines for TRL,
ms-swift and OpenAI's form), `statistics.json`, `DATACARD.md`. Not done here: our own form (`Example` records, written by the stage).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from medkd.core import thinking
from medkd.core.artifacts import write_atomically, write_json, write_text
from medkd.core.records import Example, Split, Style

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Dataset = Mapping[Split, Sequence[Example]]

_LENGTHS: dict[str, Callable[[Example], int]] = {
    "question": lambda example: len(example.input),
    "reasoning": lambda example: len(example.reasoning),
    "answer": lambda example: len(example.answer),
}


def to_alpaca(example: Example) -> dict[str, str]:
    """Write an example in the alpaca form; LLaMA-Factory joins instruction and input by a newline."""
    return {
        "system": example.system,
        "instruction": example.instruction,
        "input": example.input,
        "output": thinking.write(example.reasoning, example.answer),
    }


def to_messages(example: Example) -> dict[str, list[dict[str, str]]]:
    """Write an example as a conversation of one question; a bare one has no system turn."""
    user = "\n".join(part for part in (example.instruction, example.input) if part)
    turns = [("system", example.system)] if example.system else []
    turns += [("user", user), ("assistant", thinking.write(example.reasoning, example.answer))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def write_llamafactory(directory: Path, dataset: Dataset) -> None:
    """Write one alpaca file a split and the registry that LLaMA-Factory's `dataset_dir` needs."""
    registry: dict[str, Any] = {}
    for split, examples in dataset.items():
        with write_atomically(directory / f"{split}.json") as file:
            lines = (json.dumps(to_alpaca(example), ensure_ascii=False) for example in examples)
            file.write("[" + ",\n".join(lines) + "]\n")
        registry[f"medkd_{split}"] = {
            "file_name": f"{split}.json",
            "formatting": "alpaca",
            "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"},
        }
    write_json(directory / "dataset_info.json", registry)


def write_messages(directory: Path, dataset: Dataset) -> None:
    """Write one JSON Lines file of conversations a split."""
    for split, examples in dataset.items():
        with write_atomically(directory / f"{split}.jsonl") as file:
            for example in examples:
                file.write(json.dumps(to_messages(example), ensure_ascii=False) + "\n")


def collect_statistics(dataset: Dataset, repairs: Mapping[str, int]) -> dict[str, Any]:
    """Count rows by split, source and style, and give the lengths in characters."""
    rows = {split: {"rows": len(examples), **_describe(examples)} for split, examples in dataset.items()}
    everything = [example for examples in dataset.values() for example in examples]
    sources = sorted({example.source for example in everything})
    return {
        "splits": rows,
        "sources": {source: _count_source([e for e in everything if e.source == source], dataset, source) for source in sources},
        "repairs": {name: n for name, n in repairs.items() if n},
    }


def _count_source(examples: Sequence[Example], dataset: Dataset, source: str) -> dict[str, Any]:
    by_split = {split: sum(example.source == source for example in rows) for split, rows in dataset.items()}
    return {"rows": len(examples), "by_split": by_split, **_describe(examples)}


def _describe(examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "styles": {style: sum(example.style == style for example in examples) for style in get_args(Style)},
        "with_known_diagnosis": sum(bool(example.reference) for example in examples),
        "characters": {part: summarise(map(measure, examples)) for part, measure in _LENGTHS.items()},
    }


def summarise(lengths: Iterable[int]) -> dict[str, int]:
    """Give median, 90th and 99th percentile and maximum; zeros for nothing."""
    ordered = sorted(lengths) or [0]
    places = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in places.items()}


def write_datacard(path: Path, dataset: Dataset, statistics: Mapping[str, Any], dropped: Mapping[str, int]) -> None:
    """Write the card in Hugging Face's form: sources, licences, counts, losses."""
    from jinja2 import Environment, StrictUndefined

    everything = [example for examples in dataset.values() for example in examples]
    template = files("medkd.merge").joinpath("DATACARD.md.jinja").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701  (Markdown)
    environment.filters["cell"] = _escape_cell
    card = environment.from_string(template).render(
        licence=_common_licence(everything),
        languages=_find_languages(everything),
        size=_size_category(len(everything)),
        n_rows=len(everything),
        statistics=statistics,
        sources=_describe_sources(everything),
        teachers=sorted({example.lineage.teacher for example in everything if example.lineage.teacher}),
        rules=sorted({example.lineage.deidentified_by for example in everything if example.lineage.deidentified_by}),
        costs=_add_up_costs(everything),
        dropped=dropped,
        splits=[split for split in SPLITS if dataset.get(split)],
    )
    write_text(path, card)


def _escape_cell(text: object) -> str:
    """Keep a text inside its table cell and out of the page's own markup."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _common_licence(examples: Iterable[Example]) -> str:
    """Give the licence tag of the card: `apache-2.0` only where every row says so."""
    return "apache-2.0" if {example.lineage.licence.lower() for example in examples} == {"apache-2.0"} else "other"


def _find_languages(examples: Iterable[Example]) -> list[str]:
    found = Counter("zh" if is_chinese(example.input) else "en" for example in examples)
    return [language for language, _ in found.most_common()] or ["zh"]


def is_chinese(text: str) -> bool:
    """Tell whether hanzi make up a good part of a text."""
    return sum("一" <= c <= "鿿" for c in text) * 5 >= len(text)


def _size_category(n: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if n < bound), "1M<n<10M")


def _describe_sources(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """List each source with its licences, files and address: the site alone where every row has an address of its own."""
    found: dict[str, dict[str, Any]] = {}
    for example in examples:
        entry = found.setdefault(example.source, {"rows": 0, "licences": set[str](), "files": set[str](), "urls": set[str]()})
        entry["rows"] += 1
        entry["licences"].add(example.lineage.licence or "not stated")
        entry["files"].add(example.lineage.origin)
        entry["urls"].add(example.lineage.url)
    return [
        {
            "name": name,
            "rows": entry["rows"],
            "licences": sorted(entry["licences"]),
            "files": sorted(entry["files"]),
            "url": entry["urls"].pop()
            if len(entry["urls"]) == 1
            else ", ".join(sorted({urlsplit(url).netloc for url in entry["urls"]} - {""})),
        }
        for name, entry in sorted(found.items())
    ]


def _add_up_costs(examples: Iterable[Example]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for example in examples:
        if example.lineage.cost.amount:
            total[example.lineage.cost.currency] += example.lineage.cost.amount  # pyright: ignore[reportArgumentType]
    return {currency: round(amount, 4) for currency, amount in total.items()}
