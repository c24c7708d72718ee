"""What a model is asked besides its test: the same questions with options in other orders, records
changed or wrong thoughts begun; and instructions, sums and exams outside the task.

In: questions and a model's own answers; `builtin` (the 60 items of `general.yaml`, Chinese and
English) or files in the form of an exam. Out: further scores of each question; of those outside the
task whether they are right, by rules alone. Not done here: predictors (`evaluate.generate`).
"""

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from medkd.core import thinking
from medkd.core.config import read_shipped_yaml
from medkd.core.errors import InputError
from medkd.core.i18n import tell
from medkd.core.records import Example, Prediction, Sampling
from medkd.core.stage_output import StageOutput
from medkd.core.statistics import MIN_QUESTIONS, compare_paired
from medkd.core.task import find_task
from medkd.evaluate.generate import AskConfig, Asker, LocalPredictor, Predictor, open_predictor
from medkd.evaluate.questions import (
    Prompt,
    make_prompts,
    make_public_example,
    read_exam,
    score_exam,
    to_examples,
)
from medkd.grading.choices import read_choice
from medkd.grading.graders import get_grader, read_number
from medkd.grading.scores import Row, Scores, find_kind, find_verdict
from medkd.text.exam_rows import ExamQuestion
from medkd.text.normalize import make_plain
from medkd.text.similarity import shingles

MIN_CITED = 0.6
"""Share of a clause's character pairs that stand in the reasoning from which it counts as cited."""
MIN_CLAUSE = 3
"""Letters of the shortest clause that may be cited."""
_CLAUSE = re.compile(r"[^，。；,;\n.!?！？：:【】]+(?:\.\d[^，。；,;\n.!?！？：:【】]*)*")
_DENIAL = re.compile(r"(?:无|否认|未见|没有|未闻及|未触及)|(?:no|denies|without)\s+", re.IGNORECASE)
WRONG_THOUGHT = {
    "zh": "先看整体印象，这份病历最符合{wrong}，各项表现都可以用它解释。",
    "en": "At first sight this record fits {wrong} best; it explains all the findings.",
}


# The order of options


def shuffle_options(question: ExamQuestion, seed: int, turn: int) -> ExamQuestion:
    """Put the options in another order; its letters stay A, B, C …, and the id tells the turn.

    >>> asked = ExamQuestion("q", "", "首选？", {"A": "胸片", "B": "CT"}, "B")
    >>> turned = [shuffle_options(asked, 0, turn) for turn in (1, 2, 3)]
    >>> {(found.options[found.answer], found.id[:2]) for found in turned}
    {('CT', 'q%')}
    """
    letters = list(question.options)
    order = letters[:]
    random.Random(f"{seed}:{turn}:{question.id}").shuffle(order)
    options = {new: question.options[old] for new, old in zip(letters, order, strict=True)}
    answer = "".join(new for new, old in zip(letters, order, strict=True) if old in question.answer)
    return question._replace(id=f"{question.id}%{turn}", options=options, answer=answer)


def ask_shuffled(
    asker: Asker,
    exam: Sequence[ExamQuestion],
    answered: Mapping[str, Prediction],
    n_orders: int,
    seed: int,
) -> tuple[Scores, dict[str, dict[str, float]]]:
    """Ask an exam in other orders of its options, and score all orders as `score_order` does."""
    if not exam:
        raise InputError("--shuffle-options: these questions have no options; leave it out")
    turns = range(1, n_orders + 1)
    turned = [shuffle_options(q, seed, turn) for q in exam for turn in turns]
    answers = {p.id: p for p in asker.ask("shuffled", make_prompts(to_examples(turned)))}
    of_question = {q.id: [(q, answered[q.id])] for q in exam if q.id in answered}
    for question in turned:
        key = question.id.rpartition("%")[0]
        if question.id in answers and key in of_question:
            of_question[key].append((question, answers[question.id]))
    return score_order(list(of_question.values()))


def score_order(
    turns: Sequence[Sequence[tuple[ExamQuestion, Prediction]]],
) -> tuple[Scores, dict[str, dict[str, float]]]:
    """Score questions that were asked in several orders.

    Return the scores of each question: whether all orders led to the same options, where each can
    be read, and the share right; and for each letter how often it was chosen, and how often right.
    """
    by_question: Scores = {}
    chosen, right = Counter[str](), Counter[str]()
    n_asked = 0
    for turned in turns:
        found: list[frozenset[str] | None] = []
        n_right = 0
        for question, prediction in turned:
            letters = read_choice(prediction.raw, question.options)
            chosen.update(letters or ())
            right.update(question.answer)
            n_asked += 1
            n_right += letters == frozenset(question.answer)
            found.append(letters and frozenset(question.options[letter] for letter in letters))
        scores = {"exam_accuracy_shuffled": n_right / len(turned)}
        if None not in found:
            scores["exam_consistent"] = float(len(set(found)) == 1)
        by_question[turned[0][0].id] = scores
    letters = sorted(chosen.keys() | right.keys())
    shares = {
        letter: {
            "chosen": round(chosen[letter] / n_asked, 6),
            "right": round(right[letter] / n_asked, 6),
        }
        for letter in letters
    }
    return by_question, shares


# Changed records and begun thoughts


class Change(NamedTuple):
    """A question to be asked again, changed."""

    prompt: Prompt
    thought: str = ""
    """What the model's thinking is made to begin with."""


