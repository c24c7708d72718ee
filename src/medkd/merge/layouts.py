"""Writes a dataset in the forms that trainers read, one row after the other.

In: examples of one split. Out: `messages/` (JSON Lines for TRL, ms-swift and OpenAI's form),
`parquet/` where wanted.
Not done here: LLaMA-Factory's folder (`merge.llamafactory`), our own form (`Example` records,
written by the stage).
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import write_atomically
from medkd.core.records import Example, Split

Write = Callable[[Example], object]
_PARQUET_ROWS = 2048
"""Rows in one group of a Parquet file."""


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


@contextmanager
def open_parquet(path: Path) -> Generator[Write, None, None]:
    """Write conversations and our own fields as a Parquet file, the lineage as JSON text."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    texts = (
        "id",
        "source",
        "style",
        "system",
        "instruction",
        "input",
        "reasoning",
        "answer",
        "reference",
        "lineage",
    )
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("department", pa.list_(pa.string())),
            ("messages", pa.list_(turn)),
        ]
    )
    waiting: list[dict[str, Any]] = []
    with (
        write_atomically(path, binary=True) as file,
        ParquetWriter(file, schema, compression="zstd") as writer,
    ):

        def write(example: Example) -> None:
            fields = example.model_dump(mode="json")
            fields["lineage"] = orjson.dumps(fields["lineage"]).decode()
            waiting.append(fields | to_messages(example))
            if len(waiting) >= _PARQUET_ROWS:
                flush()

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        yield write
        flush()


def check_parquet() -> None:
    """Raise InputError where Parquet cannot be written."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise InputError(
            "--parquet: writing it needs pyarrow; pip install pyarrow, or leave --parquet out"
        )


def open_layouts(
    directory: Path, split: Split, stack: ExitStack, with_parquet: bool
) -> list[Write]:
    """Open every file that one split is written to in the stage's own directory."""
    writers = [
        stack.enter_context(open_records(directory / f"{split}.jsonl")),
        stack.enter_context(open_messages(directory / "messages" / f"{split}.jsonl")),
    ]
    if with_parquet:
        writers.append(
            stack.enter_context(open_parquet(directory / "parquet" / f"{split}.parquet"))
        )
    return writers
