"""Finds where a record states its own answer.

In: a text of a record and the case's `AnswerAliases`. Out: `Mention`s: the names that stand for
this patient's disease and tell the answer, not those of tests, of denials, of the past or of other
people. Not done here: the names (`aliases`), what is cut (`leakage`).
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import cache, cached_property, lru_cache
from typing import NamedTuple, cast

from medkd.core.config import read_shipped_yaml
from medkd.grading.compare import Relation, compare
from medkd.grading.names import parse_name
from medkd.prepare.aliases import AnswerAliases
from medkd.prepare.english import EnglishName, covers, find_name, is_carried
from medkd.text.normalize import make_plain, read_plain, simplify

HISTORY = frozenset({"既往史", "个人史", "婚育史", "月经史", "过敏史"})
"""Sections that tell of the past: the other diagnoses stay there, however they are stated."""
FAMILY = "家族史"
TESTS = "辅助检查"
EXAMINATION = "查体"
"""A name that is not the listed one is a sign there: 周围性面瘫 of 面神经炎."""
NEAR = 60
"""Characters looked at on each side of a name."""
_MAX_CLAUSE = 200
_MAX_BETWEEN = 25
"""Characters between a word of diagnosing and the name that it states."""
_MAX_ITEMS = 12


class Tier(IntEnum):
    """How much a name tells."""

    PRINCIPAL = 0
    FURTHER = 1
    OTHER = 2


class Mention(NamedTuple):
    """A name of the answer in a text."""

    start: int
    end: int
    name: str
    tier: Tier


@cache
def read_pieces(name: str) -> str:
    words = cast("dict[str, str]", read_shipped_yaml("medkd.prepare", "statements.yaml"))[name]
    return "|".join(sorted(words.split(), key=len, reverse=True)).replace("␣", " ")


def make_pattern(form: str, *names: str) -> re.Pattern[str]:
    return re.compile(form % tuple(read_pieces(name) for name in names))


_WIDTHS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    ord(mark): plain
    for marks, plain in (("“”„「」『』《》", '"'), ("‘’", "'"), ("\u3000\xa0", " "))
    for mark in marks
}
MARK = re.compile(r"[;。!?\n]|,(?!\d)|(?<!\d),")
_FULL_STOP = re.compile(
    r"(?:(?<=[A-Za-z]{2})(?<!\b[DM]r)(?<!\bM[rs]s)(?<!\bMs)(?<!\bSt)(?<!\bvs)|(?<=[)\]%\"'])"
    r"|(?:(?<=\.\d)|(?<=\d\d\d))(?=\.\s+[A-Z]))\.(?=\s|$)"
)
"""One that ends an English sentence: not that of an abbreviation or of a number in a list."""
LIST_MARK = r"(?:\d{1,2}[.、)](?!\d)|\(\d{1,2}\)|[①-⑳])"
_HANZI = re.compile("[一-鿿]")
_DIAGNOSING = make_pattern("(?:%s)", "diagnosing")
_CONSIDERING = make_pattern("(?:%s)", "considering")
_LIST_OPENS = make_pattern(rf"(?:%s|%s)[:\s]*(?=\"?{LIST_MARK})", "diagnosing", "considering")
_LIST_ITEM = re.compile(rf"\s?{LIST_MARK}[^。;,\n]{{1,80}}?(?=[。;,\n?]|\s?{LIST_MARK}|$)\??")
_LIST_GAP = re.compile(r"[;,、。\s\"]{0,4}")
_STATED = re.compile(
    r"[:\s\"'(]*+(?:患者|患儿|为|是|有|1[.、])*+[\"'(]?(?P<x>[^,。;、:\"()?\s]{2,30}?)"
    r"(?=[,。;、:\"()?\s]|$|收|入院|入我|住院|转入|诊断|可能|待[查排])"
)
DIAGNOSED = make_pattern(r"\"?\s?(?:%s)(?=[,。;!\n]|$)", "diagnosed")
_CARRIER_AFTER = make_pattern(r"[\"')]?\s?(?:[A-C]\s)?-?(?:%s)", "carriers")
_CARRIER_BEFORE = make_pattern(r"(?:%s)$", "carried")
_PRESSURE = re.compile(
    r"[ :=<>~约为降升至]{0,4}(?:(?:of|was|is|in the|at|up to) ){0,2}\d{2,3}"
    r"(?!\d| ?(?:d|天|日|周))"
)
"""What makes SBP a pressure, no peritonitis."""
_OTHERS = make_pattern(r"(?:%s)(?!.{0,3}(?:诉|述|代|发现|送|要求|陪))[^。;,]{0,20}$", "others")
_PAST = make_pattern("(?:%s)", "past")
_THEN = re.compile(
    r"(?i:\bin childhood\b|\bas a child\b|\baged? \d|\bprior\b)"
    r"|(?<![\d/.-])(?:19|20)\d\d\b(?![/.-]\d)"
)
_OVER = make_pattern("[^。;]{0,40}(?:%s)", "over")
_NEGATED = re.compile(
    r"(?:否认|无(?!应答|反应|菌|痛性|症状性)|未见|未闻|未患|(?<![不能])排除|不考虑"
    r"|\b(?i:no|denie[sd]|without|negative for|not|ruled? out|exclude[sd]?)\b)"
    r"(?:(?!示|确诊|诊断[为是考]|\bshow)[^。;,但])*"
    r"(?:,(?:[^。;,但]{1,8}[,])*[或及和]?"
    r"|(?:,(?! ?but\b)[^。;,]{1,40}){0,6}\bn?or\b[^。;,]{0,40})?$"
)
"""What is denied: the same clause, and a list of bare names behind it; not what a later clause says
was found: 无咳嗽，CT示肺结核."""
_DENIED = re.compile(
    r"[\"')]?\s?(?:已|可|予以?|暂)?(?:(?<!不)排除|不考虑|(?:可能)?性?(?:不大|较?小)|依据不足|证据不足"
    r"|不支持|\(-\)|阴性"
    r"|(?i:(?:and [a-z ]{1,40} (?=(?:are|were|felt|judged) ))?"
    r"(?:(?:was|is|are|were|been|felt|judged|thought|to|be) ){0,4}"
    r"(?:ruled out|excluded|denied|unlikely|not likely)))"
)
ADMITTED = re.compile(r"(?:拟诊?|诊断为?|[以因为])\s?\"?$")
ADMISSION = re.compile(
    r"\"?\s?;?(?:待查|查因)?\s?(?:为?诊断)?\s?(?=收|入院|入我|住院|转入|急诊|手术)"
)
_EMPTY = re.compile(
    rf"(?:{read_pieces('empty')}|\b(?i:{read_pieces('empty_english')})\b)*+", re.IGNORECASE
)
_BEFORE_NAME = make_pattern(r"(?:%s){1,4}$", "before_name")
_BEFORE_ALL = make_pattern(r"(?:%s){1,4}", "before_name")
ACT = re.compile("给予|予以|予|治疗|加用|改用|口服|静滴|收治|收住|收入|入院|住院|转入|行(?!为|走)")


class Passage:
    """A text with its clauses, in simplified characters and half width, place for place."""

    def __init__(self, text: str, section: str, aliases: AnswerAliases) -> None:
        self.text, self.section = text, section
        self._names = frozenset(aliases.names)
        self.seen, self._marks = _see(text)

    @cached_property
    def is_english(self) -> bool:
        """Whether the text is written in Latin letters, but for marks of what was masked."""
        return 10 * len(_HANZI.findall(self.seen)) < len(self.seen)

    def is_in_english(self, mention: Mention) -> bool:
        """Whether a name stands there in English, and not in Chinese among Latin values."""
        return self.is_english and not _HANZI.search(self.seen, mention.start, mention.end)

    def clause(self, start: int, end: int) -> tuple[int, int]:
        """Return the bounds of the clause or clauses around a span, its marks left out; of an
        endless one, the part nearby."""
        before = bisect_left(self._marks, start)
        after = bisect_left(self._marks, end)
        return (
            max(self._marks[before - 1] + 1 if before else 0, start - _MAX_CLAUSE),
            min(
                self._marks[after] if after < len(self._marks) else len(self.seen),
                end + _MAX_CLAUSE,
            ),
        )

    def find_list(self, start: int, end: int) -> tuple[int, int] | None:
        """Find the numbered list of diagnoses in which a span stands."""
        at = bisect_right(self.lists, (start, len(self.seen))) - 1
        return self.lists[at] if at >= 0 and end <= self.lists[at][1] else None

    def sentence(self, at: int) -> int:
        """Return where the sentence around a place begins."""
        begin = max(0, at - _MAX_CLAUSE)
        return max(begin, *(self.seen.rfind(mark, begin, at) + 1 for mark in "。;!\n"))

    def is_name(self, start: int, end: int) -> bool:
        """Tell whether a span is a name of the case's diagnoses and nothing else."""
        start = start + len(self.seen[start:end]) - len(self.seen[start:end].lstrip())
        modifiers = _BEFORE_ALL.match(self.seen, start, end)
        return any(
            make_plain(self.seen[at:end]) in self._names
            for at in {start, modifiers.end() if modifiers else start}
        )

    @cached_property
    def lists(self) -> list[tuple[int, int]]:
        """The numbered lists that state diagnoses, from the word of diagnosing on; those of
        the past and of a test's report tell more than today's, and stay lists."""
        found: list[tuple[int, int]] = []
        done = 0
        for opening in _LIST_OPENS.finditer(self.seen):
            if opening.start() < done:
                continue
            end = opening.end() + (self.seen[opening.end() : opening.end() + 1] == '"')
            for _ in range(_MAX_ITEMS):
                gap = _LIST_GAP.match(self.seen, end)
                item = _LIST_ITEM.match(self.seen, gap.end() if gap else end)
                if not item:
                    break
                end = item.end()
            if end > opening.end() and self.section not in (*HISTORY, TESTS):
                act = ACT.search(self.seen, self.seen.rfind(",", opening.end(), end) + 1, end)
                done = act.start() if act and act.start() > opening.end() else end
                found.append((opening.start(), done))
        return found


