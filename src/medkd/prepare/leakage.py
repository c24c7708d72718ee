"""Takes the statement of the answer out of its own record.

In: a text of a record, the case's `AnswerAliases`, the reviews of people. Out: the `Cut`s that
leave no statement of the principal diagnosis, and a `Removal` for each. A clause that holds the
name and nothing else goes whole; findings, tests, denials and what others have stay. Not done
here: the names (`aliases`), asking people (`studio`).

>>> from medkd.prepare.aliases import collect_aliases
>>> aliases = collect_aliases(["脑积水"])
>>> remove_answer("头颅CT示脑室扩张。目前诊断脑積水，予甘露醇脱水。", aliases)
'头颅CT示脑室扩张。予甘露醇脱水。'
>>> remove_answer("既往有高血压、脑积水病史。", aliases)
'既往有高血压病史。'
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from medkd.core.records import Case, Removal, name_removal
from medkd.core.reviews import Decision, Review, settle
from medkd.prepare.aliases import AnswerAliases
from medkd.prepare.statements import (
    ACT,
    ADMISSION,
    ADMITTED,
    DIAGNOSED,
    HISTORY,
    LIST_MARK,
    MARK,
    NEAR,
    Mention,
    Passage,
    find_answer,
    find_frame,
    find_modifiers,
    is_empty,
    make_pattern,
)
from medkd.text.normalize import Edit, View

THIS_DISEASE = "本病"
"""What stands for the name where its clause says more; 病变 of what grows or breaks."""
THIS_LESION = "病变"
THIS_CONDITION = "this condition"
_MAX_ROUNDS = 6


class Rule(StrEnum):
    """Why a span was removed."""

    STATEMENT = "statement"
    """A clause or a list of clauses that states a diagnosis: 目前诊断脑积水."""
    ADMISSION = "admission"
    """The reason for an admission: 以“脑积水”收入院."""
    CLAUSE = "clause"
    """A clause that holds the name, its source and nothing else: 头颅CT示脑积水."""
    ITEM = "item"
    """One item of a list, or one of two joined names."""
    PHRASE = "phrase"
    """The name with its preposition: 针对脑积水."""
    BASIS = "basis"
    """What led up to a removed statement: 结合病史、体征."""
    NAME = "name"
    """The name alone; 本病 stands there, for its clause says more."""
    SECTION = "section"
    """All of a section that could not be freed otherwise."""
    PERSON = "person"
    """A person said so."""
    ENDPOINT = "endpoint"
    """A model named the answer from the section alone."""


class Cut(NamedTuple):
    """A span that goes, what stands there instead, and the rule."""

    start: int
    end: int
    put: str
    rule: Rule


_SOURCE = re.compile(r"(?::|示|回报)\s?\"?$")
_BASIS = make_pattern("(?:%s)", "basis")
_BASIS_ONLY = make_pattern(r"(?:%s)*+", "basis_words")
_ACTING = make_pattern(r"\s?(?:%s)", "acting")
_LEADING = make_pattern(r"(?:%s)\s?$", "leading")
_LED = make_pattern(r"(?:%s)", "led")
_ADVERBS = re.compile(
    r"(?:目前|最终|最后|临床|入院|出院|初步|门诊|影像|印象|病理|报告|综合|首先|仍|故|遂|多|高度|进一步"
    r"|术前|术后|明确|修正|补充|更正|主要|基本|曾|也|亦|均|不){1,4}$"
)
_JOINT = r"(?:并发?|伴有?|合并|以及|及|和|与|\s(?i:and|with)\s)"
_RELATED = r"[^,。;!?\n]{0,12}(?:相关|有关|无关|所致|鉴别|关系)"
_JOINT_AFTER = re.compile(rf"{_JOINT}(?=[^,。;!?\n])(?!{_RELATED})")
_JOINT_BEFORE = re.compile(f"{_JOINT}$")
_PREDICATE = re.compile(_RELATED)
_AND = re.compile(f"{_JOINT}?")
_BETWEEN = re.compile(rf"(?:{_JOINT}|、|\s?(?=\())?")
_NUMBERED = re.compile(rf"(?:{LIST_MARK}|(?<![一-鿿])[一二三四五六七八九十]、)\s?$|^\s*$")
_AFTER_NAME = make_pattern(r"(?:%s){1,4}", "after_name")
_KIND_BEFORE = re.compile("(?:(?<![一-鿿])|(?<=示))(?P<x>[一-鿿]{1,5}性)$")
"""What makes a clause name a kind of the disease: 胆汁反流性 before 胃炎."""
_OWNED = re.compile(r"\b(?i:his|her|their|the|an?|my|this|known|'s) $")
_GROWTH = re.compile(r"(?:[瘤癌]|结石|囊肿|息肉|脓肿|血肿|骨折|缺损|断裂|ca|腺病)\w{0,3}$")


def remove_answer(text: str, aliases: AnswerAliases, section: str = "") -> str:
    """Remove every statement of the answer from a text.

    Where the principal diagnosis stands as this patient's disease, nothing of it remains, whatever
    the cuts bring together; text outside the cuts stays as it is.
    """
    return View.of(text).edit(Edit(*cut[:3]) for cut in find_cuts(text, aliases, section)).text


def find_cuts(text: str, aliases: AnswerAliases, section: str = "") -> list[Cut]:
    """Find what to cut from a text, in order and without overlap, in places of the text itself."""
    cuts: list[Cut] = []
    view = View.of(text)
    for _ in range(_MAX_ROUNDS):
        passage = Passage(view.text, section, aliases)
        mentions = find_answer(view.text, aliases, section, passage)
        if not mentions:
            return cuts
        found = _decide_all(passage, mentions)
        cuts = merge_cuts(cuts, [cut._replace(**_spread(view, cut)) for cut in found])
        view = View.of(text).edit(Edit(*cut[:3]) for cut in cuts)
    return (
        [Cut(0, len(text), "", Rule.SECTION)] if find_answer(view.text, aliases, section) else cuts
    )


def _spread(view: View, cut: Cut) -> dict[str, int]:
    start, end = view.original_span(cut.start, cut.end)
    return {"start": start, "end": end}


def merge_cuts(old: list[Cut], new: list[Cut]) -> list[Cut]:
    """Join cuts that overlap; the later one says what is put."""
    merged: list[Cut] = []
    for cut in sorted([*((c, 0) for c in old), *((c, 1) for c in new)], key=lambda pair: pair[0]):
        at, is_new = cut
        if merged and at.start < merged[-1].end:
            last = merged[-1]
            says = at if is_new else last
            merged[-1] = says._replace(start=last.start, end=max(last.end, at.end))
        else:
            merged.append(at)
    return merged


def _decide_all(passage: Passage, mentions: Iterable[Mention]) -> list[Cut]:
    """List the cuts for all mentions, in order; one that an earlier cut covers needs none."""
    found: list[Cut] = []
    done = 0
    waiting = list(mentions)
    for n, mention in enumerate(waiting):
        if mention.start < done:
            continue
        mention = _widen(passage, mention, done)
        for other in waiting[n + 1 :]:
            wide = _widen(passage, other, mention.end)
            if not _BETWEEN.fullmatch(passage.seen, mention.end, wide.start):
                break
            mention = mention._replace(end=wide.end)
        for cut in _decide(passage, mention):
            start = max(cut.start, done)
            if cut.end > start:
                found.append(cut._replace(start=start))
                done = cut.end
    return _tidy(passage.seen, found)


def _tidy(seen: str, cuts: Iterable[Cut]) -> list[Cut]:
    """Join cuts that touch, and take in the mark that would stand alone before or behind one."""
    joined: list[Cut] = []
    for cut in cuts:
        if joined and joined[-1].end == cut.start and not (joined[-1].put or cut.put):
            joined[-1] = joined[-1]._replace(end=cut.end)
        else:
            joined.append(cut)
    for n, (start, end, put, _) in enumerate(joined):
        if put:
            continue
        before, behind = seen[start - 1 : start], seen[end : end + 1]
        if behind in ",、" and behind and before in ",、。;":  # also at the beginning of the text
            joined[n] = joined[n]._replace(end=end + 1)
        elif before in ("，", ",", "、") and (behind in "。;!\n"):
            joined[n] = joined[n]._replace(start=start - 1)
    return joined


def _widen(passage: Passage, mention: Mention, done: int) -> Mention:
    """Widen a mention by what belongs to its name: side, degree, brackets, quotation marks."""
    seen = passage.seen
    start, end = find_modifiers(seen, mention.start, done), mention.end
    if kind := _KIND_BEFORE.search(seen, max(done, passage.clause(start, end)[0]), start):
        start = kind.start("x")
    if after := _AFTER_NAME.match(seen, end):
        end = after.end()
    for opening, closing in ("()", '""'):
        is_open = seen.count(opening, mention.start, end) > seen.count(closing, mention.start, end)
        if opening != closing and is_open and seen[end : end + 1] == closing:
            end += 1
        if start > done and seen[start - 1] == opening and seen[end : end + 1] == closing:
            start, end = start - 1, end + 1
    return mention._replace(start=start, end=end)


def _decide(passage: Passage, mention: Mention) -> Iterator[Cut]:
    """Yield what to cut around one mention."""
    seen = passage.seen
    start, end = mention.start, mention.end
    admitted = ADMITTED.search(seen, max(0, start - 6), start)
    admission = ADMISSION.match(seen, end)
    if admitted and admission:
        yield Cut(admitted.start(), admission.end(), "", Rule.ADMISSION)
        return
    if passage.is_in_english(mention):
        yield from _decide_english(passage, mention)
        return
    frame = find_frame(passage, start, end)
    item = _find_item(passage, mention)
    is_past = passage.section in HISTORY  # how a known disease was found stays
    if frame and frame[0] < start and (frame[2] or not item) and not is_past:
        yield from _cut_statement(passage, mention, frame[0])
        return
    clause_start, clause_end = passage.clause(start, end)
    leading = _LEADING.search(seen, max(clause_start, start - 12), start)
    follows_source = _SOURCE.search(seen, clause_start, start) is not None
    if DIAGNOSED.match(seen, end) and is_empty(seen[clause_start:start]):
        yield from _cut_statement(passage, mention, clause_start)
    elif is_empty(seen[clause_start:start]) and is_empty(seen[end:clause_end]):
        yield from _cut_clause(passage, clause_start, clause_end, mention, Rule.CLAUSE)
    elif item:
        yield Cut(*item, "", Rule.ITEM)
    elif follows_source and end == clause_end and _goes_on(passage, end):
        yield Cut(start, end + 1, "", Rule.ITEM)
    elif leading and (led := _LED.match(seen, end)) and _ACTING.match(seen, led.end()):
        stop = led.end()
        stop += seen[stop : stop + 1] == "," and leading.start() == clause_start
        stop += seen[stop : stop + 1] == " " == seen[leading.start() - 1 : leading.start()]
        yield Cut(leading.start(), stop, "", Rule.PHRASE)
    else:
        yield Cut(start, end, _stand_in(passage, mention), Rule.NAME)


def _decide_english(passage: Passage, mention: Mention) -> Iterator[Cut]:
    """Yield the clause where it says nothing else; else the name alone, so that the sentence stays
    one."""
    start, end = passage.clause(mention.start, mention.end)
    before, behind = passage.seen[start : mention.start], passage.seen[mention.end : end]
    if is_empty(before) and is_empty(behind):
        yield from _cut_clause(passage, start, end, mention, Rule.CLAUSE)
    else:
        yield Cut(mention.start, mention.end, _stand_in(passage, mention), Rule.NAME)


def _goes_on(passage: Passage, end: int) -> bool:
    """Tell whether a further finding of the same source follows."""
    return passage.seen[end : end + 1] == "," and not _ACTING.match(passage.seen, end + 1)


def _find_item(passage: Passage, mention: Mention) -> tuple[int, int] | None:
    """Find the span of a mention with the mark that joins it to another item of a list."""
    seen = passage.seen
    start, end = mention.start, mention.end
    clause_start, _ = passage.clause(start, end)
    before = seen[max(clause_start, start - 12) : start]
    if seen[end : end + 1] == "、" and (joint := _AND.match(seen, end + 1)):
        return start, joint.end()
    if before.endswith("、") and not _NUMBERED.search(before):
        return start - 1, end
    if joint := _JOINT_AFTER.match(seen, end):
        return start, joint.end()
    joint = _JOINT_BEFORE.search(before)
    if (
        joint
        and not _PREDICATE.match(seen, end)
        and not is_empty(seen[clause_start : start - len(joint[0])])
    ):
        return start - len(joint[0]), end
    return None


def _cut_statement(passage: Passage, mention: Mention, opening: int) -> Iterator[Cut]:
    """Yield the cut of a clause or list that states a diagnosis, with what led up to it."""
    seen = passage.seen
    start, end = passage.clause(opening, mention.end)
    if not is_empty(seen[start:opening]):
        adverbs = _ADVERBS.search(seen, max(start, opening - 12), opening)
        start = adverbs.start() if adverbs else opening
    goes_on = seen[mention.end : mention.end + 1] in {",", ";"}
    if goes_on and _SOURCE.search(seen, start, opening):
        start = opening  # its source tells more
    start, opened = _find_basis(passage, start)
    if opened:
        yield opened
    listed = passage.find_list(mention.start, mention.end)
    if listed and listed[0] == opening:
        end = listed[1]
    elif act := ACT.search(seen, mention.end, end):
        yield Cut(start, act.start(), "", Rule.STATEMENT)
        return
    if seen[mention.end : mention.end + 1] == ":":
        yield Cut(start, mention.end + 1, "", Rule.STATEMENT)
        return
    while more := _OTHER_DOUBT.match(seen, end):
        end = more.end()
    while seen[end : end + 1] == "," and passage.is_name(
        end + 1, stop := passage.clause(end + 1, end + 1)[1]
    ):
        end = stop
    end = _close(seen, start, end)
    yield from _cut_clause(passage, start, end, mention, Rule.STATEMENT)


def _close(seen: str, start: int, end: int) -> int:
    """Extend a span to the mark that closes what it opens: “左眼青光眼，左眼角膜炎”."""
    for opening, closing in ("()", '""'):
        n = seen.count(opening, start, end)
        is_open = n % 2 if opening == closing else n > seen.count(closing, start, end)
        stop = seen.find(closing, end, end + NEAR) if is_open else -1
        end = stop + 1 if stop >= 0 else end
    return end


_OTHER_DOUBT = re.compile(r"\?[^,;。!?\n]{1,20}(?=\?)")


def _find_basis(passage: Passage, start: int) -> tuple[int, Cut | None]:
    """Find what a statement at `start` rests on: where it begins, if it says no more than 结合病史;
    else the cut of the word that opens it."""
    seen = passage.seen
    for basis in _BASIS.finditer(seen, max(passage.sentence(start), start - NEAR), start):
        words = _BASIS_ONLY.match(seen, basis.start(), start)
        if words and words.end() == start:
            return basis.start(), None
    before, _ = passage.clause(start - 1, start - 1) if start else (0, 0)
    if before < start and (basis := _BASIS.match(seen, before, start)):
        return start, Cut(*basis.span(), "", Rule.BASIS)
    return start, None


def _cut_clause(
    passage: Passage, start: int, end: int, mention: Mention, rule: Rule
) -> Iterator[Cut]:
    """Yield the cut of a clause, from a place in it on, with one of the marks around it.

    The source of a finding stays where further findings follow: 心脏超声：…，左房大.
    """
    seen = passage.seen
    if seen[end : end + 1] == "?":
        end += 1
    mark = seen[end : end + 1] if MARK.match(seen, end) else ""
    if (
        rule is Rule.CLAUSE
        and _SOURCE.search(seen, start, mention.start)
        and _goes_on(passage, end)
    ):
        yield Cut(mention.start, end + 1, "", rule)
        return
    if number := _NUMBER.search(seen, max(0, start - 5), start):
        start = number.start()
    before = seen[start - 1 : start]
    is_whole = not start or MARK.match(before) is not None
    is_whole |= before == ":" and mark in {",", ";"}
    closes = mark in ("。", "!", "\n", ";") or end == len(seen)
    if closes and (before == "," or (before == ";" and mark != ";")):
        yield Cut(start - 1, end, "", rule)
    elif is_whole or number:
        stop = end + len(mark)
        while stop < len(seen) and seen[stop] == " ":
            stop += 1
        yield Cut(start, stop, "", rule)
    else:
        yield Cut(start, end, "", rule)


_NUMBER = re.compile(rf"(?<![\d.]){LIST_MARK}\s?$")


def _stand_in(passage: Passage, mention: Mention) -> str:
    """Choose the word that stands for a name."""
    seen = passage.seen
    if re.match("病?史", seen[mention.end :][:2]):
        return THIS_DISEASE
    if passage.is_in_english(mention):
        is_owned = _OWNED.search(seen, max(0, mention.start - 12), mention.start)
        return THIS_CONDITION.split()[1] if is_owned else THIS_CONDITION
    return THIS_LESION if _GROWTH.search(mention.name) else THIS_DISEASE


# Removals as records, and what people decided

AROUND = 20
"""Characters of context on each side of a span."""
_ID = re.compile(r"(?P<case>.*)#(?P<section>[^#]*)#(?P<start>\d+)-(?P<end>\d+)#[0-9a-f]{8}", re.S)


class Reviewed(NamedTuple):
    """A person's decision about a span."""

    id: str
    section: str
    start: int
    end: int
    review: Review


