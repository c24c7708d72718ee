"""Why does a distilled student not stop, and what does each cure bring? Spoils the tiny student in
six ways, each alone, and cures each.

In: the run directory of a finished `medkd demo`. Out: a table: share of answers that stop, think
and loop, accuracy, tokens an answer, rows, and processor seconds of the training, each the mean
over the seeds with the lowest and the highest beside where they differ.
Run: `.venv/bin/python bench/stopping.py --run runs/demo --seeds 0 1 2`. One pass over the rows;
greedy, at most 160 tokens an answer.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core import thinking
from medkd.core.jsonl import RecordReader
from medkd.core.records import Example, FinishReason, Sampling
from medkd.grading.diagnosis import grade
from medkd.models.chat_template import (
    TEXT_END,
    find_end_of_turn,
    find_plain_template,
    make_messages,
    render,
)
from medkd.models.inspect import read_model_shape
from medkd.models.load import LoadedModel, load_libraries, load_model, shipped_dir
from medkd.text.similarity import is_looping
from medkd.train.config import Config, make_lora_config
from medkd.train.preflight import IGNORED, TokenizedExample, tokenize
from medkd.train.stage import make_dataset, make_trainer, make_trainer_config

LIMIT = 240
"""Tokens that the spoiled cutoff trims rows to: between the shortest and the longest."""
MAX_TOKENS = 160
DIGITS = {"stops": 2, "thinks": 2, "loops": 2, "right": 2, "tokens": 0, "rows": 0, "processor s": 0}
"""Columns of the table, and how exactly each is written."""


class Student(NamedTuple):
    """A trained student and what its training took."""

    loaded: LoadedModel
    n_rows: int
    seconds: float
    """Of the processor, without loading."""


def train(
    rows: Sequence[TokenizedExample],
    seed: int,
    spoil: Callable[[Any, list[int]], None] | None = None,
    cured: bool = False,
    batch_size: int = 8,
) -> Student:
    """Tune the tiny student on rows, its embeddings of special tokens spoiled before, and trained
    too where cured."""
    loaded = load_model("medkd:tiny", device="cpu")
    special = [
        loaded.tokenizer.convert_tokens_to_ids(token)
        for token in ("<|im_end|>", thinking.OPEN, thinking.CLOSE)
    ]
    if spoil:
        spoil(loaded.model, special)
    lora = make_lora_config(16, read_model_shape(shipped_dir()), special if cured else [])
    with TemporaryDirectory() as folder:
        config = Config(
            model="medkd:tiny",
            input=Path(folder),
            out=Path(folder),
            epochs=1,
            learning_rate=2e-3,
            batch_size=batch_size,
            seed=seed,
            trainer={"save_strategy": "no"},
        )
        args = make_trainer_config(config, "cpu", len(rows), has_val=False, packs=False)
        trainer = make_trainer(loaded.model, loaded.tokenizer, make_dataset(rows), None, args, lora)
        started = time.process_time()
        trainer.train()
    model = trainer.model.merge_and_unload().eval()
    return Student(LoadedModel(model, loaded.tokenizer), len(rows), time.process_time() - started)


def untrain(model: Any, ids: list[int]) -> None:
    """Put embeddings back to where a base that never met the tokens has them."""
    with torch.no_grad():
        weights = model.get_input_embeddings().weight
        weights[ids] = (
            torch.randn(len(ids), weights.shape[1], generator=torch.Generator().manual_seed(0))
            * 0.02
        ).to(weights.dtype)


def trim(rows: Sequence[TokenizedExample]) -> list[TokenizedExample]:
    """Cut the end of long rows off, as a cutoff length does."""
    return [TokenizedExample(row.input_ids[:LIMIT], row.labels[:LIMIT]) for row in rows]


def mask(rows: Sequence[TokenizedExample], end_id: int) -> list[TokenizedExample]:
    """Ignore the end of the turn, as masking by token does where pad and end are one."""
    return [
        TokenizedExample(
            row.input_ids, [IGNORED if label == end_id else label for label in row.labels]
        )
        for row in rows
    ]


def glue(rows: Sequence[TokenizedExample], n: int = 4) -> list[TokenizedExample]:
    """Pack rows into one another without bounds."""
    groups = [rows[start : start + n] for start in range(0, len(rows), n)]
    return [
        TokenizedExample(
            [i for row in group for i in row.input_ids],
            [label for row in group for label in row.labels],
        )
        for group in groups
    ]


def ask(
    student: Student,
    examples: Sequence[Example],
    stops: Sequence[int] | None = None,
    has_template: bool = True,
) -> dict[str, float]:
    """Ask questions and score the answers; `stops` are the only tokens that end one."""
    model = TransformersEngine(student.loaded, 64, is_looping)
    model.stop_ids = list(stops) if stops else model.stop_ids
    template = find_plain_template(student.loaded.tokenizer)
    prompts = [
        render(student.loaded.tokenizer, make_messages(e.input), template)
        if has_template
        else e.input
        for e in examples
    ]
    drawn = dict(model.generate(prompts, Sampling(max_tokens=MAX_TOKENS)))
    texts = [drawn[at].text for at in range(len(examples))]
    return {
        "stops": fmean(drawn[at].finish_reason == FinishReason.STOP for at in drawn),
        "thinks": fmean(thinking.is_well_formed(text) for text in texts),
        "loops": fmean(
            drawn[at].finish_reason == FinishReason.LOOP or is_looping(drawn[at].text)
            for at in drawn
        ),
        "right": fmean(
            grade(thinking.read(text).answer, e.reference).principal
            for text, e in zip(texts, examples, strict=True)
        ),
        "tokens": fmean(drawn[at].n_tokens for at in drawn),
    }


def measure(
    seed: int, examples: Sequence[Example], asked: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Spoil and cure with one seed; gives the scores of each student."""
    tokenizer = load_model("medkd:tiny", device="cpu").tokenizer
    end_id, template = find_end_of_turn(tokenizer), find_plain_template(tokenizer) or ""
    text_end = int(tokenizer.convert_tokens_to_ids(TEXT_END))
    rows, _ = tokenize(examples, tokenizer, "reasoned", 1024, template, end_id)
    short, _ = tokenize(examples, tokenizer, "reasoned", LIMIT, template, end_id)
    found: dict[str, dict[str, float]] = {}

    def note(name: str, student: Student, **how: Any) -> None:
        found[name] = ask(student, asked, **how) | {
            "rows": student.n_rows,
            "processor s": student.seconds,
        }

    whole = train(rows, seed)
    note("as MedKD trains it", whole)
    note(f"1 rows trimmed at {LIMIT} tokens", train(trim(rows), seed))
    note("1 cured: long rows dropped", train(short, seed))
    note("2 end and thinking tokens untrained, frozen", train(rows, seed, untrain))
    note("2 cured: their rows are trained too", train(rows, seed, untrain, cured=True))
    note("3 only the end of the text stops it", whole, stops=[text_end])
    note("4 end of turn masked with the padding", train(mask(rows, end_id), seed))
    note("5 packed without bounds", train(glue(rows), seed, batch_size=2))
    note("6 served without template and stops", whole, stops=[text_end], has_template=False)
    return found


def write_cell(values: Sequence[float], digits: int) -> str:
    """Write a mean, and beside it how far the seeds lie apart."""
    texts = [f"{value:.{digits}f}" for value in (min(values), max(values))]
    return f"{fmean(values):.{digits}f}" + (
        f" ({texts[0]}–{texts[1]})" if texts[0] != texts[1] else ""
    )


def main() -> None:
    """Spoil, cure, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    load_libraries()
    examples = list(RecordReader(options.run / "merge" / "train.jsonl", Example, made_by="merge"))
    asked = list(RecordReader(options.run / "merge" / "test.jsonl", Example, made_by="merge"))[
        : options.questions
    ]
    found = [measure(seed, examples, asked) for seed in options.seeds]
    print("| student | " + " | ".join(DIGITS) + " |\n|" + "---|" * (1 + len(DIGITS)))
    for name in found[0]:
        cells = (
            write_cell([scores[name][key] for scores in found], digits)
            for key, digits in DIGITS.items()
        )
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