@lru_cache(maxsize=256)
def _see(text: str) -> tuple[str, list[int]]:
    """Write a text in simplified characters and half width, place for place, with one mark for
    the end of a sentence; find its marks."""
    seen = _FULL_STOP.sub("。", simplify(text).translate(_WIDTHS))
    return seen, [mark.start() for mark in MARK.finditer(seen)]


def find_known(text: str, aliases: AnswerAliases, section: str) -> set[str]:
    """Find which of the other diagnoses a text tells as known ones: in the sections of the past,
    and elsewhere in a clause about it (既往, 病史)."""
    if section == FAMILY or not _names_in(text, aliases.others):
        return set()
    plain = _read_plain(text)
    passage = Passage(text, section, aliases)
    found: set[str] = set()
    for name, listed in aliases.others.items():
        if listed in found or name not in plain.text:
            continue
        for at in plain.find(name, aliases.seams.get(name, frozenset())):
            start, end = plain.starts[at], plain.ends[at + len(name) - 1]
            begin, stop = passage.clause(start, end)
            is_past = section in HISTORY or _KNOWN.search(passage.seen, begin, stop)
            if is_past and _is_own(passage, start, end, name):
                found.add(listed)
                break
    return found


def is_complaint(text: str, aliases: AnswerAliases) -> bool:
    """Tell whether a chief complaint is the principal diagnosis itself, so that there is nothing to
    find out: 左拇指缺失1年, not 贲门癌病史2年."""
    passage = Passage(text, "", aliases)
    if _DISEASE_HISTORY.search(passage.seen):
        return False
    plain = _read_plain(text)
    for name in aliases.names:
        for at in plain.find(name, aliases.seams.get(name, frozenset())):
            start, end = plain.starts[at], plain.ends[at + len(name) - 1]
            rest = passage.seen[: find_modifiers(passage.seen, start, 0)] + passage.seen[end:]
            if name in aliases.principal and (aliases.is_finding or _DURATION.fullmatch(rest)):
                return True
    return False


