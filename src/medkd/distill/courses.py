"""What a teacher is asked about a question, and what next, until enough right answers are there or
all tries are spent: constant text first, the question last.

In: questions, a method, what was answered so far. Out: waves of requests; the parts of an answer;
rationales at the end. Not done here: sending (`completers.client`), the texts (`core.task`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb
from typing import Literal, NamedTuple, Protocol

from medkd.completers.outcomes import MissingPart
from medkd.core import thinking
from medkd.core.records import Completion, Cost, Message, Question, Rationale, Request, Sampling
from medkd.core.task import AnswerKind, Task
from medkd.grading import judge
from medkd.grading.diagnosis import Grade, GradeVerdict
from medkd.grading.graders import get_grader

Mode = Literal["rationalize", "solve", "correct"]
ASSUMED_UNDECIDED = 0.25
"""Share of samples that a judge is asked about, for the price said before."""
_FAULT = re.compile(r"\s*<fault>((?:(?!</?fault>).)*)</fault>", re.DOTALL)
"""What a correction begins with."""
FindTask = Callable[[str], Task]
"""Returns the task of a name."""


class Parts(NamedTuple):
    """The parts of a teacher's answer; each may be empty."""

    reasoning: str
    answer: str
    fault: str = ""
    """Of a correction: where the attempt went wrong."""


class PromptSetup(NamedTuple):
    """Which of a task's prompts is sent, and how its answers are sampled."""

    mode: Mode
    sampling: Sampling
    find_task: FindTask

    def make_request(self, question: Question, sample: int = 0, attempt: str = "") -> Request:
        """Write the request for one sample of one question; `attempt` is a wrong answer to
        correct."""
        messages = make_messages(self.find_task(question.task), self.mode, question, attempt)
        return Request(messages=messages, sampling=self.sampling, sample=sample)


def make_messages(
    task: Task, mode: Mode, question: Question, attempt: str = ""
) -> tuple[Message, ...]:
    """Write a question as messages in its own language; its texts cannot close the tags that they
    stand in."""
    teacher = task.teacher
    prompts = {
        "rationalize": teacher.rationalize,
        "solve": teacher.solve,
        "correct": teacher.correct,
    }
    prompt = prompts[mode][question.language]
    content = task.fill(prompt, question.input, question.reference, attempt)
    return (
        Message(role="system", content=teacher.system[question.language]),
        Message(role="user", content=content),
    )


def read_parts(reasoning: str, text: str) -> Parts:
    """Take a teacher's answer apart: the reasoning sent beside the content, else the tagged part of
    it; the answer is the rest.

    >>> read_parts("", "<think>发热伴颈强直</think>脑膜炎")
    Parts(reasoning='发热伴颈强直', answer='脑膜炎', fault='')
    >>> read_parts("发热伴颈强直", "脑膜炎")
    Parts(reasoning='发热伴颈强直', answer='脑膜炎', fault='')
    >>> read_parts("", "<fault>漏看颈强直</fault><think>发热伴颈强直</think>脑膜炎")
    Parts(reasoning='发热伴颈强直', answer='脑膜炎', fault='漏看颈强直')
    """
    fault = ""
    if found := _FAULT.match(text):
        fault, text = found[1].strip(), text[found.end() :]
        if thinking.find_tag(text):  # the mended reasoning is what counts, not the teacher's own
            reasoning = ""
    thought = thinking.read(text)
    if reasoning.strip():
        return Parts(reasoning.strip(), thought.answer, fault)
    if thought.reasoning is None and not thought.answer:
        return Parts(thinking.strip_tags(text), "", fault)
    return Parts(thought.reasoning or "", thought.answer, fault)


def find_missing_part(reasoning: str, text: str) -> MissingPart | None:
    """Return the part that is missing in a teacher's answer; a missing answer may still come, a
    missing reasoning will not."""
    parts = read_parts(reasoning, text)
    if not parts.reasoning:
        return MissingPart("no reasoning between <think> and </think>", is_at_end=False)
    return None if parts.answer else MissingPart("no answer after </think>", is_at_end=True)


# --- Which answers are bought


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


