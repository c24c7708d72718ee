"""What a question is asked next, until enough right answers are there or all tries are spent.

In: questions, a method, what was answered so far. Out: waves of requests; rationales at the end.
Not done here: sending (`completers.client`), the texts of prompts (`distill.prompts`).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb
from typing import NamedTuple, Protocol

from medkd.core.completer import Completion, Request
from medkd.core.records import Cost, Question, Rationale
from medkd.core.task import AnswerKind
from medkd.distill.prompts import Mode, PromptSetup, read_parts
from medkd.grading.graders import get_grader


class Teacher(Protocol):
    """Whoever answers requests and remembers the answers, as `completers.client` does."""

    def run(
        self,
        labelled: Iterable[tuple[str, Request]],
        n_requests: int,
        follow: Callable[[str], Iterable[tuple[str, Request]]],
    ) -> object: ...
    def recall(self, request: Request) -> Completion | None: ...


Recall = Callable[[int, Request], Completion | None]
"""Returns what the teacher of a place in the list has answered to a request."""
Show = Callable[[int, int], contextlib.AbstractContextManager[object]]
"""Opens the display of a round: the place of the teacher, the requests known by now."""


class Method(NamedTuple):
    """How questions are asked: of whom, how often, and what is done where nobody is right."""

    models: Sequence[str]
    """Names of the teachers' models, the cheapest first."""
    first: PromptSetup
    fallback: PromptSetup | None = None
    """Asked of the first teacher once nobody was right."""
    n_courses: int = 1
    """Rationales of a question that are asked for, each by itself."""
    n_tries: int = 1
    """Samples of one teacher until enough are right."""
    n_keep: int = 1
    """Right answers that are enough."""
    attempts: Mapping[str, Sequence[str]] = {}
    """Wrong answers of the student by question, where they are to be corrected."""

    def start(self, question: Question) -> Iterator["Course"]:
        """Begin the courses of a question."""
        for number in range(self.n_courses):
            yield Course(question, self, number)

    @property
    def needs_grade(self) -> bool:
        """Whether what is asked next depends on an answer's being right."""
        return self.fallback is not None or self.n_tries > 1 or len(self.models) > 1


class Ask(NamedTuple):
    """A request to one of the teachers."""

    teacher: int
    sample: int
    mode: Mode
    request: Request


class Heard(NamedTuple):
    """What came of an ask."""

    ask: Ask
    completion: Completion
    is_right: bool