_KNOWN = re.compile(r"既往|病史|(?i:\bhistory of\b|\bknown\b)")
_DISEASE_HISTORY = re.compile("病史|确诊|诊断|发现|术后|复查|(?i:diagnos|history)")
_DURATION = re.compile(
    r"(?:[\s,.。;、余多约近半伴及\d一二三四五六七八九十数两年月天日周小时分钟个]"
    r"|(?i:for|of|days?|weeks?|months?|years?))*+"
)


def joins_answer(line: str, aliases: AnswerAliases) -> bool:
    """Tell whether a name comes together across the label of a section: 【主诉】头痛."""
    names = _names_in(line, aliases.principal)
    plain = _read_plain(line if names else "")
    return any(
        "】" in line[plain.starts[at] : plain.ends[at + len(name) - 1]]
        for name in names
        for at in plain.find(name, aliases.seams.get(name, frozenset()))
    )


def find_answer(
    text: str, aliases: AnswerAliases, section: str = "", passage: Passage | None = None
) -> list[Mention]:
    """Find where a text states the answer: names of the principal diagnosis wherever they stand
    for this patient's disease, the others where a diagnosis is stated."""
    if section == FAMILY:
        return []
    passage = passage or Passage(text, section, aliases)
    taken = bytearray(len(text))
    found: list[Mention] = []
    if names := _names_in(text, aliases.names):
        plain = _read_plain(text)
        for term in _names_in(text, aliases.terms):
            for at in plain.find(term):
                start, end = plain.starts[at], plain.ends[at + len(term) - 1]
                taken[start:end] = b"\1" * (end - start)
        found += _find_named(passage, aliases, names, taken)
    if aliases.english and passage.is_english:
        found += _find_english(passage, aliases, aliases.english, taken)
    else:
        found += _find_related(passage, aliases, taken)
    return sorted(found)


