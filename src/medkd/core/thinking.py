r"""The thinking format, written and read here and nowhere else.

In: a reasoning and an answer, or a text a model produced. Out: the one written form, or the two
parts again.
Not done here: judging what is inside (`grading.checks`).

>>> write("发热伴颈强直。", "化脓性脑膜炎")
'<think>\n发热伴颈强直。\n</think>\n\n化脓性脑膜炎'
>>> read("<think>发热</think>感冒")
Thought(reasoning='发热', answer='感冒')
>>> read("感冒")
Thought(reasoning=None, answer='感冒')
"""

from typing import NamedTuple

OPEN = "<think>"
CLOSE = "</think>"
PREFIX = f"{OPEN}\n"
"""What the student writes first, and what its exported chat template ends the generation prompt
with."""


class Thought(NamedTuple):
    """A text in its two parts; `reasoning` is None where the text holds no closed thinking."""

    reasoning: str | None
    answer: str


def write(reasoning: str, answer: str) -> str:
    """Write reasoning and answer in the one canonical form."""
    return f"{PREFIX}{reasoning.strip()}\n{CLOSE}\n\n{answer.strip()}"


def read(text: str) -> Thought:
    """Split a text at its first closing tag; the opening tag may be glued or missing.

    A text that opens its thinking and never closes it has no answer: all of it is unfinished
    reasoning, and `reasoning` is None because nothing was closed.
    """
    before, closing, after = text.partition(CLOSE)
    if not closing:
        opened = text.lstrip().startswith(OPEN)
        return Thought(None, "" if opened else text.strip())
    return Thought(before.strip().removeprefix(OPEN).strip(), after.strip())


def is_well_formed(text: str) -> bool:
    """Tell whether a text is exactly one non-empty thought followed by a non-empty answer, tags
    opened and closed once."""
    stripped = text.strip()
    if not stripped.startswith(OPEN) or stripped.count(OPEN) != 1 or stripped.count(CLOSE) != 1:
        return False
    thought = read(stripped)
    return bool(thought.reasoning) and bool(thought.answer)
