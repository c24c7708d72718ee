"""Writes `DATACARD.md`: what is in a dataset, where it comes from, under which licences, and what
was left out.

In: the statistics of a dataset and the reasons of loss. Out: a card in the Hugging Face form. Not
done here: checking licences.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from medkd.core.jsonl import write_text
from medkd.core.records import Split
from medkd.merge.statistics import Statistics


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
    """Give the licence tag of the card: `apache-2.0` only where every row says so."""
    return "apache-2.0" if {licence.lower() for licence in licences} == {"apache-2.0"} else "other"


def _size_category(n: int) -> str:
    bounds = (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    )
    return next((name for bound, name in bounds if n < bound), "1M<n<10M")