_plain = lru_cache(maxsize=256)(make_plain)
_read_plain = lru_cache(maxsize=64)(read_plain)
"""A section is looked at before and after each round of cuts."""


def _find_english(
    passage: Passage, aliases: AnswerAliases, name: EnglishName, taken: bytearray
) -> Iterator[Mention]:
    """Yield the words that name an English answer, in whatever order, and its initials."""
    seen = passage.seen
    for start, end in find_name(seen, name):
        mention = Mention(start, end, seen[start:end].lower(), Tier.PRINCIPAL)
        if 1 in taken[start:end]:
            continue
        clause = seen[slice(*passage.clause(start, end))]
        is_past = passage.section in HISTORY or _PAST.search(clause) or _THEN.search(clause)
        if is_past and not covers(seen[start:end], name):
            continue  # another illness of the kind
        if _is_stated(passage, mention, aliases):
            taken[start:end] = b"\1" * (end - start)
            yield mention


def _names_in(text: str, names: Iterable[str]) -> list[str]:
    """List the plain names that a text may hold: a quick look before it is read with its places."""
    plain = _plain(text)
    return [name for name in names if name in plain]


def _find_named(
    passage: Passage, aliases: AnswerAliases, names: Iterable[str], taken: bytearray
) -> Iterator[Mention]:
    """Yield the names that tell the answer; the longest takes its place first."""
    plain = _read_plain(passage.text)
    for name in names:
        tier = (
            Tier.PRINCIPAL
            if name in aliases.principal
            else Tier.FURTHER
            if name in aliases.further
            else Tier.OTHER
        )
        for at in plain.find(name, aliases.seams.get(name, frozenset())):
            mention = Mention(plain.starts[at], plain.ends[at + len(name) - 1], name, tier)
            if 1 in taken[mention.start : mention.end]:
                continue
            if _is_stated(passage, mention, aliases):
                taken[mention.start : mention.end] = b"\1" * (mention.end - mention.start)
                yield mention