Decisions = Mapping[str, Sequence[Reviewed]]
"""Id of a case to the decisions about its spans."""


def read_decisions(reviews: Mapping[str, Sequence[Review]]) -> dict[str, list[Reviewed]]:
    """Read the reviews that count, by case; those of anything but spans are left out."""
    found: dict[str, list[Reviewed]] = {}
    for key, of_span in reviews.items():
        if match := _ID.fullmatch(key):
            start, end = int(match["start"]), int(match["end"])
            decision = Reviewed(key, match["section"], start, end, settle(of_span))
            found.setdefault(match["case"], []).append(decision)
    return found


def remove_spans(
    case: Case, section: str, view: View, cuts: Iterable[Cut], decisions: Iterable[Reviewed]
) -> tuple[str, list[Removal]]:
    """Cut a section's view as the rules say and people decided; return its text and the removals.

    A decision about another text of the section than this one, by its digest, counts for nothing.
    """
    original = case.sections[section]
    valid = [
        decision
        for decision in decisions
        if decision.section == section
        and decision.id == name_removal(case.id, section, original, decision.start, decision.end)
    ]
    kept = [one for one in valid if one.review.decision is Decision.REJECT]
    own = [cut for one in valid if one not in kept if (cut := _place(view, one))]
    found = list(cuts)
    restored = [cut for cut in found if any(_overlaps(view, cut, one) for one in kept)]
    removed = merge_cuts([cut for cut in found if cut not in restored], own)
    text = view.edit(Edit(cut.start, cut.end, cut.put) for cut in removed).text
    removals = [
        *(_record(case, section, view, cut) for cut in removed),
        *(_record(case, section, view, cut, "restored") for cut in restored),
    ]
    return text, sorted(removals, key=lambda removal: removal.start)


