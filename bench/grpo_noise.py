"""How much of a reinforcement step is noise? Draws answers to the same questions twice, and compares the two gradients.

In: a run directory with `merge` and `train`. Out: the cosine of the two gradients (noise is different each time, what there is to learn is
not), with rare tokens at full weight and held back; and how few answers hold most of a gradient. Nothing is trained.
Run: `.venv/bin/python bench/grpo_noise.py --run runs/demo`
"""

import argparse
import tempfile
from pathlib import Path

import torch

from medkd.core.artifacts import RecordReader
from medkd.core.completer import Sampling
from medkd.core.records import Example
from medkd.models.load import load_model, load_tokenizer, resolve_model
from medkd.models.tokens import encode, find_plain_template, repair_pad_token
from medkd.train.grpo import AnswerTrainer, attach_adapter, make_trainer, make_trainer_config, score_each
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
    drawn = sampler.draw([question.prompt for question in asked], [first + number for _ in questions for number in range(n_each)])
    paid = [reward_diagnosis(sampler.read_rollout(g.ids, q.record, q.reference)) for g, q in zip(drawn, asked, strict=True)]
    rewards = torch.tensor(paid).view(-1, n_each)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten().tolist()
    tokenizer = sampler.local.tokenizer
    return [(encode(tokenizer, q.prompt), g.ids, a) for q, g, a in zip(asked, drawn, advantages, strict=True) if a]


def find_gradient(trainer: AnswerTrainer, rows: list[Row], rare_weight: float) -> torch.Tensor:
    """Give the gradient of a step made of these answers, flat."""
    trainer.rare_weight = rare_weight
    trainer.model.zero_grad()
    ordered = sorted(rows, key=lambda row: len(row[0]))
    for at in range(0, len(ordered), N_AT_ONCE):
        part = ordered[at : at + N_AT_ONCE]
        left, right = max(len(prompt) for prompt, _, _ in part), max(len(answer) for _, answer, _ in part)
        ids = torch.tensor([[0] * (left - len(p)) + p + a + [0] * (right - len(a)) for p, a, _ in part])
        mask = torch.tensor([[0] * (left - len(p)) + [1] * (len(p) + len(a)) + [0] * (right - len(a)) for p, a, _ in part])
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, right)
        weights = mask[:, -right:] * torch.tensor([[advantage] for _, _, advantage in part])
        (-(logps * weights).sum() / len(rows)).backward()
    return torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters() if p.grad is not None])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=8)
    options = parser.parse_args()
    adapter, folder = options.run / "train/adapter", resolve_model(MODEL)
    loaded, tokenizer = load_model(MODEL, device="cpu"), load_tokenizer(folder, adapter)
    repair_pad_token(tokenizer)
    model = attach_adapter(loaded.model, adapter, MODEL, folder)
    examples = list(RecordReader(options.run / "merge/train.jsonl", Example, made_by="merge"))[: options.questions]
    questions = ask(tokenizer, examples, find_plain_template(tokenizer))
    sampler = Sampler(model, tokenizer, Sampling(max_tokens=256, temperature=1.0, seed=0))
    with tempfile.TemporaryDirectory() as checkpoints:
        plan = {"max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 8}
        trainer_config = make_trainer_config(plan, Path(checkpoints), "cpu", loaded.model.dtype, {})
        trainer_config.reward_weights = [1.0]
        trainer = make_trainer(model, tokenizer, questions, {"diagnosis": score_each(reward_diagnosis)}, sampler, trainer_config)
        trainer.model.eval()
        one, other = (draw(sampler, questions, options.group_size, first) for first in (0, 1_000_000))
        print("| rare_weight | cosine of two draws | norm | five strongest answers of 100 hold |\n|---|---|---|---|")
        for rare_weight in (1.0, 0.0):
            first, second = find_gradient(trainer, one, rare_weight), find_gradient(trainer, other, rare_weight)
            some = one[:: max(1, len(one) // N_ALONE)][:N_ALONE]
            squares = sorted((float(find_gradient(trainer, [row], rare_weight).norm() ** 2) for row in some), reverse=True)
            cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
            print(f"| {rare_weight:g} | {cosine:.3f} | {float(first.norm()):.2f} | {sum(squares[:5]) / sum(squares):.0%} |", flush=True)


if __name__ == "__main__":
    main()
