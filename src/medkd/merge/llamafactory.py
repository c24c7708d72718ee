"""Writes a dataset for LLaMA-Factory: alpaca files, their entries in `dataset_info.json`, and a
recipe that trains on them.

In: examples of one split; the folder, which may be LLaMA-Factory's own `data`. Out: files named
`medkd_*` in it and entries of the same names; every other entry stays as it was. Not done here:
running LLaMA-Factory.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import orjson

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import write_atomically, write_json, write_text
from medkd.core.records import Example, Split
from medkd.merge.layouts import Write

REGISTRY = "dataset_info.json"
CUT_OFFS = (2048, 4096, 8192, 16384, 32768)
"""Lengths that the recipe chooses from: the first one that trims no row."""


def name_dataset(split: Split) -> str:
    """Give the name under which LLaMA-Factory knows a split."""
    return f"medkd_{split}"


def to_alpaca(example: Example) -> dict[str, str]:
    """Write an example in the alpaca form; LLaMA-Factory joins instruction and input by a
    newline."""
    return {
        "system": example.system,
        "instruction": example.instruction,
        "input": example.input,
        "output": thinking.write(example.reasoning, example.answer),
    }


@contextmanager
def open_alpaca(folder: Path, split: Split) -> Generator[Write, None, None]:
    """Write one alpaca file."""
    with write_atomically(folder / f"{name_dataset(split)}.json", binary=True) as file:
        before = b"["

        def write(example: Example) -> None:
            nonlocal before
            file.write(before + orjson.dumps(to_alpaca(example)))
            before = b",\n"

        yield write
        file.write((b"[" if before == b"[" else b"") + b"]\n")


def read_registry(folder: Path) -> dict[str, Any]:
    """Read the registry that is in a folder already; raises InputError where it is none, before
    anything is written."""
    path = folder / REGISTRY
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); mend it or give another --llamafactory"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: is no mapping of datasets; mend it or give another --llamafactory"
        )
    return cast(dict[str, Any], content)


def write_registry(folder: Path, splits: Sequence[Split]) -> None:
    """Enter the splits into the registry; `system` is mapped, or LLaMA-Factory would drop it."""
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
    write_json(folder / REGISTRY, registry)


def write_recipe(folder: Path, splits: Sequence[Split], longest: int, is_tokens: bool) -> None:
    """Write the worked example's settings as a recipe, and the DeepSpeed settings it names; its
    cut-off trims no row."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701
    )
    template = environment.from_string(
        files("medkd.merge").joinpath("llamafactory.yaml.jinja").read_text(encoding="utf-8")
    )
    cut_off = next((bound for bound in CUT_OFFS if longest <= bound), CUT_OFFS[-1])
    text = template.render(
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