def propose_section(case: Case, section: str) -> Removal:
    """Propose a section from which a model named the answer where the rules found nothing."""
    view = View.of(case.sections[section])
    cut = Cut(0, len(view.text), "", Rule.ENDPOINT)
    return _record(case, section, view, cut, "proposed")


def _place(view: View, decision: Reviewed) -> Cut | None:
    """Find the span of the view that a person's span of the section has become."""
    start = bisect_left(view.starts, decision.start)
    end = bisect_right(view.ends, decision.end)
    return Cut(start, end, decision.review.answer, Rule.PERSON) if start < end else None


def _overlaps(view: View, cut: Cut, decision: Reviewed) -> bool:
    start, end = view.original_span(cut.start, cut.end)
    return start < decision.end and decision.start < end


def _record(
    case: Case,
    section: str,
    view: View,
    cut: Cut,
    state: Literal["removed", "restored", "proposed"] = "removed",
) -> Removal:
    original = case.sections[section]
    start, end = view.original_span(cut.start, cut.end)
    return Removal(
        id=name_removal(case.id, section, original, start, end),
        case_id=case.id,
        section=section,
        start=start,
        end=end,
        rule=cut.rule,
        before=original[start:end],
        after=cut.put,
        context=original[max(0, start - AROUND) : start]
        + f"⟦{original[start:end]}⟧"
        + original[end : end + AROUND],
        state=state,
    )