def _is_stated(passage: Passage, mention: Mention, aliases: AnswerAliases) -> bool:
    """Tell whether a name stands for this patient's disease today, and tells the answer."""
    start, end, name, tier = mention
    seen = passage.seen
    if not _is_own(passage, start, end, name):
        return False
    after = seen[end : end + NEAR]
    start = find_modifiers(seen, start, 0)
    is_past = passage.section in HISTORY or bool(
        _PAST.search(seen, max(passage.sentence(start), start - NEAR), start)
    )
    if is_past and _OVER.match(after):
        return False
    if tier is Tier.OTHER:
        return not is_past and find_frame(passage, start, end, considers=False) is not None
    frame = find_frame(passage, start, end)
    if tier is Tier.FURTHER or aliases.is_finding:
        _, clause_end = passage.clause(start, end)
        return frame is not None and (
            frame[2] or (is_empty(seen[frame[1] : start]) and is_empty(seen[end:clause_end]))
        )
    return frame is not None or passage.section != EXAMINATION or name in aliases.seams


def _is_own(passage: Passage, start: int, end: int, name: str) -> bool:
    """Tell whether a name stands for a disease that this patient has, not for a test, a germ or
    something denied, nor for what others have."""
    seen = passage.seen
    before, after = seen[max(0, start - 300) : start], seen[end : end + NEAR]
    if name.isascii() and (
        re.search(r"[A-Za-z0-9-]$", before) or re.match(r"(?!s\b)[A-Za-z0-9]|-[A-Za-z]", after)
    ):
        return False
    if name == "sbp" and _PRESSURE.match(after):
        return False
    if _CARRIER_AFTER.match(after) or _CARRIER_BEFORE.search(before[-10:]):
        return False
    if passage.is_english and is_carried(seen, start, end):
        return False
    before = before[: len(before) - start + find_modifiers(seen, start, 0)]
    return not (_NEGATED.search(before) or _DENIED.match(after) or _OTHERS.search(before[-NEAR:]))


def find_frame(
    passage: Passage, start: int, end: int, considers: bool = True
) -> tuple[int, int, bool] | None:
    """Find the words that state a name as a diagnosis: from where to where, and whether they are a
    diagnosis in so many words; those behind it are no place to cut from."""
    seen = passage.seen
    if listed := passage.find_list(start, end):
        return listed[0], listed[0] + 1, True
    clause_start, _ = passage.clause(start, end)
    kinds = ((_DIAGNOSING, True), (_CONSIDERING, False))
    for pattern, is_diagnosis in kinds if considers else kinds[:1]:
        for frame in pattern.finditer(seen, max(clause_start, start - NEAR), start):
            if start - frame.end() <= _MAX_BETWEEN:
                return frame.start(), frame.end(), is_diagnosis
    if DIAGNOSED.match(seen, end) or (
        ADMITTED.search(seen, max(0, start - 6), start) and ADMISSION.match(seen, end)
    ):
        return start, start, True
    return None