@dataclass
class Course:
    """One question on its way: what it was asked, and what it is to be asked next."""

    question: Question
    method: Method
    number: int = 0
    heard: list[Heard] = field(default_factory=list[Heard])

    @property
    def label(self) -> str:
        return f"{self.question.id}#{self.number}" if self.number else self.question.id

    @property
    def n_right(self) -> int:
        return sum(heard.is_right for heard in self.heard)

    def next_wave(self) -> list[Ask]:
        """Write what is to be asked now, all of one teacher: as many samples as right ones are
        missing. Empty when there is enough, or nothing left to try."""
        method, n_missing = self.method, self.method.n_keep - self.n_right
        if n_missing <= 0:
            return []
        for teacher in range(len(method.models)):
            n_asked = self._count(teacher)
            if n_asked < method.n_tries:
                last = min(method.n_tries, n_asked + n_missing)
                return [self._ask(method.first, teacher, n) for n in range(n_asked, last)]
            if self.n_right:
                return []
        if method.fallback is None or self.n_right or self._has_fallen_back:
            return []
        return [self._ask(method.fallback, 0, 0)]

    def hear(self, ask: Ask, completion: Completion) -> None:
        """Take what came of an ask."""
        is_needed = self.method.needs_grade and ask.mode == self.method.first.mode
        is_right = is_answer_right(self.question, completion, self.method) if is_needed else True
        self.heard.append(Heard(ask, completion, is_right and completion.complete))

    def list_chances(self, chance: float) -> Iterator[tuple[Ask, float]]:
        """List all that may still be asked, each with the probability that it will be, where a
        sample is right with probability `chance`."""
        method, n_missing = self.method, self.method.n_keep - self.n_right
        reached = 1.0
        if n_missing <= 0:
            return
        for teacher in range(len(method.models)):
            n_asked = self._count(teacher)
            n_left = method.n_tries - n_asked
            for n in range(n_left):
                share = reached * _chance_of_fewer(n_missing, n, chance)
                yield self._ask(method.first, teacher, n_asked + n), share
            if self.n_right:
                return
            reached *= (1 - chance) ** n_left
        if method.fallback is not None and not self._has_fallen_back:
            yield self._ask(method.fallback, 0, 0), reached

    @property
    def _has_fallen_back(self) -> bool:
        return any(heard.ask.mode != self.method.first.mode for heard in self.heard)

    def _count(self, teacher: int) -> int:
        first = self.method.first.mode
        return sum(h.ask.teacher == teacher and h.ask.mode == first for h in self.heard)

    def _ask(self, setup: PromptSetup, teacher: int, n: int) -> Ask:
        sample = self.number + n
        attempts = self.method.attempts.get(self.question.id, ())
        attempt = attempts[n % len(attempts)] if attempts else ""
        request = setup.make_request(self.question, sample, attempt)
        return Ask(teacher, sample, setup.mode, request)

    # --- Results

    def list_kept(self) -> Iterator[Rationale]:
        """Make the rationales of what was right, else of what was said last; the first one bears
        the price of all that came to nothing."""
        kept, others = self._sort()
        for n, heard in enumerate(kept):
            completion = heard.completion
            if n == 0:
                completion = _add_prices(completion, [other.completion for other in others])
            yield self._make_rationale(heard.ask, completion, self.number + n)

    def list_wrong(self) -> Iterator[Rationale]:
        """Make the rationales of whole answers that are not kept because they are wrong."""
        for n, heard in enumerate(self._sort()[1], start=1):
            made = self._make_rationale(heard.ask, heard.completion, 0)
            if made.complete:
                yield made.model_copy(update={"id": f"{self.label}#wrong{n}"})

    def _sort(self) -> tuple[list[Heard], list[Heard]]:
        """Tell what is kept from the rest: the right ones, else the last."""
        wrong = [heard for heard in self.heard if not heard.is_right]
        right = [heard for heard in self.heard if heard.is_right]
        return (right, wrong) if right else (wrong[-1:], wrong[:-1])

    def _make_rationale(self, ask: Ask, completion: Completion, number: int) -> Rationale:
        parts = read_parts(completion.reasoning, completion.text)
        question = self.question
        return Rationale(
            id=f"{question.id}#{number}" if number else question.id,
            question=question,
            sample=ask.sample,
            fault=parts.fault,
            reasoning=parts.reasoning,
            answer=parts.answer,
            finish_reason=completion.finish_reason,
            complete=completion.complete and bool(parts.reasoning and parts.answer),
            model=self.method.models[ask.teacher],
            mode=ask.mode,
            attempts=completion.attempts,
            usage=completion.usage,
            cost=completion.cost,
        )


def _chance_of_fewer(n_missing: int, n: int, chance: float) -> float:
    """Return the probability of fewer than `n_missing` right ones among `n`.

    >>> _chance_of_fewer(1, 0, 0.5), _chance_of_fewer(1, 2, 0.5), _chance_of_fewer(2, 2, 0.5)
    (1.0, 0.25, 0.75)
    """
    few = range(min(n_missing, n + 1))
    return float(sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in few))


def _add_prices(completion: Completion, others: Sequence[Completion]) -> Completion:
    """Add what other answers cost; of several currencies only the own one can be added."""
    for other in others:
        is_same = other.cost.currency == completion.cost.currency
        amount = completion.cost.amount + (other.cost.amount if is_same else 0.0)
        completion = completion.model_copy(
            update={
                "usage": other.usage + completion.usage,
                "cost": Cost(amount=amount, currency=completion.cost.currency),
                "attempts": other.attempts + completion.attempts,
            }
        )
    return completion


def is_answer_right(question: Question, completion: Completion, method: Method) -> bool:
    """Tell whether an answer is right; of a free text, whether it is not wrong: rules cannot tell
    more."""
    if not completion.complete:
        return False
    answer = read_parts(completion.reasoning, completion.text).answer
    kind = method.first.find_task(question.task).answer.kind
    return _grade(kind, answer, question.reference, question.known)


@lru_cache(maxsize=2**16)
def _grade(kind: AnswerKind, answer: str, reference: str, known: tuple[str, ...]) -> bool:
    found = get_grader(kind)(answer, reference, known=known)
    return found.principal or (kind == "text" and not found.decided)


# --- Asking all of them


