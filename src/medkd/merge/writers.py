"""Writes a dataset in the forms that trainers read, one row after the other.

In: examples of one split. Out: our own records, `messages/` (JSON Lines for TRL, ms-swift and
OpenAI's form), and LLaMA-Factory's folder: `medkd_*` files, their entries
in `dataset_info.json`, a recipe. Every other entry of that folder stays as it was.
"""

import json
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import orjson

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import write_atomically, write_json, write_text
from medkd.core.records import Example, Split, to_alpaca
from medkd.text.encodings import read_text

Write = Callable[[Example], object]


def to_messages(example: Example) -> dict[str, list[dict[str, str]]]:
    """Write an example as a conversation of one question; a bare one has no system turn."""
    user = "\n".join(part for part in (example.instruction, example.input) if part)
    turns = [("system", example.system)] if example.system else []
    turns += [("user", user), ("assistant", thinking.write(example.reasoning, example.answer))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@contextmanager
def open_records(path: Path) -> Generator[Write, None, None]:
    """Write examples as our own records."""
    with write_atomically(path, binary=True) as file:
        yield lambda example: file.write(example.model_dump_json().encode() + b"\n")


@contextmanager
def open_messages(path: Path) -> Generator[Write, None, None]:
    """Write conversations as JSON Lines."""
    with write_atomically(path, binary=True) as file:
        yield lambda example: file.write(orjson.dumps(to_messages(example)) + b"\n")


def open_writers(directory: Path, split: Split, stack: ExitStack) -> list[Write]:
    """Open every file that one split is written to in the stage's own directory."""
    return [
        stack.enter_context(open_records(directory / f"{split}.jsonl")),
        stack.enter_context(open_messages(directory / "messages" / f"{split}.jsonl")),
    ]


def open_by_source(folder: Path, stack: ExitStack) -> Write:
    """Write the rows of each source into a file of its own, opened with its first row."""
    opened: dict[str, Write] = {}

    def write(example: Example) -> None:
        if example.source not in opened:
            name = re.sub(r"[^\w.-]+", "_", example.source) or "_"
            opened[example.source] = stack.enter_context(open_records(folder / f"{name}.jsonl"))
        opened[example.source](example)

    return write


# --- LLaMA-Factory ------------------------------------------------------------------------------

REGISTRY = "dataset_info.json"
CUT_OFFS = (2048, 4096, 8192, 16384, 32768)
"""Lengths that the recipe chooses from: the first one that trims no row."""


def name_dataset(split: Split) -> str:
    """Return the name under which LLaMA-Factory knows a split."""
    return f"medkd_{split}"


@contextmanager
def open_alpaca(folder: Path, split: Split) -> Generator[Write, None, None]:
    """Write one alpaca file."""
    with write_atomically(folder / f"{name_dataset(split)}.json", binary=True) as file:
        before = b"["

        def write(example: Example) -> None:
            nonlocal before
            file.write(
                before
                + orjson.dumps(
                    to_alpaca(example, thinking.write(example.reasoning, example.answer))
                )
            )
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
