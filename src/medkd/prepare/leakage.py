"""Takes the answer out of its own question.

In: a text of a record and the case's `AnswerAliases`. Out: the text without the answer, still
readable: a clause that only states the diagnosis is cut, an item is taken from its list, elsewhere
the name becomes 某病 or, of a mere finding, other words. Not done here: the names (`aliases`).

>>> from medkd.prepare.aliases import collect_aliases
>>> aliases = collect_aliases(["脑积水"])
>>> remove_answer("头颅CT示脑室扩张。目前诊断脑積水，予甘露醇脱水。", aliases)
'头颅CT示脑室扩张。予甘露醇脱水。'
>>> remove_answer("既往有高血压、脑积水病史。", aliases)
'既往有高血压病史。'
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from medkd.prepare.aliases import AnswerAliases, make_plain, read_plain
from medkd.text.normalize import simplify

MASK = "某病"
MASK_IN_ENGLISH = "[disease]"
_MAX_ROUNDS = 6
_VIEW = 300
"""Characters looked at on each side of a name."""
_HEDGE_WORDS = (
    r"(?:目前|最终|最后|临床|入院|出院|初步|门诊|影像|印象|病理|报告|综合|首先|仍|故|遂|多|高度"
    r"|进一步|术前|术后|明确|修正|补充|更正|主要|基本|拟|曾|也|亦|均|不){0,4}"
    r"(?:诊断(?:考虑|明确为|为|是|有|意见|上)?|考虑(?:诊断|为|是|存在|有|合并|可能|患者|患儿"
    r"|不排除|不[能可]?除外){0,3}|拟诊为?|确诊[为是]?|疑[诊似为]为?|怀疑[为是]?|符合|支持"
    r"|不[能可]?排除|不[能可]?除外|倾向[于为]?|可能[为是])"
    r"(?:[:：]|为)?\s*[“\"「‘]?(?:\d{1,2}[.、．]\s*)?"
)
_HEDGE_BEFORE = re.compile(_HEDGE_WORDS + "$")
_HEDGED = re.compile(_HEDGE_WORDS + r"(?P<x>[^，,。；;、：:“”\"「」（()）?？\s]{3,30})")
_LEAD = re.compile(
    r"(?:上述结果|上述检查|以上结果|以上|综上|据此|外院曾?|当地医院|患者|患儿|结合临床|结合病史"
    r"|现|亦){0,6}$"
)
_BASIS = re.compile(r"(?:结合|根据|综合|依据|鉴于)[^。；;]{0,300}$")
_ADMITTED = re.compile(r"(?:拟诊?|诊断为?|[以因])\s*[“\"「‘]?$")
_ADMISSION = re.compile(
    r"[”\"」’]?\s{0,3}(?:待查|查因)?\s{0,3}(?:为?诊断)?\s{0,3}(?=收|入院|入我|住院|转入|急诊入)"
)
_BEFORE_NAME = re.compile(r"(?:急性|慢性|亚急性|[左右双两]侧?|[轻中重]度|原发性|继发性){1,6}$")
_AFTER_NAME = re.compile(
    r"(?:[（(](?:[很极]?高危|[中低]危|[轻中重]度|[IVXⅠ-Ⅳ\d]+[级期]?[，,、]?[很极]?[高中低]?危?"
    r"|[A-Za-z]{2,8})[）)])?(?:[?？]|可能性?大?|待[查排]|查因|不[能可]?除外|诊断明确){0,6}"
)
_BETWEEN = re.compile(r"[，,、；;“”\"\s？?]{0,20}(?:\d{1,2}[.、．]\s*)?(?:及|和|与|并|伴有?|合并)?")
_NUMBERING = re.compile(r"\d{1,2}[.、．](?!\d)")
_NUMBERED = re.compile(
    r"(?:^|[^一-鿿\d])(?:\d{1,2}|[一二三四五六七八九十])[.、．]\s*$|[一-鿿]\d{1,2}[.、．]\s*$"
)
_CLAUSE_END = re.compile(r"[”\"」’]?\s{0,9}(?:[，,。；;！!]|$)")
_COMPOUND = re.compile(
    r"支原体|衣原体|病毒|表面|核心|[eE]抗|抗体|抗原|链球菌|[杆球]菌|疫苗|[密接]切?接?触|DNA|RNA"
    r"|检测|测定|全套|两对半|三对|五项|筛查|家族|科"
)
_NEGATED = re.compile(
    r"(?:否认|无|未见|未闻|未患|排除|不考虑)(?:(?!示|确诊"
    r"|诊断[为是考])[^。；;，,但]){0,300}(?:[，,](?:[^。；;，,但]{1,8}[，,]){0,40}[或及和]?)?$"
)
"""What is denied: the same clause, and a list of bare names behind it; not what a later clause says
was found: 无咳嗽，CT示肺结核."""
_TIDY = (
    (re.compile(r"[“「‘《]\s*[”」’》]|\"\s*\"|（\s*）|\(\s*\)"), ""),
    (re.compile(r"某病(?:[、，,及和与并伴；;]+(?:\d{1,2}[.、．]\s*)?某病)+"), MASK),
    (re.compile(r"某病病史"), "某病史"),
    (re.compile(r"[，,、；;：:]{1,40}(?=[。！？!?])"), ""),
    (re.compile(r"([。；！？])[，,、；;。]+"), r"\1"),
    (re.compile(r"([，,、])[，,、；;]+"), r"\1"),
    (re.compile(r"([：:])[，,、；;]+"), r"\1"),
    (re.compile(r"^[，,。；;、：:！？]+"), ""),
)


class Span(NamedTuple):
    """A place in a text, and the plain name that stands there."""

    start: int
    end: int
    name: str


def has_answer(text: str, aliases: AnswerAliases) -> bool:
    """Tell whether a listed diagnosis stands in a text, verbatim or split by blanks."""
    plain = read_plain(text)
    return any(
        name in plain.text and any(True for _ in plain.find(name, seams))
        for name, seams in aliases.listed.items()
    )


def remove_answer(text: str, aliases: AnswerAliases) -> str:
    """Remove the answer from a text; no listed diagnosis remains, whatever the cuts bring
    together."""
    for word, said in aliases.inside.items():
        text = _replace(text, word, said)
    for _ in range(_MAX_ROUNDS):
        spans = find_answer(text, aliases)
        if not spans:
            return text
        text = _tidy(_edit(text, spans, aliases))
    while listed := next(
        (span for span in find_answer(text, aliases) if span.name in aliases.listed), None
    ):
        text = text[: listed.start] + text[listed.end :]
    return text


def _replace(text: str, word: str, said: str) -> str:
    """Replace a word in whichever script it is written."""
    seen = simplify(text)
    if word not in seen:
        return text
    parts: list[str] = []
    position = 0
    while (at := seen.find(word, position)) >= 0:
        parts += [text[position:at], said]
        position = at + len(word)
    return "".join([*parts, text[position:]])


def find_answer(text: str, aliases: AnswerAliases) -> list[Span]:
    """Find where a text tells the answer: listed names anywhere in a clause, derived ones where
    they state it."""
    plain, seen = read_plain(text), simplify(text)
    taken = bytearray(len(text))
    found: list[Span] = []
    for name in aliases.names:
        if name not in plain.text:
            continue
        for at in plain.find(name, aliases.listed.get(name, frozenset())):
            span = Span(plain.starts[at], plain.ends[at + len(name) - 1], name)
            if 1 not in taken[span.start : span.end] and (
                name in aliases.listed or _states(seen, span)
            ):
                taken[span.start : span.end] = b"\1" * (span.end - span.start)
                found.append(span)
    for match in _HEDGED.finditer(seen):
        span = Span(*match.span("x"), make_plain(match["x"]))
        if 1 not in taken[span.start : span.end] and any(
            trace in span.name for trace in aliases.traces
        ):
            found.append(span)
    return sorted(found)


def _states(text: str, span: Span) -> bool:
    """Tell whether a derived name stands for a disease of this patient, not for a test, a germ or
    something denied."""
    inside, before, after = (
        text[span.start : span.end],
        text[max(0, span.start - _VIEW) : span.start],
        text[span.end : span.end + _VIEW],
    )
    if re.search(r"[。；;！]", inside) or _COMPOUND.match(after) or _NEGATED.search(before):
        return False
    if span.name.startswith("高") and before.endswith(("最", "较")):  # 最高血压 is a measurement
        return False
    return not (
        span.name.isascii()
        and (re.search(r"[A-Za-z0-9-]$", before) or re.match(r"[A-Za-z0-9-]", after))
    )


def _join(text: str, spans: list[Span]) -> list[Span]:
    """Widen each place by what belongs to the name, and join neighbours of one list."""
    joined: list[Span] = []
    for start, end, name in spans:
        if before := _BEFORE_NAME.search(text, joined[-1].end if joined else 0, start):
            start = before.start()
        if after := _AFTER_NAME.match(text, end):
            end = after.end()
        if any(
            text[start:end].count(a) > text[start:end].count(b) and text[end : end + 1] == b
            for a, b in ("（）", "()")
        ):
            end += 1
        if joined and _BETWEEN.fullmatch(text, joined[-1].end, start):
            joined[-1] = Span(joined[-1].start, max(end, joined[-1].end), "")
        elif not joined or start >= joined[-1].end:
            joined.append(Span(start, end, name))
    return joined


def _edit(text: str, spans: list[Span], aliases: AnswerAliases) -> str:
    """Cut or replace each name; decide in simplified characters, keep the others as written."""
    seen = simplify(text)
    parts: list[str] = []
    position = 0
    for span in _join(seen, spans):
        start, end, replacement = _decide(seen, span, position, aliases.findings)
        parts += [text[position:start], replacement]
        position = end
    return "".join([*parts, text[position:]])


def _decide(
    text: str, span: Span, position: int, findings: Mapping[str, str]
) -> tuple[int, int, str]:
    """Decide what to cut around a name, never before `position`, and what to write instead."""
    position = max(position, span.start - _VIEW)
    before, after = text[position : span.start], text[span.end : span.end + _VIEW]
    if finding := findings.get(span.name):
        return span.start, span.end, finding
    if (admitted := _ADMITTED.search(before)) and (admission := _ADMISSION.match(after)):
        return position + admitted.start(), span.end + admission.end(), ""
    clause = _clause_start(before)
    at_end = _CLAUSE_END.match(after)
    if at_end and (hedge := _HEDGE_BEFORE.search(before, clause)) and not _BASIS.search(before):
        lead = _LEAD.search(before, clause, hedge.start())
        has_more = _NUMBERING.search(hedge[0] + text[span.start : span.end]) and _NUMBERING.match(
            after, at_end.end()
        )
        if lead and lead.start() == clause and not has_more:
            return position + clause, span.end + at_end.end(), _mark(at_end[0], before[:clause])
    if after.startswith("、") and not _NUMBERED.search(before):
        return span.start, span.end + 1, ""
    if before.endswith("、") and not _NUMBERED.search(before):
        return span.start - 1, span.end, ""
    is_whole_clause = re.fullmatch(r"(?:\d{1,2}[.、．])?\s*[“\"]?", before[clause:]) is not None
    if at_end and is_whole_clause and (position + clause > 0 or at_end[0]):
        return position + clause, span.end + at_end.end(), _mark(at_end[0], before[:clause])
    is_english = text[span.start : span.end].isascii() and (before[-2:] + after[:2]).isascii()
    doubt = "？" if text[span.end - 1] in "?？" and after[:1] not in "，,。；;、）)" else ""
    return span.start, span.end, (MASK_IN_ENGLISH if is_english else MASK) + doubt


def _clause_start(before: str) -> int:
    return max(before.rfind(mark) for mark in "，,。；;！!\n") + 1


def _mark(end: str, before: str) -> str:
    """Keep the full stop of a cut clause where the sentence before it is still open."""
    is_open = bool(before) and before[-1] not in "。！；;!"
    stop = end.strip('”"」’ \n')
    return stop if is_open and stop in {"。", "；", ";"} else ""


def _tidy(text: str) -> str:
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text
