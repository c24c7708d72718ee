"""What the teacher is asked, and how its answer is taken apart: constant text first, the case last,
versioned.

In: a question. Out: the requests to send; the reasoning and the answer of what came back.
Not done here: sending (`completers`), judging (`verify`).
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from medkd.completers.resume import MissingPart
from medkd.core import thinking
from medkd.core.completer import Message, Request, Sampling
from medkd.core.records import Question
from medkd.core.yaml_io import parse_yaml

Mode = Literal["rationalize", "solve"]
Language = Literal["zh", "en"]
_TAG = re.compile(r"<(?=/?(?:record|diagnosis)\b)", re.IGNORECASE)


class Parts(NamedTuple):
    """The two parts of a teacher's answer; either may be empty."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """One versioned prompt."""

    version: str
    """File version, language and mode: `1-zh-rationalize`."""
    mode: Mode
    system: str
    user: str

    def messages(self, question: Question) -> tuple[Message, ...]:
        """Write a question as messages; texts of the case cannot close the tags they stand in."""
        user = self.user.replace("{diagnosis}", _defuse(question.reference), 1)
        head, marker, tail = user.rpartition("{record}")
        content = head + _defuse(question.input) + tail if marker else user
        return Message(role="system", content=self.system), Message(role="user", content=content)


class PromptSetup(NamedTuple):
    """A prompt and how its answers are sampled."""

    prompt: Prompt
    sampling: Sampling

    def make_request(self, question: Question, sample: int = 0) -> Request:
        """Write the request for one sample of one question."""
        messages = self.prompt.messages(question)
        return Request(messages=messages, sampling=self.sampling, sample=sample)


@cache
def load_prompt(mode: Mode, language: Language) -> Prompt:
    """Load the shipped prompt of a mode in a language."""
    text = files("medkd.distill").joinpath("prompts.yaml").read_text(encoding="utf-8")
    content = parse_yaml(text)
    texts = content[language][mode]
    version = f"{content['version']}-{language}-{mode}"
    return Prompt(version, mode, system=texts["system"], user=texts["user"])


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
    """Return the part that is missing in a teacher's answer; a missing diagnosis may still come, a
    missing reasoning will not."""
    parts = read_parts(reasoning, text)
    if not parts.reasoning:
        return MissingPart("no reasoning between <think> and </think>", is_at_end=False)
    return None if parts.answer else MissingPart("no diagnosis after </think>", is_at_end=True)


def _defuse(text: str) -> str:
    return _TAG.sub("＜", text)
