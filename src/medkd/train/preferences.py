"""Preference training with TRL's DPO and KTO trainers: the better answer of a pair gets likelier.

In: `preferences.jsonl` of `merge --pairs`, the adapter of `train` (or none). Out: what `train`
writes. The reference is the start itself: its adapter kept beside the trained one, or the base with
the adapter switched off. Not done here: making pairs (`medkd.merge`).
"""

import random
import sys
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Preference
from medkd.core.stage_output import Manifest
from medkd.models.chat_template import encode_rows, make_messages, special_tokens
from medkd.models.load import choose_device, load_libraries, resolve_adapter
from medkd.report.run import write_training_page
from medkd.train.config import Config, build_trainer_config
from medkd.train.preflight import Drop, find_fault
from medkd.train.student import (
    Student,
    load_student,
    open_training,
    read_examples,
    train_student,
)

if TYPE_CHECKING:
    from transformers import Trainer

PAIRS = "preferences.jsonl"
N_SCORED = 64
"""Pairs whose likelihoods are taken before the first step."""
MAX_RATIO = 1.5
"""From this ratio of mean lengths on, length itself is the difference that is learnt."""
_OWN_KEYS = ("max_length", "packing", "early_stopping_patience", "precompute_ref_log_probs")


class TokenizedPair(NamedTuple):
    """A prompt and its two answers, each with the end of its turn."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def n_tokens(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


class PairFacts(NamedTuple):
    """What the pairs are like before the first step."""

    n_pairs: int
    mean_chosen_tokens: float
    mean_rejected_tokens: float
    chosen_logp: float
    """Mean log-likelihood of a token of the better answers, under the start."""
    rejected_logp: float
    right_way_round: float
    """Share of the scored pairs whose better answer is likelier a token already."""


def list_notes(facts: PairFacts) -> list[str]:
    """Describe the pairs in a line, and what may be learnt instead of quality in another."""
    n_chosen, n_rejected = facts.mean_chosen_tokens, facts.mean_rejected_tokens
    notes = [
        f"better answers have {n_chosen:.0f} tokens, worse ones {n_rejected:.0f}; {facts.n_pairs} "
        f"pairs; log-likelihood a token {facts.chosen_logp:.3f} and {facts.rejected_logp:.3f}, "
        f"margin {facts.chosen_logp - facts.rejected_logp:+.3f}; {facts.right_way_round:.0%} the "
        "right way round"
    ]
    if not 1 / MAX_RATIO < n_chosen / n_rejected < MAX_RATIO:
        notes.append(
            f"better answers are {n_chosen / n_rejected:.1f} times as long as worse ones: length "
            "may be all that is learnt; balance the pairs"
        )
    return notes


def train_on_preferences(config: Config) -> Manifest:
    """Train as configured; goes on from the newest whole checkpoint of a run that was killed."""
    load_libraries()
    path = resolve_input(config.input, PAIRS, made_by="merge --pairs")
    val_path = path.with_name("val.jsonl")
    adapter = resolve_adapter(config.adapter) if config.adapter else None
    inputs = {"input": path, "adapter": adapter}
    with open_training("train", config, inputs, "--max-length") as output:
        if output.is_finished:
            return output.manifest
        reader = RecordReader(path, Preference, made_by="merge --pairs")
        pairs = list(reader)
        output.read(reader.n_read)
        output.drop_all(reader.dropped())
        asked = read_examples(val_path if val_path.exists() else None)
        student = load_student(config, adapter, config.lora_rank)
        rows, dropped = tokenize_pairs(pairs, student, config.max_length)
        output.drop_all(dropped)
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
        if not rows:
            raise InputError(
                "{}: no pair is left to train on: {}; check --input and --max-length {}",
                config.input,
                reasons or "the file has no pairs",
                config.max_length,
            )
        facts = measure_pairs(student, rows, config.seed)
        first, *notes = list_notes(facts)
        print(f"train: {first}" + (f"; dropped: {reasons}" if reasons else ""), file=sys.stderr)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        trainer = make_trainer(config, student, rows)
        output.manifest.counts.kept = len(rows)
        output.manifest.facts = {"pairs": facts._asdict(), "findings": [first, *notes]}
        history = {config.method: {"pairs": len(rows)}}
        try:
            output.manifest.facts |= train_student(
                trainer, config, "train", student, pairs, asked, history
            )
        finally:
            lengths = {
                "better": [len(row.prompt_ids) + len(row.chosen_ids) for row in rows],
                "worse": [len(row.prompt_ids) + len(row.rejected_ids) for row in rows],
            }
            write_training_page(output.directory, output.manifest, lengths)
        return output.manifest


def tokenize_pairs(
    pairs: Sequence[Preference], student: Student, max_length: int
) -> tuple[list[TokenizedPair], dict[str, int]]:
    """Tokenize the pairs that can be used, and count the others by reason."""
    control_tokens = special_tokens(student.tokenizer)
    dropped: Counter[str] = Counter()
    usable: list[Preference] = []
    texts: list[str] = []
    for pair in pairs:
        better = thinking.write(pair.reasoning, pair.answer)
        worse = thinking.write(pair.rejected.reasoning, pair.rejected.answer)
        fault = find_fault(pair, better, "reasoned", control_tokens)
        if fault is None and any(token in worse for token in control_tokens):
            fault = Drop.CONTROL_TOKENS
        if fault is None and " ".join(better.split()) == " ".join(worse.split()):
            fault = Drop.NO_DIFFERENCE
        if fault is not None:
            dropped[str(fault)] += 1
            continue
        usable.append(pair)
        texts += [better, worse]
    turns = [make_messages(p.input, p.instruction, p.system) for p in usable for _ in range(2)]
    end_id = student.stop_ids[0]
    encoded = encode_rows(
        student.tokenizer, list(zip(turns, texts, strict=True)), student.plain_template, end_id
    )
    rows = [
        TokenizedPair(better.prompt, better.completion, worse.completion)
        for better, worse in zip(encoded[::2], encoded[1::2], strict=True)
    ]
    kept = [row for row in rows if row.n_tokens <= max_length]
    if len(kept) < len(rows):
        dropped[str(Drop.TOO_LONG)] = len(rows) - len(kept)
    return kept, dict(dropped.most_common())


def measure_pairs(student: Student, rows: Sequence[TokenizedPair], seed: int) -> PairFacts:
    """Measure lengths of all pairs, and likelihoods of some under the start."""
    import torch

    chosen = random.Random(seed).sample(list(rows), min(N_SCORED, len(rows)))
    model: Any = student.model
    was_training = model.training
    model.eval()

    def score(prompt: list[int], completion: list[int]) -> float:
        ids = torch.tensor([prompt + completion], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        learnt = ids[0, len(prompt) :]
        return -float(torch.nn.functional.cross_entropy(logits.float(), learnt))

    with torch.inference_mode():
        better = [score(row.prompt_ids, row.chosen_ids) for row in chosen]
        worse = [score(row.prompt_ids, row.rejected_ids) for row in chosen]
    model.train(was_training)
    return PairFacts(
        n_pairs=len(rows),
        mean_chosen_tokens=round(fmean(len(row.chosen_ids) for row in rows), 1),
        mean_rejected_tokens=round(fmean(len(row.rejected_ids) for row in rows), 1),
        chosen_logp=round(fmean(better), 4),
        rejected_logp=round(fmean(worse), 4),
        right_way_round=round(fmean(b > w for b, w in zip(better, worse, strict=True)), 4),
    )


def make_trainer(config: Config, student: Student, rows: Sequence[TokenizedPair]) -> "Trainer":
    """Make TRL's trainer of rows that are tokens already: tokenized by TRL, the thinking prefix
    would not be the one that is served."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    is_dpo = config.method == "dpo"
    config_class: Any = DPOConfig if is_dpo else KTOConfig
    base: Any = DPOTrainer if is_dpo else KTOTrainer

    class PretokenizedTrainer(base):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    made = [row._asdict() for row in rows] if is_dpo else make_single_rows(rows, config)
    settings = {
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate or 2e-5,
        "max_length": None,
    }
    device = choose_device(config.device)
    args = build_trainer_config(config_class, config, device, len(made), settings, _OWN_KEYS)
    return PretokenizedTrainer(
        model=student.model,
        args=args,
        train_dataset=Dataset.from_list(made),
        processing_class=student.tokenizer,
    )


def make_single_rows(rows: Sequence[TokenizedPair], config: Config) -> list[dict[str, Any]]:
    """Make the rows of KTO: each answer by itself with its verdict, a better one once however many
    pairs hold it, and beside it the next answer of its batch, by which TRL estimates divergence."""
    single = {
        (tuple(row.prompt_ids), tuple(ids)): is_better
        for row in rows
        for ids, is_better in ((row.rejected_ids, False), (row.chosen_ids, True))
    }
    listed = [(list(prompt), list(ids), label) for (prompt, ids), label in single.items()]
    if len(listed) < 2:
        raise InputError("--method kto: the only pair has equal answers; give more pairs")
    random.Random(config.seed).shuffle(listed)
    made: list[dict[str, Any]] = []
    for start in range(0, len(listed), config.batch_size):
        batch = listed[start : start + config.batch_size]
        others = batch if len(batch) > 1 else listed[start - 1 : start]
        for at, (prompt, ids, label) in enumerate(batch):
            entry = {"prompt_ids": prompt, "completion_ids": ids, "label": label}
            made.append(entry | {"KL_completion_ids": others[at - 1][1]})
    return made