class Conversation:
    """All courses with all teachers: each teacher is asked in a round of its own, in which what an
    answer calls for is asked at once."""

    def __init__(
        self, questions: Iterable[Question], teachers: Sequence[Teacher], method: Method
    ) -> None:
        self._questions, self._teachers, self._method = questions, teachers, method
        self._active: dict[str, tuple[Course, list[Ask], int]] = {}
        self._place = 0
        """Of the teacher whose round it is."""
        self._waiting = {0}
        """Places of the teachers for whom a course waits."""
        self._has_run: set[int] = set()
        self._given_up: set[tuple[int, Request]] = set()
        """What failed here and now, and is not to be asked again in this run."""

    def hold(self, n_questions: int, show: Show) -> None:
        """Ask until no course has anything left to ask."""
        n_requests = n_questions * self._method.n_courses * self._method.n_keep
        while self._waiting:
            self._place = min(self._waiting)
            self._waiting.discard(self._place)
            if self._has_run:  # how many it is to be asked is known only by looking
                waves = (course.next_wave() for course in self._replay_all())
                n_requests = sum(ask.teacher == self._place for wave in waves for ask in wave)
            with show(self._place, n_requests):
                self._teachers[self._place].run(self._begin(), n_requests, self._follow)
            self._has_run.add(self._place)
            self._active.clear()

    def _begin(self) -> Iterator[tuple[str, Request]]:
        for course in self._replay_all():
            yield from self._continue(course)

    def _replay_all(self) -> Iterator[Course]:
        for question in self._questions:
            for course in self._method.start(question):
                self._replay(course)
                yield course

    def _replay(self, course: Course) -> None:
        """Take what this run has heard already from teachers that had their round."""
        while wave := course.next_wave():
            found = [self._recall(ask) for ask in wave]
            if wave[0].teacher not in self._has_run or None in found:
                return
            for ask, completion in zip(wave, found, strict=True):
                if completion is not None:
                    course.hear(ask, completion)

    def _recall(self, ask: Ask) -> Completion | None:
        found = self._teachers[ask.teacher].recall(ask.request)
        is_over = found and (found.complete or (ask.teacher, ask.request) in self._given_up)
        return found if is_over else None

    def _continue(self, course: Course) -> Iterator[tuple[str, Request]]:
        """Ask the next wave of a course, if it is for the teacher whose round it is."""
        wave = course.next_wave()
        if not wave:
            return
        if wave[0].teacher != self._place:
            self._waiting.add(wave[0].teacher)
            return
        label = course.label
        while label in self._active:  # an id that stands twice in the file
            label += "+"
        self._active[label] = course, wave, len(wave)
        for ask in wave:
            yield label, ask.request

    def _follow(self, label: str) -> Iterator[tuple[str, Request]]:
        """Say what is to be asked after one more answer of a course; nothing before its wave is
        over."""
        course, wave, n_left = self._active.pop(label)
        if n_left > 1:
            self._active[label] = course, wave, n_left - 1
            return
        for ask in wave:
            found = self._teachers[self._place].recall(ask.request)
            if found is None:
                return
            if not found.complete:
                self._given_up.add((ask.teacher, ask.request))
            course.hear(ask, found)
        yield from self._continue(course)


def recall_course(course: Course, recall: Recall, is_complete_only: bool = False) -> Course:
    """Let a course hear all that is on the ledgers, as far as that leads; `is_complete_only` takes
    what failed for not asked, as the next run will."""
    is_whole = True
    while is_whole and (wave := course.next_wave()):
        for ask in wave:
            completion = recall(ask.teacher, ask.request)
            is_there = completion and (completion.complete or not is_complete_only)
            is_whole = bool(is_whole and is_there)
            if completion and is_there and (is_whole or not is_complete_only):
                course.hear(ask, completion)
    return course


def distill(
    questions: Iterable[Question],
    teachers: Sequence[Teacher],
    method: Method,
    n_questions: int,
    show: Show | None = None,
) -> Iterator[Course]:
    """Have teachers explain questions; yield the course of each, in their order.

    `questions` is iterated several times. `show` opens the display of a round of requests. Raises
    what stops a teacher before the first course is yielded; `recall_courses` yields what there is.
    """
    conversation = Conversation(questions, teachers, method)
    conversation.hold(n_questions, show or (lambda place, n: contextlib.nullcontext()))
    yield from recall_courses(questions, method, lambda at, request: teachers[at].recall(request))


def recall_courses(
    questions: Iterable[Question], method: Method, recall: Recall
) -> Iterator[Course]:
    """Yield the course of every question as far as the ledgers know it."""
    for question in questions:
        for course in method.start(question):
            yield recall_course(course, recall)
