"""What the teacher is asked, and how its answer is taken apart: constant text first, the case last,
versioned.

In: a question. Out: the messages to send; the reasoning and the answer of what came back.
Not done here: sending (`completers`), judging (`verify`).
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from medkd.completers.continuation import Missing
from medkd.core import thinking
from medkd.core.completer import Message
from medkd.core.records import Question
from medkd.core.yaml_io import read_shipped_yaml

Mode = Literal["rationalize", "solve"]
Language = Literal["zh", "en"]
_TAG = re.compile(r"<(?=/?(?:record|diagnosis)\b)", re.IGNORECASE)


class Parts(NamedTuple):
    """The two parts of a teacher's answer; either may be empty."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """One versioned way to ask."""

    version: str
    """Names file version, language and mode: `1-zh-rationalize`."""
    system: str
    user: str

    def messages(self, question: Question) -> tuple[Message, ...]:
        """Write a question as messages; texts of the case cannot close the tags they stand in."""
        user = self.user.replace("{diagnosis}", _defused(question.reference), 1)
        head, marker, tail = user.rpartition("{record}")
        content = head + _defused(question.input) + tail if marker else user
        return Message(role="system", content=self.system), Message(role="user", content=content)


@cache
def load_prompt(mode: Mode, language: Language) -> Prompt:
    """Load the shipped prompt of a mode in a language."""
    content: dict[str, Any] = read_shipped_yaml("medkd.distill", "prompts.yaml")
    texts = content[language][mode]
    return Prompt(
        version=f"{content['version']}-{language}-{mode}",
        system=texts["system"],
        user=texts["user"],
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
    if thought.reasoning is None and text.lstrip().startswith(thinking.OPEN):
        return Parts(text.strip().removeprefix(thinking.OPEN).strip(), "")
    return Parts(thought.reasoning or "", thought.answer)


def find_missing_part(reasoning: str, text: str) -> Missing | None:
    """Say which part is missing in a teacher's answer; a missing diagnosis may still come, a
    missing reasoning will not."""
    parts = read_parts(reasoning, text)
    if not parts.reasoning:
        return Missing("no reasoning between <think> and </think>", is_at_end=False)
    return None if parts.answer else Missing("no diagnosis after </think>", is_at_end=True)


def _defused(text: str) -> str:
    return _TAG.sub("＜", text)
