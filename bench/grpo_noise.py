"""How much of a reinforcement step is noise? Draws answers to the same questions twice, and
compares the two gradients.

In: a run directory with `merge` and `train`. Out: the cosine of the two gradients (noise is
different each time, what there is to learn is not), for the adapter's weights and for the gain of
the final norm; and how few answers hold most of a gradient. Nothing is trained.
Run: `.venv/bin/python bench/grpo_noise.py --run runs/demo`
"""

import argparse
import tempfile
from pathlib import Path

import torch

from medkd.core.completer import Sampling
from medkd.core.jsonl import RecordReader
from medkd.core.records import Example
from medkd.models.chat_template import encode, find_plain_template, repair_pad_token
from medkd.models.load import load_model, load_tokenizer, resolve_model
from medkd.train.grpo import (
    FINAL_NORM,
    AnswerTrainer,
    attach_norm,
    make_trainer,
    make_trainer_config,
    score_each,
)
from medkd.train.rewards import reward_diagnosis
from medkd.train.rollouts import Asked, Sampler, ask

MODEL = "medkd:tiny"
N_AT_ONCE = 32
N_ALONE = 100

Row = tuple[list[int], list[int], float]
"""Prompt, answer, and how much better the answer was than the others of its group."""


def draw(sampler: Sampler, questions: list[Asked], n_each: int, first: int) -> list[Row]:
    """Draw groups of answers, and keep those that differ from their group."""
    asked = [question for question in questions for _ in range(n_each)]
    drawn = sampler.draw(
        [question.prompt for question in asked],
        [first + number for _ in questions for number in range(n_each)],
    )
    paid = [
        reward_diagnosis(sampler.read_rollout(g.ids, q.record, q.reference))
        for g, q in zip(drawn, asked, strict=True)
    ]
    rewards = torch.tensor(paid).view(-1, n_each)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten().tolist()
    tokenizer = sampler.local.tokenizer
    return [
        (encode(tokenizer, q.prompt), g.ids, a)
        for q, g, a in zip(asked, drawn, advantages, strict=True)
        if a
    ]


def find_gradients(trainer: AnswerTrainer, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Give the gradient of a step made of these answers, flat: that of the adapter, and that of the
    norm."""
    trainer.model.zero_grad()
    ordered = sorted(rows, key=lambda row: len(row[0]))
    for at in range(0, len(ordered), N_AT_ONCE):
        part = ordered[at : at + N_AT_ONCE]
        left, right = (
            max(len(prompt) for prompt, _, _ in part),
            max(len(answer) for _, answer, _ in part),
        )
        ids = torch.tensor(
            [[0] * (left - len(p)) + p + a + [0] * (right - len(a)) for p, a, _ in part]
        )
        mask = torch.tensor(
            [
                [0] * (left - len(p)) + [1] * (len(p) + len(a)) + [0] * (right - len(a))
                for p, a, _ in part
            ]
        )
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, right)
        weights = mask[:, -right:] * torch.tensor([[advantage] for _, _, advantage in part])
        (-(logps * weights).sum() / len(rows)).backward()
    found = {
        name: p.grad.flatten().clone()
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }
    norm = [gradient for name, gradient in found.items() if FINAL_NORM + "." in name]
    return {
        "adapter": torch.cat(
            [gradient for name, gradient in found.items() if FINAL_NORM + "." not in name]
        ),
        "norm": torch.cat(norm),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=8)
    options = parser.parse_args()
    adapter, folder = options.run / "train/adapter", resolve_model(MODEL)
    loaded, tokenizer = (
        load_model(MODEL, device="cpu", dtype="float32"),
        load_tokenizer(folder, adapter),
    )
    repair_pad_token(tokenizer)
    model = attach_norm(loaded.model, adapter, MODEL, folder)
    for name, weights in model.named_parameters():
        weights.requires_grad_("lora_" in name or weights.requires_grad)
    examples = list(RecordReader(options.run / "merge/train.jsonl", Example, made_by="merge"))[
        : options.questions
    ]
    questions = ask(tokenizer, examples, find_plain_template(tokenizer))
    sampler = Sampler(model, tokenizer, Sampling(max_tokens=256, temperature=1.0, seed=0))
    with tempfile.TemporaryDirectory() as checkpoints:
        plan = {"max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 8}
        trainer_config = make_trainer_config(plan, Path(checkpoints), "cpu", loaded.model.dtype, {})
        trainer_config.reward_weights = [1.0]
        trainer = make_trainer(
            model,
            tokenizer,
            questions,
            {"diagnosis": score_each(reward_diagnosis)},
            sampler,
            trainer_config,
        )
        trainer.model.eval()
        one, other = (
            draw(sampler, questions, options.group_size, first) for first in (0, 1_000_000)
        )
        print(
            "| weights | cosine of two draws | norm | five strongest answers of 100 hold |\n|---|---|---|---|"
        )
        first, second = find_gradients(trainer, one), find_gradients(trainer, other)
        some = [
            find_gradients(trainer, [row]) for row in one[:: max(1, len(one) // N_ALONE)][:N_ALONE]
        ]
        for name, gradient in first.items():
            squares = sorted((float(alone[name].norm() ** 2) for alone in some), reverse=True)
            cosine = float(torch.nn.functional.cosine_similarity(gradient, second[name], dim=0))
            print(
                f"| {name} | {cosine:.3f} | {float(gradient.norm()):.2g} | {sum(squares[:5]) / sum(squares):.0%} |"
            )


if __name__ == "__main__":
    main()
