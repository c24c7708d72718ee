"""What a request asks of the rehearsal teacher, what it says to it, and what it does wrong on
request: the faults that real endpoints were seen with.

In: the body of a request, a rate or a script of faults. Out: the `Reply`: how far it goes, how it
ends, what it counts. Not done here: serving (`demo.teacher`), the medicine (`demo.reasoning`).
"""

import json
import random
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Any

from medkd.completers.providers import estimate_tokens
from medkd.core import thinking
from medkd.core.records import Language, Usage
from medkd.demo.knowledge import load_knowledge
from medkd.demo.reasoning import explain, explain_answer, explain_choice, solve
from medkd.text.normalize import is_chinese, make_plain
from medkd.text.similarity import similarity

_OPTION = re.compile(r"(?m)^([A-Z])\. (.+)$")
_DIAGNOSED = re.compile(r"(?m)(?:【诊断结果】|^Diagnosis: )([^【\n]+)")
"""A question that tells the diagnosis asks for the treatment."""
_TAG = re.compile(r"</?[a-z]{1,20}>")
ALIKE = 0.5
"""Likeness from which two texts count as the same."""
N_FINDINGS = 5
_CRITERION = re.compile(r"(?m)^- (\w+): .*?One of: ([^\n]+)\.$")
_QUOTED = re.compile(r"[「\"]([^」\"]+)[」\"]")
_CLAUSE = re.compile(r"[^，。；、,;\n：:【】]{3,24}")
TRIED_SEEDS = 24
"""Wordings in which a text to go on from is looked for."""


# Faults


class Fault(StrEnum):
    """One way to go wrong."""

    RATE_LIMIT = "rate_limit"
    """429 with Retry-After."""
    SERVER_ERROR = "server_error"
    """500."""
    OVERLOADED = "overloaded"
    """503."""
    DROPPED = "dropped"
    """The connection breaks before any answer, as under a gateway that gives up; nothing is
    billed."""
    EMPTY_BODY = "empty_body"
    """200 and nothing in it; the prompt is billed."""
    BLANK = "blank"
    """Blanks for an answer and finish_reason `stop`, as JSON mode was seen to do; billed."""
    CUT = "cut"
    """The connection breaks in the middle of the text; what was sent is billed."""
    ERROR_IN_STREAM = "error_in_stream"
    """200, some text, then an error event; what was sent is billed."""
    NO_RESOURCE = "no_resource"
    """The answer ends half-way with finish_reason `insufficient_system_resource` and is billed."""
    LENGTH = "length"
    """The answer ends half-way with finish_reason `length` and is billed."""
    NO_ANSWER = "no_answer"
    """The reasoning comes whole, then finish_reason `stop` and no diagnosis; billed."""
    SILENCE = "silence"
    """Some text, then nothing more until the client goes; only by script."""
    NOT_STARTED = "not_started"
    """Keep-alive comments, never any text; only by script."""
    BAD_REQUEST = "bad_request"
    """400; only by script."""
    BAD_PARAMETER = "bad_parameter"
    """422; only by script."""
    BAD_KEY = "bad_key"
    """401; only by script."""
    NO_BALANCE = "no_balance"
    """402; only by script."""


BY_RATE = (
    Fault.RATE_LIMIT,
    Fault.SERVER_ERROR,
    Fault.OVERLOADED,
    Fault.DROPPED,
    Fault.EMPTY_BODY,
    Fault.BLANK,
    Fault.CUT,
    Fault.ERROR_IN_STREAM,
    Fault.NO_RESOURCE,
    Fault.LENGTH,
    Fault.NO_ANSWER,
)
"""Those that another try may cure and that take no time."""


class Prefix(StrEnum):
    """What a teacher does when it is asked to go on from a text."""

    GOES_ON = "goes_on"
    REFUSES = "refuses"
    """400."""
    IGNORES = "ignores"
    """Begins anew, as a server does that takes the text for a turn of the conversation."""


class FaultPlan:
    """Says what goes wrong with each request: first what a script says, one entry a request, then
    by rate."""

    def __init__(self, rate: float, seed: int, script: Iterable[Fault | None] = ()) -> None:
        self._rate, self._seed = rate, seed
        self._script = deque(script)
        self._n_asked: Counter[int] = Counter()
        self._lock = Lock()

    def draw(self, content: str) -> tuple[Fault | None, int]:
        """Return the fault of a request, and how many equal ones came before it."""
        with self._lock:
            key = zlib.crc32(content.encode())
            n_before = self._n_asked[key]
            self._n_asked[key] += 1
            if self._script:
                return self._script.popleft(), n_before
        rng = random.Random(f"{self._seed} {n_before} {content}")
        return (rng.choice(BY_RATE) if rng.random() < self._rate else None), n_before


# Requests and replies


