"""What the teacher is asked, and how its answer is taken apart: constant text first, the question
last.

In: a question. Out: the requests to send; the reasoning and the answer of what came back. Not done
here: the texts (`core.task`), sending (`completers`), judging (`verify`).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from medkd.completers.resume import MissingPart
from medkd.core import thinking
from medkd.core.completer import Message, Request, Sampling
from medkd.core.records import Question
from medkd.core.task import Task

Mode = Literal["rationalize", "solve"]
FindTask = Callable[[str], Task]
"""Returns the task of a name."""


class Parts(NamedTuple):
    """The two parts of a teacher's answer; either may be empty."""

    reasoning: str
    answer: str


class PromptSetup(NamedTuple):
    """Which of a task's prompts is sent, and how its answers are sampled."""

    mode: Mode
    sampling: Sampling
    find_task: FindTask

    def make_request(self, question: Question, sample: int = 0) -> Request:
        """Write the request for one sample of one question."""
        messages = make_messages(self.find_task(question.task), self.mode, question)
        return Request(messages=messages, sampling=self.sampling, sample=sample)


def make_messages(task: Task, mode: Mode, question: Question) -> tuple[Message, ...]:
    """Write a question as messages in its own language; its texts cannot close the tags that they
    stand in."""
    teacher = task.teacher
    prompt = (teacher.rationalize if mode == "rationalize" else teacher.solve)[question.language]
    content = task.fill(prompt, question.input, question.reference)
    return (
        Message(role="system", content=teacher.system[question.language]),
        Message(role="user", content=content),
    )


def read_parts(reasoning: str, text: str) -> Parts:
    """Take a teacher's answer apart: the reasoning sent beside the content, else the tagged part of
    it; the answer is the rest.

    >>> read_parts("", "<think>发热伴颈强直</think>脑膜炎")
    Parts(reasoning='发热伴颈强直', answer='脑膜炎')
    >>> read_parts("发热伴颈强直", "脑膜炎")
    Parts(reasoning='发热伴颈强直', answer='脑膜炎')
    """
    thought = thinking.read(text)
    if reasoning.strip():
        return Parts(reasoning.strip(), thought.answer)
    if thought.reasoning is None and not thought.answer:
        return Parts(thinking.strip_tags(text), "")
    return Parts(thought.reasoning or "", thought.answer)


def find_missing_part(reasoning: str, text: str) -> MissingPart | None:
    """Return the part that is missing in a teacher's answer; a missing answer may still come, a
    missing reasoning will not."""
    parts = read_parts(reasoning, text)
    if not parts.reasoning:
        return MissingPart("no reasoning between <think> and </think>", is_at_end=False)
    return None if parts.answer else MissingPart("no answer after </think>", is_at_end=True)
