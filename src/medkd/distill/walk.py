"""A file of questions, asked: which requests a question makes, which of them need a second way, and
the rationales of it all.

In: `questions.jsonl`, a teacher over a ledger. Out: requests to settle, rationales in the order of
the questions. The file is read anew for each pass, so that memory does not grow with it. Not done
here: the stage's directory (`distill.stage`).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from medkd.core.completer import Completion, Request, Sampling
from medkd.core.records import Cost, Question, Rationale
from medkd.distill.prompts import Mode, Prompt, load_prompt, read_parts
from medkd.distill.stage import Config

Recall = Callable[[Request], Completion | None]
"""Gives what a ledger holds for a request."""


class Ways(NamedTuple):
    """How questions are asked: first, and where the first way brought no right answer."""

    first: Prompt
    second: Prompt | None


def find_ways(config: Config) -> Ways:
    """Load the prompts of a config."""
    second = (
        load_prompt(config.fallback, config.language)
        if config.fallback and config.mode == "solve"
        else None
    )
    return Ways(load_prompt(config.mode, config.language), second)


def make_requests(
    question: Question, prompt: Prompt, config: Config, mode: Mode
) -> Iterator[Request]:
    """Write the requests of one question, one a sample."""
    thinks = config.thinking if config.thinking is not None else mode == "solve"
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        thinking=thinks,
        effort=config.effort or None,
    )
    messages = prompt.messages(question)
    for sample in range(config.samples):
        yield Request(messages=messages, sampling=sampling, sample=sample)


def make_rationale(
    question: Question, sample: int, completion: Completion, model: str, mode: Mode
) -> Rationale:
    """Make the record of what a teacher said, whole or not."""
    parts = read_parts(completion.reasoning, completion.text)
    return Rationale(
        id=question.id if sample == 0 else f"{question.id}#{sample}",
        question=question,
        sample=sample,
        reasoning=parts.reasoning,
        answer=parts.answer,
        finish_reason=completion.finish_reason,
        complete=completion.complete and bool(parts.reasoning and parts.answer),
        model=model,
        mode=mode,
        attempts=completion.attempts,
        usage=completion.usage,
        cost=completion.cost,
    )


class Walk:
    """Walks through the questions of a file, as often as it takes."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path, self._config = path, config
        self.ways = find_ways(config)
        self.n_requests = count_lines(path) * config.samples

    def questions(self) -> Iterator[Question]:
        """Read the questions; lines that are none are named elsewhere."""
        with self._path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValidationError):
                    yield Question.model_validate_json(line)

    def first_requests(self) -> Iterator[tuple[Question, Request]]:
        for question in self.questions():
            for request in make_requests(
                question, self.ways.first, self._config, self._config.mode
            ):
                yield question, request

    def second_requests(
        self, recall: Recall, is_answered_only: bool = False
    ) -> Iterator[tuple[Question, Request]]:
        """Give the requests of the second way for all that the first brought no right answer to.

        `is_answered_only` leaves out those that have no answer yet, which may still turn out right.
        """
        for question, first in self.first_requests() if self.ways.second else ():
            completion = recall(first)
            if is_answered_only and not (completion and completion.complete):
                continue
            if not _is_right(question, completion):
                yield question, self._second(question, first)

    def rationales(self, recall: Recall, model: str, outcomes: Counter[str]) -> Iterator[Rationale]:
        """Give the rationale of everything that was asked; what became of each is counted."""
        for question, request in self.first_requests():
            completion, mode = recall(request), self._config.mode
            if (
                self.ways.second
                and not _is_right(question, completion)
                and (found := recall(self._second(question, request)))
            ):
                completion, mode = _add_up(completion, found), "rationalize"
            if completion:
                rationale = make_rationale(question, request.sample, completion, model, mode)
                outcomes["complete" if rationale.complete else rationale.finish_reason] += 1
                yield rationale

    def _second(self, question: Question, first: Request) -> Request:
        assert self.ways.second is not None  # noqa: S101 - only asked where there is one
        requests = list(make_requests(question, self.ways.second, self._config, "rationalize"))
        return requests[first.sample]


def _is_right(question: Question, completion: Completion | None) -> bool:
    from medkd.grading.diagnosis import grade

    if completion is None or not completion.complete:
        return False
    return grade(
        read_parts(completion.reasoning, completion.text).answer, question.reference
    ).principal


def _add_up(first: Completion | None, second: Completion) -> Completion:
    """Give the second answer with the price of both."""
    if first is None:
        return second
    total = Cost(amount=first.cost.amount + second.cost.amount, currency=second.cost.currency)
    return second.model_copy(
        update={
            "usage": first.usage + second.usage,
            "cost": total,
            "attempts": first.attempts + second.attempts,
        }
    )


def count_lines(path: Path) -> int:
    """Count the lines that hold anything."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