class Method(NamedTuple):
    """How questions are asked: of whom, how often, and what is done where nobody is right."""

    models: Sequence[str]
    """Names of the teachers' models, the cheapest first."""
    first: PromptSetup
    fallback: PromptSetup | None = None
    """Asked of the first teacher once nobody was right."""
    n_tries: int = 1
    """Samples of one teacher until enough are right."""
    n_keep: int = 1
    """Right answers that are enough."""
    attempts: Mapping[str, Sequence[str]] = {}
    """Wrong answers of the student by question, where they are to be corrected."""
    is_graded: bool = True
    """Whether what is asked next depends on an answer's being right; else all are kept."""
    has_judge: bool = False
    """Whether one more model, behind the teachers, decides what rules cannot."""


class Ask(NamedTuple):
    """A request to one of the teachers, or to the judge."""

    teacher: int
    sample: int
    """Of the judge: the place of the answer among those heard."""
    mode: Mode | Literal["judge"]
    request: Request


class Heard(NamedTuple):
    """What came of an ask."""

    ask: Ask
    completion: Completion
    verdict: GradeVerdict

    @property
    def is_right(self) -> bool:
        return self.verdict == "right"


@dataclass
class Course:
    """One question on its way: what was asked about it, and what is to be asked next."""

    question: Question
    method: Method
    heard: list[Heard] = field(default_factory=list[Heard])
    opinions: dict[int, list[Completion]] = field(default_factory=dict[int, list[Completion]])
    """What the judge said of an answer, by its place among those heard."""

    @property
    def n_right(self) -> int:
        return sum(heard.is_right for heard in self.heard)

    def next_wave(self) -> list[Ask]:
        """Write what is to be asked now, all of one model: undecided answers to the judge, else as
        many samples as right ones are missing. Empty when there is enough, or nothing left to try.
        """
        method, n_missing = self.method, self.method.n_keep - self.n_right
        if n_missing <= 0:
            return []
        if waiting := self._ask_judge():
            return waiting
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
        if ask.mode == "judge":
            self._hear_judge(ask.sample, completion)
            return
        verdict: GradeVerdict = "right" if completion.complete else "wrong"
        if completion.complete and self.method.is_graded:
            graded = self._grade(completion)
            if graded == "wrong" or ask.mode == self.method.first.mode:
                verdict = graded
        self.heard.append(Heard(ask, completion, verdict))

    def list_chances(self, chance: float) -> Iterator[tuple[Ask, float]]:
        """List all that may still be asked, each with the probability that it will be, where a
        sample is right with probability `chance`."""
        method, n_missing = self.method, self.method.n_keep - self.n_right
        reached = 1.0
        if n_missing <= 0:
            return
        yield from ((ask, 1.0) for ask in self._ask_judge())
        for teacher in range(len(method.models)):
            n_asked = self._count(teacher)
            n_left = method.n_tries - n_asked
            for n in range(n_left):
                share = reached * _chance_of_fewer(n_missing, n, chance)
                yield self._ask(method.first, teacher, n_asked + n), share
                if method.has_judge:  # as if of the reference: the answer is not known yet
                    unknown = self._write_to_judge(n_asked + n, self.question.reference)
                    yield from ((ask, share * ASSUMED_UNDECIDED) for ask in unknown)
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

    def _ask(self, setup: PromptSetup, teacher: int, sample: int) -> Ask:
        attempts = self.method.attempts.get(self.question.id, ())
        attempt = attempts[sample % len(attempts)] if attempts else ""
        request = setup.make_request(self.question, sample, attempt)
        return Ask(teacher, sample, setup.mode, request)

    # --- Right or not

    @property
    def _kind(self) -> AnswerKind:
        return self.method.first.find_task(self.question.task).answer.kind

    def _grade(self, completion: Completion) -> GradeVerdict:
        """Grade an answer; without a judge, a free text that is not wrong is taken."""
        answer = read_parts(completion.reasoning, completion.text).answer
        found = _grade(self._kind, answer, self.question.reference, self.question.known)
        if found.decided or self.method.has_judge:
            return found.verdict
        return "right" if found.principal or self._kind == "text" else "undecided"

    def _ask_judge(self) -> list[Ask]:
        """Ask about every undecided answer that was not judged yet, in both orders."""
        if not self.method.has_judge:
            return []
        waiting = [
            (place, read_parts(heard.completion.reasoning, heard.completion.text).answer)
            for place, heard in enumerate(self.heard)
            if heard.verdict == "undecided" and place not in self.opinions
        ]
        return [ask for place, answer in waiting for ask in self._write_to_judge(place, answer)]

    def _write_to_judge(self, place: int, answer: str) -> list[Ask]:
        question, at = self.question, len(self.method.models)
        case = judge.AnswerToJudge(self._kind, question.input, answer, question.reference)
        return [Ask(at, place, "judge", request) for request in judge.verdict_requests(case)]

    def _hear_judge(self, place: int, completion: Completion) -> None:
        """Take one of the two opinions on an answer; it stays undecided where they disagree."""
        opinions = self.opinions.setdefault(place, [])
        opinions.append(completion)
        if len(opinions) == 2:
            verdict = judge.read_opinion(opinions[0], opinions[1]).verdict
            self.heard[place] = self.heard[place]._replace(verdict=verdict or "undecided")

    # --- Results

    def list_kept(self) -> Iterator[Rationale]:
        """Make the rationales of what was right, else of what was said last; the first one bears
        the price of all that came to nothing."""
        kept, others = self._sort()
        judged = [opinion for both in self.opinions.values() for opinion in both]
        for number, heard in enumerate(kept):
            completion = heard.completion
            if number == 0:
                completion = _add_prices(completion, [*(h.completion for h in others), *judged])
            yield self._make_rationale(f"#{number}" if number else "", heard.ask, completion)

    def list_wrong(self) -> Iterator[Rationale]:
        """Make the rationales of whole answers that are not kept because they are wrong."""
        wrong = [heard for heard in self._sort()[1] if heard.verdict == "wrong"]
        for number, heard in enumerate(wrong, start=1):
            made = self._make_rationale(f"#wrong{number}", heard.ask, heard.completion)
            if made.complete:
                yield made

    def _sort(self) -> tuple[list[Heard], list[Heard]]:
        """Tell what is kept from the rest: the right ones, else the last that is not known to be
        wrong, else the last."""
        if not self.method.is_graded:
            return self.heard, []
        kept = [heard for heard in self.heard if heard.is_right]
        if not kept:
            open_ones = [heard for heard in self.heard if heard.verdict == "undecided"]
            kept = (open_ones or self.heard)[-1:]
        return kept, [heard for heard in self.heard if not any(heard is one for one in kept)]

    def _make_rationale(self, suffix: str, ask: Ask, completion: Completion) -> Rationale:
        parts = read_parts(completion.reasoning, completion.text)
        return Rationale(
            id=f"{self.question.id}{suffix}",
            question=self.question,
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


@lru_cache(maxsize=2**16)
def _grade(kind: AnswerKind, answer: str, reference: str, known: tuple[str, ...]) -> Grade:
    return get_grader(kind)(answer, reference, known=known)


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

    def hold(self, n_questions: int) -> None:
        """Ask until no course has anything left to ask."""
        n_requests = n_questions * self._method.n_keep
        while self._waiting:
            self._place = min(self._waiting)
            self._waiting.discard(self._place)
            if self._has_run:  # how many it is to be asked is known only by looking
                waves = (course.next_wave() for course in self._replay_all())
                n_requests = sum(ask.teacher == self._place for wave in waves for ask in wave)
            self._teachers[self._place].run(self._begin(), n_requests, self._follow)
            self._has_run.add(self._place)
            self._active.clear()

    def _begin(self) -> Iterator[tuple[str, Request]]:
        for course in self._replay_all():
            yield from self._continue(course)

    def _replay_all(self) -> Iterator[Course]:
        for question in self._questions:
            course = Course(question, self._method)
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
        label = course.question.id
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


def _recall_course(course: Course, recall: Recall, is_complete_only: bool) -> Course:
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
    questions: Iterable[Question], teachers: Sequence[Teacher], method: Method, n_questions: int
) -> Iterator[Course]:
    """Have teachers explain questions, the judge behind them where there is one; yield the course
    of each, in their order.

    `questions` is iterated several times. Raises what stops a teacher before the first course is
    yielded; `recall_courses` yields what there is.
    """
    Conversation(questions, teachers, method).hold(n_questions)
    yield from recall_courses(questions, method, lambda at, request: teachers[at].recall(request))


def recall_courses(
    questions: Iterable[Question], method: Method, recall: Recall, is_complete_only: bool = False
) -> Iterator[Course]:
    """Yield the course of every question as far as the ledgers know it; `is_complete_only` takes
    what failed for not asked, as the next run will."""
    for question in questions:
        yield _recall_course(Course(question, method), recall, is_complete_only)
