r"""The thinking format, written and read here and nowhere else.

In: a reasoning and an answer, or a text that any model produced. Out: the one written form, or the
two parts again; the tags of other model families are read too. Not done here: judging what is
inside (`grading.checks`).

>>> write("发热伴颈强直。", "化脓性脑膜炎")
'<think>\n发热伴颈强直。\n</think>\n\n化脓性脑膜炎'
>>> read("<think>发热</think>感冒")
Thought(reasoning='发热', answer='感冒')
>>> read("感冒")
Thought(reasoning=None, answer='感冒')
>>> read("<|channel|>analysis<|message|>发热<|end|><|channel|>final<|message|>感冒<|return|>")
Thought(reasoning='发热', answer='感冒')
"""

import re
from typing import NamedTuple

OPEN = "<think>"
CLOSE = "</think>"
PREFIX = f"{OPEN}\n"
"""What the student writes first, and what its exported chat template ends the generation prompt
with."""

_FAMILIES = {
    OPEN: CLOSE,
    **{
        f"<{name}>": f"</{name}>"
        for name in [
            "thinking",
            "thought",
            "thoughts",
            "reasoning",
            "seed:think",
            "longcat_think",
            "mm:think",
            "antthinking",
            "思考",
        ]
    },
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|start_thinking|>": "<|end_thinking|>",
    "◁think▷": "◁/think▷",
    "[think]": "[/think]",
    "<unused94>thought": "<unused95>",
}
"""Opening to closing tag, in lower case, of the models that think aloud."""
_OPENING = re.compile("|".join(map(re.escape, _FAMILIES)), re.IGNORECASE)
_CLOSING = re.compile("|".join(map(re.escape, _FAMILIES.values())), re.IGNORECASE)
_ANY = re.compile(
    "|".join(map(re.escape, [*_FAMILIES, *_FAMILIES.values(), "<|channel|>"])), re.IGNORECASE
)
_BEGINS = ("<", "[", "◁")
_SIGNS = ("</", "<|", "◁/", "[/", "<unused")
"""What each closing tag begins with: most texts hold none, and are looked through no further."""
_WRAPPERS = ("answer", "final_answer", "response", "solution")
_WRAPPER_START = re.compile(
    rf"\s*(?:<(?:{'|'.join(_WRAPPERS)})>|<\|(?:begin_of_solution|start_response)\|>)", re.IGNORECASE
)
_WRAPPER_END = re.compile(
    rf"(?:</(?:{'|'.join(_WRAPPERS)})>|<\|(?:end_of_solution|end_response)\|>)\s*\Z", re.IGNORECASE
)
_CHANNEL = "<|channel|>"
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_BARE_FINAL = "assistantfinal"


class Thought(NamedTuple):
    """A text in its two parts; `reasoning` is None where the text holds no closed thinking."""

    reasoning: str | None
    answer: str


def write(reasoning: str, answer: str) -> str:
    """Write reasoning and answer in the one canonical form."""
    return f"{PREFIX}{reasoning.strip()}\n{CLOSE}\n\n{answer.strip()}"


def read(text: str) -> Thought:
    """Split a text at the end of its thinking; the opening tag may be glued or missing.

    Tags are those of any family: `<think>`, `<thinking>`, `<reasoning>`, `<|begin_of_thought|>`,
    `◁think▷`, `[THINK]`, Harmony's channels. A text that opens its thinking and never closes it has
    no answer: all of it is unfinished reasoning, and `reasoning` is None because nothing was
    closed.
    """
    stripped = text.strip()
    if _CHANNEL in stripped:
        return _read_channels(stripped)
    if stripped.startswith("analysis") and _BARE_FINAL in stripped:  # special tokens were left out
        reasoning, _, answer = stripped.removeprefix("analysis").partition(_BARE_FINAL)
        return Thought(reasoning.strip(), answer.strip())
    opening = _OPENING.match(stripped) if stripped.startswith(_BEGINS) else None
    start = opening.end() if opening else 0
    closing = _find_closing(stripped, start, opening[0].lower() if opening else "")
    if closing is None:
        return Thought(None, "" if opening else stripped)
    answer = stripped[closing.end() :]
    return Thought(stripped[start : closing.start()].strip(), _unwrap(answer).strip())


def _find_closing(text: str, start: int, opening: str) -> re.Match[str] | None:
    """Find the closing tag of the opening one, else the first of any family."""
    if not any(sign in text for sign in _SIGNS):
        return None
    own = re.compile(re.escape(_FAMILIES[opening]), re.IGNORECASE) if opening else _CLOSING
    return own.search(text, start) or _CLOSING.search(text, start)


def _unwrap(answer: str) -> str:
    """Take an answer out of the tags that its family puts around it."""
    start = _WRAPPER_START.match(answer)
    if start is None:
        return answer
    end = _WRAPPER_END.search(answer, start.end())
    return answer[start.end() : end.start() if end else len(answer)]


def _read_channels(text: str) -> Thought:
    """Read Harmony's channels: `final` holds the answer, all others lead up to it."""
    reasoning: list[str] = []
    answer: list[str] = []
    is_final = False
    for part in text.split(_CHANNEL)[1:]:
        name, _, body = part.partition("<|message|>")
        is_final = name.strip().lower().startswith("final")
        end = _CHANNEL_END.search(body)
        (answer if is_final else reasoning).append(body[: end.start() if end else None].strip())
    if not is_final and not any(answer):
        return Thought(None, "")
    return Thought("\n".join(filter(None, reasoning)), "\n".join(filter(None, answer)))


def is_unfinished(text: str) -> bool:
    """Tell whether a text opens its thinking and never closes it."""
    return bool(text.strip()) and read(text) == (None, "")


def strip_tags(reasoning: str) -> str:
    """Take off the tags around a reasoning that stands in a field of its own.

    >>> strip_tags("<thinking>发热</thinking>"), strip_tags("发热</think>")
    ('发热', '发热')
    """
    stripped = reasoning.strip()
    opening = _OPENING.match(stripped)
    closings = list(_CLOSING.finditer(stripped, max(0, len(stripped) - 40)))
    end = closings[-1].start() if closings and closings[-1].end() == len(stripped) else None
    return stripped[opening.end() if opening else 0 : end].strip()


def find_tag(text: str) -> str:
    """Return the first thinking tag of any family in a text; "" where there is none."""
    found = _ANY.search(text) if any(sign in text for sign in _BEGINS) else None
    return found[0] if found else ""


def is_well_formed(text: str) -> bool:
    """Tell whether a text is exactly one non-empty thought followed by a non-empty answer, tags
    opened and closed once."""
    stripped = text.strip()
    if not stripped.startswith(OPEN) or stripped.count(OPEN) != 1 or stripped.count(CLOSE) != 1:
        return False
    thought = read(stripped)
    return bool(thought.reasoning) and bool(thought.answer)
