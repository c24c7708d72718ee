"""What a model forgot: instructions and sums that have nothing to do with its task, and exams.

In: `builtin` (the 60 items of `general.yaml`, Chinese and English) or files in the form of an exam.
Out: of each answer whether it is right, by rules alone; student and base held against each other.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.config import read_shipped_yaml
from medkd.core.records import Example, Prediction, Sampling
from medkd.core.stage_output import StageOutput
from medkd.core.statistics import MIN_QUESTIONS, compare_paired
from medkd.evaluate.generate import AskConfig, Asker, Predictor, open_predictor
from medkd.evaluate.questions import (
    make_prompts,
    make_public_example,
    read_exam,
    score_exam,
    to_examples,
)
from medkd.grading.graders import read_number
from medkd.report.evaluations import Row

BUILTIN = "builtin"
_SENTENCE_END = "。.!！?？ \n\"'”’」"


class GeneralQuestion(NamedTuple):
    """A question outside the task."""

    example: Example
    is_right: Callable[[str], bool]
    """Tells whether what a model generated is right."""


def read_general(sources: Sequence[str], limit: int | None = None) -> list[GeneralQuestion]:
    """Read all questions, each source's under names of its own; `limit` holds for each file."""
    found: list[GeneralQuestion] = []
    for at, source in enumerate(sources):
        found += _read_builtin() if source == BUILTIN else _read_exam(source, at, limit)
    return found


def _read_builtin() -> list[GeneralQuestion]:
    items: list[dict[str, Any]] = read_shipped_yaml("medkd.evaluate", "general.yaml")
    return [
        GeneralQuestion(
            make_public_example(f"general:{item['id']}", item["ask"], subject=item["kind"]),
            _make_check(item["check"]),
        )
        for item in items
    ]


def _make_check(check: Mapping[str, Any]) -> Callable[[str], bool]:
    return lambda raw: meets(thinking.read(raw).answer, check)


def _read_exam(source: str, at: int, limit: int | None) -> list[GeneralQuestion]:
    questions, _ = read_exam(source, limit=limit)
    named = [q._replace(id=f"general:{at}:{q.id}", subject=source) for q in questions]

    def make_check(asked: Any) -> Callable[[str], bool]:
        return lambda raw: score_exam(asked, raw)["exam_accuracy"] == 1.0

    return [
        GeneralQuestion(example, make_check(question))
        for example, question in zip(to_examples(named), named, strict=True)
    ]


def meets(answer: str, check: Mapping[str, Any]) -> bool:
    """Tell whether an answer does all that a check asks; an empty one does nothing.

    >>> meets("- a\\n- b", {"lines": 2, "each_starts": "-"}), meets("Six.", {"lacks": ["i"]})
    (True, False)
    """
    text = answer.strip()
    return bool(text) and all(_CHECKS[name](text, wanted) for name, wanted in check.items())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bare(text: str) -> str:
    return text.strip(_SENTENCE_END).casefold()


def _read_json(text: str) -> Any:
    try:
        bare = text.strip().removeprefix("```").removeprefix("json").removesuffix("```")
        return json.loads(bare)
    except (ValueError, RecursionError):
        return None


def _hanzi(text: str) -> int:
    return len(re.findall("[一-鿿]", text))


_CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "number": lambda text, wanted: read_number(text) == float(wanted),
    "equals": lambda text, wanted: _bare(text) in [_bare(str(one)) for one in wanted],
    "contains": lambda text, wanted: all(str(w).casefold() in text.casefold() for w in wanted),
    "lacks": lambda text, wanted: not any(str(w).casefold() in text.casefold() for w in wanted),
    "starts": lambda text, wanted: text.startswith(str(wanted)),
    "ends": lambda text, wanted: text.endswith(str(wanted)),
    "lines": lambda text, wanted: len(_lines(text)) == wanted,
    "each_starts": lambda text, wanted: all(line.startswith(wanted) for line in _lines(text)),
    "numbered": lambda text, _: all(
        re.match(rf"{n}\s*[.、)．]", line) for n, line in enumerate(_lines(text), start=1)
    ),
    "words": lambda text, wanted: wanted[0] <= len(text.split()) <= wanted[1],
    "hanzi": lambda text, wanted: wanted[0] <= _hanzi(text) <= wanted[1],
    "is_upper": lambda text, wanted: (text == text.upper()) is wanted,
    "is_lower": lambda text, wanted: (text == text.lower()) is wanted,
    "occurs": lambda text, wanted: all(
        text.casefold().count(str(word).casefold()) == n for word, n in wanted.items()
    ),
    "json": lambda text, wanted: _read_json(text) == wanted,
    "json_keys": lambda text, wanted: (
        isinstance(found := _read_json(text), dict) and found.keys() == set(wanted)
    ),
}


def score_general(
    questions: Sequence[GeneralQuestion], predictions: Sequence[Prediction]
) -> list[Row]:
    """Score the answers to the questions outside the task."""
    by_id = {question.example.id: question for question in questions}
    return [
        Row(
            id=p.id,
            department=by_id[p.id].example.department,
            n_characters=len(p.question),
            scores={"general_accuracy": float(by_id[p.id].is_right(p.raw))},
        )
        for p in predictions
    ]


def ask_general(
    config: AskConfig,
    sources: Sequence[str],
    space: StageOutput,
    predictor: Predictor | None,
    name: str = "general",
) -> list[Row]:
    """Ask a model the questions outside the task and score its answers; without a predictor, open
    the model of the config."""
    questions = read_general(sources, config.limit)
    prompts = make_prompts([question.example for question in questions])
    sampling = Sampling(max_tokens=config.max_tokens, seed=config.seed)
    with ExitStack() as servers:
        asked = predictor or open_predictor(config, space, servers, prompts)
        return score_general(questions, Asker(asked, space, sampling).ask(name, prompts))


def measure_forgetting(
    config: AskConfig, sources: Sequence[str], space: StageOutput, student: Sequence[Row]
) -> dict[str, Any]:
    """Ask the base the questions outside the task too, and hold the student against it."""
    base = config.model_copy(update={"adapter": None})
    found = describe_forgetting(ask_general(base, sources, space, None, "general_base"), student)
    named = "60 items" if tuple(sources) == (BUILTIN,) else ", ".join(sources)
    said = (
        f"outside the task ({named}): base {found['base']:.3f} -> {found['student']:.3f}, "
        f"{found['difference']:+.3f} [{found['interval'][0]:+.3f}, {found['interval'][1]:+.3f}], "
        f"p {found['p']:.4f}, n {found['n']}"
    )
    mark = "warning: forgetting" if found["is_drop"] else "general"
    print(f"{mark}: {said}", file=sys.stderr)
    return found


def describe_forgetting(base: Sequence[Row], student: Sequence[Row]) -> dict[str, Any]:
    """Hold student and base against each other on the questions both answered."""
    before = {row.id: row.scores["general_accuracy"] for row in base}
    pairs = [
        (before[row.id], row.scores["general_accuracy"]) for row in student if row.id in before
    ]
    found = compare_paired([one for one, _ in pairs], [two for _, two in pairs])
    return {
        "n": found.n,
        "base": round(sum(one for one, _ in pairs) / found.n, 6),
        "student": round(sum(two for _, two in pairs) / found.n, 6),
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p": found.p,
        "lost": found.n_first_only,
        "gained": found.n_second_only,
        "is_drop": found.difference < 0 and found.p < 0.05 and found.n >= MIN_QUESTIONS,
    }