@dataclass(frozen=True)
class Asked:
    """The body of a request, read."""

    messages: tuple[tuple[str, str], ...]
    """Role and content, without the text to go on from."""
    prefix: tuple[str, str] | None
    """Reasoning and content to go on from."""
    is_thinking: bool
    limit: int
    is_streamed: bool
    wants_usage_apart: bool
    skill: float = 1.0
    """Share of the questions to which the teacher finds the answer by itself."""

    @property
    def question(self) -> str:
        return self.messages[-1][1]

    @property
    def content(self) -> str:
        """All of it, for the cache and the draw of faults."""
        turns = [f"{role}: {text}" for role, text in self.messages] + (
            [f"assistant: {''.join(self.prefix)}"] if self.prefix else []
        )
        return "\n".join(turns)


@dataclass(frozen=True)
class Reply:
    """What is to be said to one request."""

    reasoning: str
    """Sent beside the content; empty where the content holds it tagged."""
    content: str
    finish_reason: str
    n_prompt: int
    n_cached: int

    def usage(self, reasoning: str, content: str) -> Usage:
        """Count the tokens of what was really sent."""
        n_reasoning = estimate_tokens([reasoning])
        completion = n_reasoning + estimate_tokens([content])
        return Usage(
            prompt=self.n_prompt,
            cache_hit=self.n_cached,
            completion=completion,
            reasoning=n_reasoning,
        )


def read_request(body: Any, skill: float = 1.0) -> Asked:
    """Read the body of a request; raises ValueError, KeyError or TypeError where it is none."""
    messages = list(body["messages"])
    prefix = None
    if messages[-1].get("prefix") is True:
        last = messages.pop()
        prefix = (str(last.get("reasoning_content") or ""), str(last["content"]))
    turns = tuple((str(message["role"]), str(message["content"])) for message in messages)
    if not turns:
        raise ValueError("no messages")
    return Asked(
        messages=turns,
        prefix=prefix,
        is_thinking=(body.get("thinking") or {}).get("type") == "enabled",
        limit=body.get("max_tokens") or body.get("max_completion_tokens") or 4096,
        is_streamed=bool(body.get("stream")),
        wants_usage_apart=bool((body.get("stream_options") or {}).get("include_usage")),
        skill=skill,
    )


def make_reply(asked: Asked, seed: int, fault: Fault | None, n_cached: int) -> Reply:
    """Say how a request is answered; a text to go on from is gone on with, whatever wording it
    began in."""
    reasoning, content = _say(asked, seed)
    n_said = 0
    if asked.prefix:
        reasoning, content, n_said = _go_on(asked, seed)
    rest = (reasoning + content)[n_said:]
    allowed, finish_reason = len(rest), "stop"
    if fault in {Fault.LENGTH, Fault.NO_RESOURCE}:
        allowed, finish_reason = (
            len(rest) // 2,
            "length" if fault is Fault.LENGTH else "insufficient_system_resource",
        )
    elif fault is Fault.NO_ANSWER:
        end = (
            len(reasoning)
            if asked.is_thinking
            else content.find(thinking.CLOSE) + len(thinking.CLOSE)
        )
        allowed = max(end - n_said, 0)
    if estimate_tokens([rest[:allowed]]) > asked.limit:
        allowed, finish_reason = min(allowed, int(asked.limit / 0.6)), "length"
    n_reasoning = max(len(reasoning) - n_said, 0)
    said = rest[:allowed] if fault is not Fault.BLANK else "  \n"
    return Reply(
        reasoning=said[:n_reasoning] if fault is not Fault.BLANK else "",
        content=said[n_reasoning:] if fault is not Fault.BLANK else said,
        finish_reason=finish_reason,
        n_prompt=estimate_tokens([text for _, text in asked.messages] + list(asked.prefix or ())),
        n_cached=n_cached,
    )


def _say(asked: Asked, seed: int) -> tuple[str, str]:
    if said := answer_json(asked.messages):
        return "", said
    reasoning, answer = think(asked.question, seed, asked.skill)
    if _last_tagged(asked.question, "attempt"):
        say = load_knowledge("zh" if is_chinese(asked.question) else "en").say
        return "", f"<fault>{say('fault')}</fault>\n{thinking.write(reasoning, answer)}"
    return (reasoning, answer) if asked.is_thinking else ("", thinking.write(reasoning, answer))


