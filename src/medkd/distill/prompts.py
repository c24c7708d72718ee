"""What the teacher is asked, and how its answer is taken apart: constant text first, the question
last.

In: questions, and the student's answers where they are to be corrected. Out: the requests to send;
the parts of what came back. Not done here: the texts (`core.task`), sending (`completers`).
"""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from medkd.completers.resume import MissingPart
from medkd.core import thinking
from medkd.core.completer import Message, Request, Sampling
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Prediction, Question, check_deidentified
from medkd.core.task import Task, check_tasks, find_task
from medkd.grading.graders import get_grader

Mode = Literal["rationalize", "solve", "correct"]
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


KEPT_BYTES = 64 * 2**20
"""A file of questions up to this size is parsed once and kept; a larger one is read anew."""
MAX_ATTEMPT = 4000
"""Characters of an attempt that a teacher is shown: its two ends where it is longer."""
_SAMPLE = re.compile(r"#\d{1,9}\Z")


class QuestionFile:
    """The questions of a file, to be iterated several times; broken lines are counted and named."""

    def __init__(
        self,
        path: Path,
        accept_identified: bool = False,
        task: str = "",
        wanted: Collection[str] | None = None,
    ) -> None:
        _refuse_raw_cases(path)
        self.path = path
        self.reader = RecordReader(path, Question, made_by="prepare")
        is_kept = path.stat().st_size <= KEPT_BYTES
        self._kept = list(self.reader) if is_kept else None
        self._wanted = wanted
        tasks: set[str] = set()
        marks: list[str] = []
        self.n_left_out = 0
        """Questions that are not among those wanted."""
        for question in self._kept or self.reader:
            if wanted is not None and question.id not in wanted:
                self.n_left_out += 1
                continue
            marks.append(question.deidentified_by)
            tasks.add(question.task)
        self.n_questions = len(marks)
        check_deidentified(marks, path, "the teacher", accept_identified)
        check_tasks(tasks, task, path)

    def __iter__(self) -> Iterator[Question]:
        for question in self._read() if self._kept is None else self._kept:
            if self._wanted is None or question.id in self._wanted:
                yield question

    def _read(self) -> Iterator[Question]:
        with self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValidationError):
                    yield Question.model_validate_json(line)


def _refuse_raw_cases(path: Path) -> None:
    """Refuse a file that begins with a case nobody has de-identified, whatever else is wrong."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(record, dict) and "sections" in record and "deidentified_by" not in record:
        raise InputError(
            '{}:1: a raw case, no deidentified_by; run "medkd deidentify" and "medkd '
            'prepare" first',
            path,
        )


class Attempts(NamedTuple):
    """A student's answers to questions, graded."""

    wrong: dict[str, list[str]]
    """Wrong answers by question, reasoning included."""
    asked: frozenset[str]
    """Every question that was answered, rightly or not."""


def find_attempt_file(given: Path) -> Path:
    """Find the student's answers; raises InputError where there are none."""
    return resolve_input(given, "predictions.jsonl", made_by="evaluate")


@cache
def read_attempts(given: Path, task: str) -> Attempts:
    """Read and grade a student's answers; one that rules cannot decide is not called wrong."""
    wrong: dict[str, list[str]] = {}
    asked: set[str] = set()
    for prediction in RecordReader(find_attempt_file(given), Prediction, made_by="evaluate"):
        question = name_question(prediction.id)
        asked.add(question)
        kind = find_task(prediction.task, task).answer.kind
        found = get_grader(kind)(prediction.answer, prediction.reference, known=prediction.known)
        if found.verdict == "wrong":
            wrong.setdefault(question, []).append(_shorten(prediction))
    return Attempts(wrong, frozenset(asked))


def name_question(prediction_id: str) -> str:
    """Name the question of a prediction, whose id may tell a sample.

    >>> name_question("clinic:1#3"), name_question("clinic:1")
    ('clinic:1', 'clinic:1')
    """
    return _SAMPLE.sub("", prediction_id)


def _shorten(prediction: Prediction) -> str:
    text = f"{prediction.reasoning or thinking.strip_tags(prediction.raw)}\n→ {prediction.answer}"
    half = MAX_ATTEMPT // 2
    return text if len(text) <= MAX_ATTEMPT else f"{text[:half]}\n[…]\n{text[-half:]}"