_TOLD = {Relation.SAME, Relation.MORE_GENERAL, Relation.MORE_SPECIFIC, Relation.OTHER_STAGE}
_REWORDED = _TOLD - {Relation.MORE_GENERAL}
"""What a clause of its own says of the answer, where no word of diagnosing leads to it."""
_MIN_COVERED = 0.6
"""Share of the answer's pairs of characters from which a stated diagnosis that holds them is a
variant of it: 右肺下叶继发性结核."""
_HEAD = 3
"""Last characters that two names of one kind of disease share: 慢性单纯性青光眼, 开角型青光眼."""
_MAX_ABBREVIATION = 8
_PLAIN_CLAUSE = re.compile(r"(?:^|[,。;:\n])(?P<x>[^,。;:\"()?!\s、\n]{3,20})(?=[,。;\n])")
_NAMED_IN_LIST = re.compile(
    r"(?P<x>[^,。;、:\"()?\s\d][^,。;、:\"()?\s]{2,30}?)(?=[,。;、:\"()?\s\d]|$)"
)
_OPENINGS = (
    (_DIAGNOSING, True),
    (re.compile(r"[以因](?=[^,。;]{2,20}收)"), True),
    (_CONSIDERING, False),
)


def _find_related(passage: Passage, aliases: AnswerAliases, taken: bytearray) -> Iterator[Mention]:
    """Yield diagnoses that are stated in words of their own and that grading relates to the
    principal one: behind a word of diagnosing, or as a clause of their own."""
    seen = passage.seen
    known = aliases.leading.plain
    pairs = [known[i : i + 2] for i in range(len(known) - 1)]
    has_pair = any(pair in _plain(passage.text) for pair in pairs)
    if not aliases.leading.core or aliases.is_finding:
        return
    for pattern, is_diagnosis in _OPENINGS:
        for opening in pattern.finditer(seen):
            if stated := _STATED.match(seen, opening.end()):
                yield from _relate(passage, stated, aliases, taken, is_diagnosis)
    for opening, closing in passage.lists:
        for item in _NAMED_IN_LIST.finditer(seen, opening, closing):
            yield from _relate(passage, item, aliases, taken, True)
    if passage.section != EXAMINATION and has_pair:
        for clause in _PLAIN_CLAUSE.finditer(seen):
            yield from _relate(passage, clause, aliases, taken, None)


def _relate(
    passage: Passage,
    stated: re.Match[str],
    aliases: AnswerAliases,
    taken: bytearray,
    is_diagnosis: bool | None,
) -> Iterator[Mention]:
    """Yield the diagnosis of a match where it is another wording of the answer: behind a word of
    diagnosing, of considering (False), or as a clause of its own (None)."""
    start, end = stated.span("x")
    plain, known = make_plain(stated["x"]), aliases.leading.plain
    shared = sum(plain[i : i + 2] in known for i in range(len(plain) - 1))
    is_latin = plain.isascii() and len(plain) <= _MAX_ABBREVIATION
    if 1 in taken[start:end] or not (shared or (is_latin and is_diagnosis is not None)):
        return
    has_head = plain[-_HEAD:] == known[-_HEAD:]
    if is_diagnosis is None:
        if 2 * shared < len(plain) - 1:
            return
        relations = _TOLD if has_head and passage.section != TESTS else _REWORDED
        is_told = False
    else:
        relations = _TOLD
        covered = sum(known[i : i + 2] in plain for i in range(len(known) - 1))
        is_told = (has_head and is_diagnosis) or covered >= _MIN_COVERED * (len(known) - 1) > 0
    mention = Mention(start, end, plain, Tier.PRINCIPAL)
    is_told = is_told or compare(parse_name(stated["x"]), aliases.leading) in relations
    if is_told and _is_stated(passage, mention, aliases):
        taken[start:end] = b"\1" * (end - start)
        yield mention


def find_modifiers(seen: str, start: int, done: int) -> int:
    """Find where the side, course and degree in front of a name begin."""
    before = _BEFORE_NAME.search(seen, max(done, start - 12), start)
    return before.start() if before else start


def is_empty(text: str) -> bool:
    """Tell whether words say nothing beside the name: who looked, when, and how sure."""
    found = _EMPTY.match(text)
    return found is not None and found.end() == len(text)
