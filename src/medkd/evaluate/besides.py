"""What is asked besides the questions themselves: samples, wordings, orders of options, changed
records, questions outside the task.

In: a predictor and the answers so far. Out: further scores of each question, tables, answers.
Not done here: the questions themselves (`evaluate.stage`), what each of these makes of an answer.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from medkd.core.completer import Sampling
from medkd.core.errors import InputError
from medkd.core.records import Example, Prediction
from medkd.core.stage_output import StageOutput
from medkd.evaluate.config import Config
from medkd.evaluate.faithfulness import make_changes, score_changes
from medkd.evaluate.general import BUILTIN, describe_forgetting, read_general, score_general
from medkd.evaluate.generate import (
    LocalPredictor,
    PredictionFile,
    Predictor,
    Prompt,
    Questions,
    ask_once,
    ask_samples,
    make_prompts,
    open_predictor,
)
from medkd.evaluate.multiple_choice import (
    make_public_example,
    score_order,
    shuffle_options,
    to_examples,
)
from medkd.evaluate.prompt_variants import make_variant_prompts, tabulate_variants
from medkd.evaluate.scoring import Row, score_samples

Scores = dict[str, dict[str, float]]
"""Id of a question to further scores of it."""


@dataclass
class Besides:
    """What came back."""

    scores: Scores = field(default_factory=dict[str, dict[str, float]])
    breakdown: dict[str, Any] = field(default_factory=dict[str, Any])
    extra: list[Prediction] = field(default_factory=list[Prediction])
    """Answers to questions without a known one."""
    general: list[Row] = field(default_factory=list[Row])
    """Scores of the questions outside the task."""


def ask_besides(
    config: Config,
    space: StageOutput,
    predictor: Predictor,
    questions: Questions,
    answered: Mapping[str, Prediction],
    rows: Mapping[str, Row],
    sampling: Sampling,
) -> Besides:
    """Ask what the config wants; each kind of question has a file of its own, and goes on."""
    found = Besides()
    if config.samples > 1:
        again = ask_samples(
            predictor, space.path("samples.jsonl"), questions.prompts, config.samples, sampling
        )
        for i in rows:
            votes = score_samples([answered[i], *again.get(i, [])], config.task, config.terms)
            _add(found.scores, {i: votes})
    if config.wordings:
        varied = make_variant_prompts(_choose_varied(config, questions.examples))
        path = space.path("wordings.jsonl")
        worded = ask_once(predictor, path, "wordings", varied, sampling, is_plain=True)
        found.breakdown["wordings"] = tabulate_variants(worded, config.seed)
    if config.ask:
        prompts = make_prompts(
            [make_public_example(f"ask:{n}", text) for n, text in enumerate(config.ask, start=1)]
        )
        path = space.path("besides.jsonl")
        found.extra = ask_once(predictor, path, "extra questions", prompts, sampling)
    if config.shuffle_options:
        scores, positions = _shuffle(config, space, predictor, questions, answered, sampling)
        _add(found.scores, scores)
        found.breakdown["positions"] = positions
    if config.faithfulness:
        scores = _change(config, space, predictor, questions.prompts, answered, rows, sampling)
        _add(found.scores, scores)
    if config.general:
        found.general = _ask_general(config, space, predictor, "general.jsonl")
    return found


def _add(scores: Scores, more: Mapping[str, Mapping[str, float]]) -> None:
    for key, found in more.items():
        scores[key] = {**scores.get(key, {}), **found}


def _choose_varied(config: Config, examples: Sequence[Example]) -> list[Example]:
    """Choose the questions that are also put in other words, those with a known answer first."""
    n = config.wordings
    return [e for e in examples if e.reference][:n] or list(examples[:n])


def _shuffle(
    config: Config,
    space: StageOutput,
    predictor: Predictor,
    questions: Questions,
    answered: Mapping[str, Prediction],
    sampling: Sampling,
) -> tuple[Scores, dict[str, dict[str, float]]]:
    """Ask an exam in other orders of its options."""
    if not questions.exam:
        raise InputError("--shuffle-options: these questions have no options; leave it out")
    turns = range(1, config.shuffle_options + 1)
    turned = [shuffle_options(q, config.seed, turn) for q in questions.exam for turn in turns]
    prompts = make_prompts(to_examples(turned))
    path = space.path("shuffled.jsonl")
    answers = {p.id: p for p in ask_once(predictor, path, "orders", prompts, sampling)}
    of_question = {q.id: [(q, answered[q.id])] for q in questions.exam if q.id in answered}
    for question in turned:
        key = question.id.rpartition("%")[0]
        if question.id in answers and key in of_question:
            of_question[key].append((question, answers[question.id]))
    return score_order(list(of_question.values()))


def _change(
    config: Config,
    space: StageOutput,
    predictor: Predictor,
    prompts: Sequence[Prompt],
    answered: Mapping[str, Prediction],
    rows: Mapping[str, Row],
    sampling: Sampling,
) -> Scores:
    """Ask again with changed records, and on this machine with wrong thoughts begun."""
    changes = make_changes(prompts, answered, rows, config.faithfulness, config.seed)
    plain = [change.prompt for change in changes if not change.thought]
    misled = [(change.prompt, change.thought) for change in changes if change.thought]
    file = PredictionFile(
        space.path("faithfulness.jsonl"), "changed", [change.prompt.id for change in changes]
    )
    file.fill(predictor.predict(file.open_prompts(plain), sampling))
    if isinstance(predictor, LocalPredictor):
        begun = [(prompt, thought) for prompt, thought in misled if prompt.id not in file.done]
        file.fill(predictor.continue_thoughts(begun, sampling))
    elif misled:
        print(
            "note: an endpoint's thinking cannot be begun for it; recovery is not measured",
            file=sys.stderr,
        )
    space.manifest.facts["n_changed"] = len(file.done)
    return score_changes(list(file.done.values()), answered, config.task)


def _ask_general(config: Config, space: StageOutput, predictor: Predictor, name: str) -> list[Row]:
    questions = read_general(config.general, config.limit)
    prompts = make_prompts([question.example for question in questions])
    sampling = Sampling(max_tokens=config.max_tokens, seed=config.seed)
    answers = ask_once(predictor, space.path(name), "general", prompts, sampling)
    return score_general(questions, answers)


def measure_forgetting(
    config: Config, space: StageOutput, student: Sequence[Row]
) -> dict[str, Any]:
    """Ask the base the questions outside the task too, and hold the student against it."""
    base_config = config.model_copy(update={"adapter": None})
    questions = read_general(config.general, config.limit)
    prompts = make_prompts([question.example for question in questions])
    with ExitStack() as servers:
        base = open_predictor(base_config, space, servers, prompts)
        rows = _ask_general(base_config, space, base, "general_base.jsonl")
    found = describe_forgetting(rows, student)
    sources = ", ".join(config.general) if config.general != (BUILTIN,) else "60 items"
    said = (
        f"outside the task ({sources}): base {found['base']:.3f} -> {found['student']:.3f}, "
        f"{found['difference']:+.3f} [{found['interval'][0]:+.3f}, {found['interval'][1]:+.3f}], "
        f"p {found['p']:.4f}, n {found['n']}"
    )
    print(
        f"warning: forgetting: {said}" if found["is_drop"] else f"general: {said}", file=sys.stderr
    )
    return found
