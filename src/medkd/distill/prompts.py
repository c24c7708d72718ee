"""What the teacher is asked, and how its answer is taken apart: constant text first, the question
last.

In: a question. Out: the requests to send; the reasoning and the answer of what came back. Not done
here: the texts (`core.task`), sending (`completers`), judging (`verify`).
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from medkd.completers.resume import MissingPart
from medkd.core import thinking
from medkd.core.completer import Message, Request, Sampling
from medkd.core.records import Question
from medkd.core.task import Task

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