def _go_on(asked: Asked, seed: int) -> tuple[str, str, int]:
    """Return the reasoning and content of a text, and how many of their characters it
    already holds."""
    assert asked.prefix is not None  # noqa: S101 - called only where there is one
    before = "".join(asked.prefix)
    for wording in range(seed + TRIED_SEEDS):
        reasoning, content = _say(asked, wording)
        if (reasoning + content).startswith(before):
            return reasoning, content, len(before)
    reasoning, content = _say(
        asked, seed
    )  # somebody else's words: its own second half is as good an end as any
    if asked.prefix[1] or not reasoning:
        head = content[: len(content) // 2]
        return asked.prefix[0], asked.prefix[1] + content[len(head) :], len(before)
    return asked.prefix[0] + reasoning[len(reasoning) // 2 :], content, len(before)


def think(message: str, seed: int, skill: float = 1.0) -> tuple[str, str]:
    """Return reasoning and answer for a prompt of any shipped task, in the prompt's language: to
    the tagged answer where there is one, else to what the clinic knows. A share `skill` of the
    blind answers is right; in the others a disease is taken for its neighbour."""
    record = _last_tagged(message, "record")
    question = record or _last_tagged(message, "question") or message
    told = _TAG.sub("", message.replace(question, "")).strip() or question
    language: Language = "zh" if is_chinese(told) else "en"
    if diagnosis := _last_tagged(message, "diagnosis"):
        return explain(question, diagnosis, seed, language), diagnosis
    answer = _last_tagged(message, "reference")
    if not answer:
        answer = _mistake(_find_answer(question, language), question, seed, skill, language)
    options = dict(_OPTION.findall(question))
    if options and answer and set(answer) <= set(options):
        return explain_choice(question, options, answer, language), answer
    if record and answer is not None and load_knowledge(language).find(answer):
        return explain(question, answer, seed, language), answer
    if answer is None:
        say = load_knowledge(language).say
        return say("unsolved"), say("unsolved_answer")
    return explain_answer(question, answer, seed, language), answer


def _mistake(
    answer: str | None, question: str, seed: int, skill: float, language: Language
) -> str | None:
    """Take a disease for its neighbour in all but a share `skill` of the questions."""
    known = load_knowledge(language).find(answer) if answer else None
    draw = random.Random(f"{seed} {question}")
    if known is None or draw.random() < skill:
        return answer
    return draw.choice([d.name for d in known[0].diseases if d.name != answer])


def _find_answer(question: str, language: Language) -> str | None:
    """Find what the clinic would answer: the treatment of a disease that is named, else the
    diagnosis, of an exam its letter."""
    knowledge = load_knowledge(language)
    options = dict(_OPTION.findall(question))
    diagnosis = solve(question, language)
    if options:
        return next((key for key, text in options.items() if text.strip() == diagnosis), None)
    told = _DIAGNOSED.search(question)
    known = knowledge.find(told[1]) if told else None
    return known[1].treatment if known else diagnosis


def _last_tagged(message: str, name: str) -> str:
    """Return the text of the last tag of a name; instructions before it may mention the tag too."""
    before, closing, _ = message.rpartition(f"</{name}>")
    return before.rpartition(f"<{name}>")[2].strip() if closing else ""


# A judge and a writer of rubrics, by likeness of words.


def answer_json(turns: Sequence[tuple[str, str]]) -> str | None:
    """Answer a judge's question or write a rubric, if that is what is asked."""
    if not turns or turns[0][0] != "system":
        return None
    system, user = turns[0][1], turns[-1][1]
    if "<reference>" in user and '"criteria"' in system:
        return _write_rubric(user)
    labels = {name: said.split(", ") for name, said in _CRITERION.findall(system)}
    if not labels or "JSON object" not in system:
        return None
    try:
        material = json.loads(user)
    except ValueError:
        return None
    said = {name: _choose(name, choices, material) for name, choices in labels.items()}
    return json.dumps({**said, "why": "by likeness of the words"}, ensure_ascii=False)


def _choose(name: str, labels: Sequence[str], material: Mapping[str, Any]) -> str:
    """Choose a label: by likeness where there is something to compare, else the middle one."""
    texts = {key: make_plain(str(text)) for key, text in material.items()}
    if name == "verdict":
        return "right" if similarity(texts["answer"], texts["reference"], 2) >= ALIKE else "wrong"
    if name == "better":
        one, two = (
            similarity(texts[key], texts["reference"], 2) for key in ("answer_1", "answer_2")
        )
        return "tie" if one == two else "first" if one > two else "second"
    if name == "met":
        quoted = _QUOTED.findall(str(material["criterion"]))
        return "yes" if any(make_plain(q) in texts["answer"] for q in quoted) else "no"
    return labels[len(labels) // 2]


def _write_rubric(user: str) -> str:
    """Write a rubric: the known answer, findings of the record, and one fault."""
    reference = user.partition("<reference>")[2].partition("</reference>")[0]
    record = user.partition("<record>")[2].rpartition("</record>")[0]
    known = re.split("[；;]", reference)[0].strip()
    found = [clause.strip() for clause in _CLAUSE.findall(record) if clause.strip()]
    criteria = [{"criterion": f"说出「{known}」", "points": 10, "quote": known}]
    criteria += [
        {"criterion": f"提到「{clause}」", "points": 2, "quote": clause}
        for clause in list(dict.fromkeys(found))[:N_FINDINGS]
    ]
    criteria.append({"criterion": f"称「排除{known}」", "points": -8, "quote": known})
    return json.dumps({"criteria": criteria}, ensure_ascii=False)