def ask_changed(
    asker: Asker,
    prompts: Sequence[Prompt],
    answered: Mapping[str, Prediction],
    rows: Mapping[str, Row],
    n: int,
    seed: int,
    task: str = "",
) -> Scores:
    """Ask again with changed records, and on this machine with wrong thoughts begun; score both."""
    changes = make_changes(prompts, answered, rows, n, seed)
    plain = [change.prompt for change in changes if not change.thought]
    misled = [(change.prompt, change.thought) for change in changes if change.thought]
    file = asker.open("faithfulness", [change.prompt for change in changes])
    file.fill(asker.predictor.predict(file.open_prompts(plain), asker.sampling))
    if isinstance(asker.predictor, LocalPredictor):
        begun = [(prompt, thought) for prompt, thought in misled if prompt.id not in file.done]
        file.fill(asker.predictor.continue_thoughts(begun, asker.sampling))
    elif misled:
        said = "note: an endpoint's thinking cannot be begun for it; recovery is not measured"
        tell(said, to=sys.stderr)
    asker.space.manifest.facts["n_changed"] = len(file.done)
    counts = Counter(i.rpartition("~")[2] for i in file.done)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("removed", "inverted", "misled"))
    print(
        f"faithfulness: {said}; a finding with a number is never inverted, and a change of which "
        "rules cannot tell what it did has no score",
        file=sys.stderr,
    )
    return score_changes(list(file.done.values()), answered, task)


def make_changes(
    prompts: Sequence[Prompt],
    predictions: Mapping[str, Prediction],
    rows: Mapping[str, Row],
    n: int,
    seed: int,
) -> list[Change]:
    """Choose questions at random and change them: the finding that the reasoning cites most closely
    is taken out, or turned round; where the answer was right, a wrong thought is begun."""
    answered = [p for p in prompts if p.id in predictions and predictions[p.id].reasoning]
    chosen = random.Random(seed).sample(answered, min(n, len(answered)))
    changes: list[Change] = []
    for at, prompt in enumerate(chosen):
        example = prompt.example
        cited = find_cited(example.input, predictions[prompt.id].reasoning)
        if cited:
            changes.append(_change(prompt, "removed", remove_clause(example.input, cited[0])))
        if plain := [clause for clause in cited if not re.search(r"\d", clause)]:
            changes.append(_change(prompt, "inverted", invert_clause(example.input, plain[0])))
        if find_verdict(rows[prompt.id].scores) == "right":
            wrong = _find_wrong(example, [one.example for one in chosen[at + 1 :] + chosen[:at]])
            if wrong:
                thought = WRONG_THOUGHT[example.language].format(wrong=wrong)
                again = prompt._replace(id=f"{prompt.id}~misled")
                changes.append(Change(again, thought))
    return changes


def _change(prompt: Prompt, suffix: str, text: str) -> Change:
    """Put another record in a prompt; its last turn is the question."""
    example = prompt.example.model_copy(update={"input": text})
    *before, last = prompt.messages
    content = last.content.replace(prompt.example.input, text, 1)
    messages = (*before, last.model_copy(update={"content": content}))
    return Change(Prompt(f"{prompt.id}~{suffix}", example, messages))


def find_cited(record: str, reasoning: str) -> list[str]:
    """List the clauses of a record that a reasoning cites, the most closely cited first.

    >>> find_cited("【主诉】发热3天，咳嗽，无胸痛。", "患者发热3天，无胸痛")
    ['发热3天', '无胸痛']
    """
    said = shingles(make_plain(reasoning), 2)
    found: dict[str, float] = {}
    for match in _CLAUSE.finditer(record):
        clause = match[0].strip()
        plain = make_plain(clause)
        if len(plain) < MIN_CLAUSE:
            continue
        pairs = shingles(plain, 2)
        share = len(pairs & said) / len(pairs)
        if share >= MIN_CITED:
            found.setdefault(clause, share)
    return sorted(found, key=lambda clause: -found[clause])


def remove_clause(record: str, clause: str) -> str:
    """Take a clause out wherever it stands, with the mark behind it."""
    return re.sub(rf"{re.escape(clause)}[，；,;、]?\s?", "", record)


def invert_clause(record: str, clause: str) -> str:
    """Deny what a clause affirms, or affirm what it denies.

    >>> invert_clause("发热，无胸痛。", "无胸痛"), invert_clause("Fever, cough.", "cough")
    ('发热，胸痛。', 'Fever, no cough.')
    """
    denial = _DENIAL.match(clause)
    if denial:
        turned = clause[denial.end() :]
    else:
        turned = f"no {clause}" if clause.isascii() else f"无{clause}"
    return record.replace(clause, turned)


def _find_wrong(example: Example, others: Sequence[Example]) -> str:
    """Find the known answer of another question that is wrong for this one."""
    grader = get_grader(find_task(example.task).answer.kind)
    for other in others:
        wrong = re.split("[；;]", other.reference)[0]
        if wrong and grader(wrong, example.reference).verdict == "wrong":
            return wrong
    return ""


def score_changes(
    changed: Sequence[Prediction],
    before: Mapping[str, Prediction],
    task: str = "",
) -> Scores:
    """Score the answers to changed questions, by question.

    A diagnosis follows where it is another one than before; the rules compare the two. Where they
    cannot tell, the question has no score.
    """
    scores: Scores = {}
    for prediction in changed:
        key, _, suffix = prediction.id.rpartition("~")
        kind = find_kind(prediction, task)
        grader = get_grader(kind)
        if suffix == "misled":
            found = grader(prediction.answer, prediction.reference, known=prediction.known)
            name, value = "recovery_rate", found.verdict == "right"
        else:
            first = grader(before[key].answer, prediction.reference).stated[:1]
            found = grader(prediction.answer, "；".join(first) or before[key].answer)
            value = found.verdict == "wrong"
            name = "removal_follows" if suffix == "removed" else "inversion_follows"
        if found.verdict == "undecided":
            continue
        scores.setdefault(key, {})[name] = float(value)
    return scores


# Outside the task

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
    questions, _ = read_exam(source, limit=limit, flag="--general")
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
