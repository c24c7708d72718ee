"""Can thinking come by itself? Reads how likely a student is to begin a thought, on questions
nobody trained it on.

In: a run directory with `merge`, and `train-answers` in it. Out: a line a student: the probability
of the thinking token as the first of an answer, mean and highest over questions, and how many
answers have to be drawn for one thought on average. Reinforcement can only push what is drawn. Run:
`.venv/bin/python bench/emergence.py --run runs/demo`
"""

import argparse
from pathlib import Path

import torch

from medkd.core.jsonl import RecordReader
from medkd.core.records import Example
from medkd.core.thinking import PREFIX
from medkd.models.chat_template import encode, find_plain_template
from medkd.models.load import load_model, load_tokenizer, resolve_model
from medkd.train.grpo import attach_adapter
from medkd.train.rollouts import ask

MODEL = "medkd:tiny"


def read_chances(adapter: Path | None, examples: list[Example]) -> list[float]:
    """Give the probability that an answer begins with the thinking token, question by question."""
    folder = resolve_model(MODEL)
    loaded, tokenizer = (
        load_model(MODEL, device="cpu", dtype="float32"),
        load_tokenizer(folder, adapter),
    )
    model = attach_adapter(loaded.model, adapter, MODEL, folder).eval() if adapter else loaded.model
    opening = encode(tokenizer, PREFIX)[0]
    chances: list[float] = []
    for question in ask(tokenizer, examples, find_plain_template(tokenizer)):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([encode(tokenizer, question.prompt)])).logits[
                0, -1
            ]
        chances.append(float(logits.softmax(-1)[opening]))
    return chances


def main() -> None:
    """Measure each student and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    examples = list(RecordReader(options.run / "merge/test.jsonl", Example, made_by="merge"))
    students = {
        "base": None,
        "answer-only": options.run / "train-answers/adapter",
        "distilled": options.run / "train/adapter",
    }
    print(
        "| student | n | mean chance of a thought | highest | answers for one thought |\n|---|---|---|---|---|"
    )
    for name, adapter in students.items():
        chances = read_chances(adapter, examples)
        mean = sum(chances) / len(chances)
        print(
            f"| {name} | {len(chances)} | {mean:.1e} | {max(chances):.1e} | {1 / mean:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
