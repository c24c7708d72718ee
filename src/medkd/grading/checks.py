"""Checks of one rationale by rules; what deserves to be learnt from passes all of them.

In: reasoning, answer, record and known diagnosis as texts. Out: a `Verdict` with its `Reason`.
Not done here: phrases (`tables/check_phrases.yaml`), thresholds (`medkd.verify`), grading.

>>> check_hint("根据给出的诊断，患者应为肺炎。").reason
'hint_leak'
>>> check_loop("体温38.5℃，咳嗽三天，右下肺湿啰音。").passed
True
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from typing import cast

from medkd.core.records import Language, Verdict
from medkd.grading import load_table
from medkd.grading.extract import split_list
from medkd.grading.graders import AnswerKind, get_grader
from medkd.grading.grounding import find_claims
from medkd.grading.names import normalize_name
from medkd.text.normalize import (
    count_characters,
    is_chinese,
    is_simplified,
    make_plain,
    simplify,
    view_of,
)
from medkd.text.similarity import encode, find_shared, hash_runs, is_looping, shingles


class Reason(StrEnum):
    """Why a rationale falls."""

    INCOMPLETE = "incomplete"
    """The teacher was cut off or failed."""
    NO_REASONING = "no_reasoning"
    """There is no reasoning."""
    NO_ANSWER = "no_answer"
    """There is no answer after the reasoning."""
    TAG_INSIDE = "tag_inside"
    """A tag or a control token stands within the reasoning or the answer."""
    REFUSAL = "refusal"
    """The text declines to answer."""
    TOO_SHORT = "too_short"
    """The reasoning is too short to explain anything."""
    TOO_LONG = "too_long"
    """The reasoning is too long to be learnt whole."""
    LANGUAGE_SWITCH = "language_switch"
    """The reasoning leaves the language of the record."""
    FILLER = "filler"
    """The text says that it thinks, and says little about the patient."""
    LOOP = "loop"
    """The text repeats itself."""
    LONG_ANSWER = "long_answer"
    """The answer is an essay where a diagnosis was asked."""
    WRONG_DIAGNOSIS = "wrong_diagnosis"
    """The answer is not the known diagnosis."""
    WRONG_ANSWER = "wrong_answer"
    """The answer is not the known one."""
    UNDECIDED = "undecided"
    """Rules cannot tell whether the answer is the known one: kept apart, not rejected."""
    HINT_LEAK = "hint_leak"
    """The reasoning betrays that it was told the answer."""
    IDENTIFIER = "identifier"
    """An identifier of a person stands in the text."""
    COPY = "copy"
    """The reasoning is the record over again."""
    UNGROUNDED = "ungrounded"
    """Too many of the findings cited do not stand in the record."""
    BLIND_MISS = "blind_miss"
    """Asked without the answer, a model reached another diagnosis."""
    LOW_SCORE = "low_score"
    """A judge scored the rationale below the bound."""
    UNANSWERED = "unanswered"
    """The model that was to be asked about it gave no answer that can be read: nothing is known, so
    nothing is passed."""


BOUNDED = (
    Reason.TOO_SHORT,
    Reason.TOO_LONG,
    Reason.LONG_ANSWER,
    Reason.COPY,
    Reason.FILLER,
    Reason.UNGROUNDED,
)
"""Reasons with a bound that a task may set."""
MIN_RECORD = 40
"""Letters of the shortest record that a reasoning must draw on."""
MIN_SHARED = 6
"""Different runs of letters (3 hanzi, 12 Latin letters) that a reasoning and its record have in
common at the least: two findings."""
N_SEARCHED = 100
"""Runs that are searched for one by one, before those of the record are listed."""
MIN_SENTENCE = 6
"""Characters of a sentence that says something."""
STRETCH = 30
"""Hanzi by which a script is known."""
MIN_TRADITIONAL = 0.1
"""Share of hanzi that are written otherwise in simplified script; running text has about 0.3."""
_FOREIGN = re.compile(r"[぀-ヿ가-힯Ѐ-ӿ؀-ۿऀ-ॿ฀-๿]{3,}")
_ENGLISH_RUN = re.compile(r"(?:\b[A-Za-z][A-Za-z'’-]*\b[ ,.;:()]*){12,}")
_LATIN_STRETCH = re.compile(r"[A-Za-z'’ ,.;:()-]{23,}")
"""What a run of twelve English words stands in."""
_CHINESE_RUN = re.compile(r"[一-鿿][一-鿿，、。；：]{11,}")
_TAG = re.compile(
    r"</?(?:think|thinking|thought|reasoning|answer|record|diagnosis)>|<\|[a-z_]+\|>", re.IGNORECASE
)


_TOLD = re.compile(
    r"(?:用户(?<!如果用户)|问题[里中])(?:的(?:问题|描述)[里中]?)?(?:还|已经?|也|特别|又)*"
    r"(?:提到|提及|说到)(?![了的]?(?:症状|情况|问题|[这那其]))"
    r"(?:[了的]?“(?P<quoted>[^”]{3,40})”|的(?P<named>[^,。;?、\s]{2,40}?)(?:[属指是会]|应|可能|确实|提示|主要|$)"
    r"|了?(?P<said>[^,。;?、\s]{2,40}))"
)
_SAYS_LITTLE = re.compile(
    "自己|他们?|她|患者|最近|感到|感觉|身体|不适|不?舒服|症状|情况|问题|所有|方面|需要|[了的是有在]"
)
MIN_TOLD = 3
"""Pairs of characters of the shortest statement that is looked up."""
MAX_HELD, MAX_HELD_QUOTED = 0.2, 0.5
"""Share of them in the record, wherever, at which the user did not say it."""
_is_chinese = lru_cache(maxsize=8)(is_chinese)
"""Several checks look at one text."""


def make_verdict(check: str, failure: Reason | None = None, detail: str = "") -> Verdict:
    """Make the verdict of a check: passed, unless it names a failure."""
    return Verdict(check=check, passed=failure is None, reason=failure or "", detail=detail)


def check_form(reasoning: str, answer: str, is_complete: bool = True) -> Verdict:
    """Require a complete reasoning and answer, without a second tag inside either."""
    if not is_complete:
        return make_verdict("form", Reason.INCOMPLETE)
    if not reasoning.strip():
        return make_verdict("form", Reason.NO_REASONING)
    if not answer.strip():
        return make_verdict("form", Reason.NO_ANSWER)
    tag = _TAG.search(f"{reasoning}\n{answer}")
    return make_verdict("form", Reason.TAG_INSIDE, tag[0]) if tag else make_verdict("form")


def check_refusal(reasoning: str, answer: str) -> Verdict:
    """Require that the text does not decline to answer."""
    found = load_phrases("refusal").search(f"{view_of(reasoning)[:200]}\n{view_of(answer)[:200]}")
    if found is None:
        return make_verdict("refusal")
    return make_verdict("refusal", Reason.REFUSAL, found[1][:40])


def check_length(reasoning: str, min_chars: int, max_chars: int) -> Verdict:
    """Require a reasoning within bounds, in characters of which a Latin word has two."""
    n = count_characters(reasoning.strip())
    if min_chars <= n <= max_chars:
        return make_verdict("length")
    failure = Reason.TOO_SHORT if n < min_chars else Reason.TOO_LONG
    return make_verdict("length", failure, f"{n} characters")


def check_language(reasoning: str, record: str, language: Language | None = None) -> Verdict:
    """Require the language of the question, else that of the record; no runs of a third script."""
    wants_chinese = _is_chinese(record) if language is None else language == "zh"
    latin = (_ENGLISH_RUN.search(one) for one in _LATIN_STRETCH.findall(reasoning))
    others = filter(None, latin) if wants_chinese else _CHINESE_RUN.finditer(reasoning)
    for found in (*_FOREIGN.finditer(reasoning), *others):
        run = found[0].strip()
        if run not in record:
            return make_verdict("language", Reason.LANGUAGE_SWITCH, run[:40])
    if wants_chinese != _is_chinese(reasoning):
        return make_verdict("language", Reason.LANGUAGE_SWITCH, "another language throughout")
    return make_verdict("language")


def check_script(reasoning: str, answer: str, record: str) -> Verdict:
    """Require the script of the record (simplified, traditional) throughout; where the record is
    too short to tell, that of the beginning."""
    text = f"{reasoning}\n{answer}"
    if is_simplified(text) and is_simplified(record):
        return make_verdict("script")
    stretches = _split_stretches(text)
    scripts = [script for script in map(_find_script, stretches) if script]
    allowed = set(filter(None, map(_find_script, _split_stretches(record)))) or set(scripts[:1])
    for stretch in stretches:
        if (script := _find_script(stretch)) and script not in allowed:
            return make_verdict("script", Reason.LANGUAGE_SWITCH, f"{script}: {stretch[:20]}")
    return make_verdict("script")


def _split_stretches(text: str) -> list[str]:
    hanzi = re.sub("[^一-鿿]", "", text)
    starts = range(0, max(1, len(hanzi) - STRETCH // 2), STRETCH // 2)
    return [hanzi[start : start + STRETCH] for start in starts]


def _find_script(hanzi: str) -> str:
    """Name the script of a stretch of Chinese; empty where it is too short or mixed to tell."""
    if len(hanzi) < STRETCH:
        return ""
    n_traditional = sum(a != b for a, b in zip(hanzi, simplify(hanzi), strict=True))
    if not n_traditional:
        return "simplified"
    return "traditional" if n_traditional >= MIN_TRADITIONAL * len(hanzi) else ""


def check_loop(text: str) -> Verdict:
    """Require that a text does not repeat itself."""
    return make_verdict("loop", Reason.LOOP if is_looping(text) else None)


def check_brevity(answer: str, reference: str, max_chars: int) -> Verdict:
    """Require an answer of at most `max_chars`, or twice the known diagnosis if that is
    longer; a Latin word counts as two characters."""
    n = count_characters(answer)
    if n <= max(max_chars, 2 * count_characters(reference)):
        return make_verdict("brevity")
    return make_verdict("brevity", Reason.LONG_ANSWER, f"{n} characters")


def check_answer(
    answer: str,
    reference: str,
    min_f1: float,
    kind: AnswerKind = "diagnosis",
    known: Sequence[str] = (),
    terms_path: Path | None = None,
) -> Verdict:
    """Require the known answer; one that rules leave undecided passes from a soft F1 of `min_f1`,
    and is undecided below it."""
    found = get_grader(kind, terms_path)(answer, reference, known=known)
    if found.verdict == "right" or (found.verdict == "undecided" and found.f1 >= min_f1):
        return make_verdict("answer")
    stated = "；".join(found.stated)[:60]
    detail = f"{found.relation}, soft F1 {found.f1:.2f}: {stated}"
    if found.verdict == "undecided":
        return make_verdict("answer", Reason.UNDECIDED, detail)
    failure = Reason.WRONG_DIAGNOSIS if kind == "diagnosis" else Reason.WRONG_ANSWER
    return make_verdict("answer", failure, detail)


def check_hint(
    reasoning: str, reference: str = "", record: str = "", is_correction: bool = False
) -> Verdict:
    """Require that the reasoning does not betray that it knew the answer: by a phrase, by telling
    as the user's what the record does not hold, or by a first sentence that states it as a given;
    nor, in a correction, that it saw a wrong attempt."""
    reasoning, record = view_of(reasoning), view_of(record)
    if is_correction and (found := load_phrases("attempt_leak").search(reasoning)):
        return make_verdict("hint", Reason.HINT_LEAK, found[1][:40])
    if found := load_phrases("hint_leak").search(reasoning):
        return make_verdict("hint", Reason.HINT_LEAK, found[1][:40])
    if unsaid := _find_unsaid(reasoning, record):
        return make_verdict("hint", Reason.HINT_LEAK, f"not in the question: {unsaid[:40]}")
    sentences = re.split(r"[。！!\n]|(?<=[a-z])\. ", reasoning.strip())
    opening = next((one for one in sentences if len(one.strip()) >= MIN_SENTENCE), "")
    principal = _find_principal(reference)
    is_stated = len(principal) >= 2 and principal in normalize_name(opening)
    if (
        not is_stated
        or principal in normalize_name(record)
        or load_phrases("hedge").search(opening)
    ):
        return make_verdict("hint")
    return make_verdict("hint", Reason.HINT_LEAK, f"begins with it: {opening[:40]}")


def _find_unsaid(reasoning: str, record: str) -> str:
    """Find what a reasoning says that the user told and of which the record holds nearly nothing:
    it has read it in the answer that it was given."""
    for told in _TOLD.finditer(reasoning):
        source = make_plain(record)
        words = _SAYS_LITTLE.split(told["quoted"] or told["named"] or told["said"])
        pairs = [
            word[at : at + 2] for word in map(make_plain, words) for at in range(len(word) - 1)
        ]
        bound = MAX_HELD_QUOTED if told["quoted"] else MAX_HELD
        n_held = sum(pair in source for pair in pairs)
        if len(pairs) >= MIN_TOLD and n_held <= bound * len(pairs):
            return told[0]
    return ""


@lru_cache(maxsize=4096)
def _find_principal(reference: str) -> str:
    return next((normalize_name(stated.text) for stated in split_list(reference)), "")


def check_filler(reasoning: str, record: str, max_share: float) -> Verdict:
    """Require a reasoning about this patient: few phrases that say nothing, some of the record."""
    letters, source = make_plain(reasoning), make_plain(record)
    n_filler = load_phrases("filler").count_letters(view_of(reasoning))
    share = n_filler / len(letters) if letters else 0.0
    if share > max_share:
        return make_verdict("filler", Reason.FILLER, f"{share:.2f} of it")
    if len(source) < MIN_RECORD:
        return make_verdict("filler")
    n = 3 if _is_chinese(record) else 12
    known: str | set[str] = source
    shared: set[str] = set()
    for start in range(len(letters) - n + 1):
        if start == N_SEARCHED:
            known = shingles(source, n)
        if (run := letters[start : start + n]) in known:
            shared.add(run)
            if len(shared) >= MIN_SHARED:
                return make_verdict("filler")
    return make_verdict("filler", Reason.FILLER, f"{len(shared)} runs of the record in it")


def check_identifiers(reasoning: str, answer: str) -> Verdict:
    """Require that no telephone, identity card, address or record number is left; the verdict does
    not repeat what was found."""
    found = load_phrases("identifier").search(f"{view_of(reasoning)}\n{view_of(answer)}")
    if found is None:
        return make_verdict("identifiers")
    return make_verdict("identifiers", Reason.IDENTIFIER, f"at character {found[0]}")


def check_copy(reasoning: str, record: str, max_share: float) -> Verdict:
    """Require that the reasoning is not the record over again."""
    share = copied_share(reasoning, record)
    if share <= max_share:
        return make_verdict("copy")
    return make_verdict("copy", Reason.COPY, f"{share:.2f} of it")


def check_grounding(reasoning: str, record: str, min_rate: float) -> Verdict:
    """Require that the findings cited stand in the record; a reasoning without any passes."""
    claims = find_claims(reasoning, record)
    if not claims:
        return make_verdict("grounding")
    unfounded = [claim for claim, stands in claims if not stands]
    count = f"{len(unfounded)} of {len(claims)}"
    if 1 - len(unfounded) / len(claims) >= min_rate:
        return make_verdict("grounding", detail=count)
    detail = f"{count}: {'、'.join(unfounded)[:60]}"
    return make_verdict("grounding", Reason.UNGROUNDED, detail)


def read_grounded_rate(verdict: Verdict) -> float | None:
    """Read the share of grounded claims off the verdict of `check_grounding`; None without claims.

    >>> read_grounded_rate(Verdict(check="grounding", passed=True, detail="1 of 4"))
    0.75
    """
    found = re.match(r"(\d+) of (\d+)", verdict.detail)
    if verdict.check != "grounding" or found is None:
        return None
    return 1 - int(found[1]) / int(found[2])


def copied_share(reasoning: str, record: str, n: int = 12) -> float:
    """Compute the share of the reasoning's characters in runs of at least `n` from the record."""
    import numpy as np

    text, source = ("".join(view_of(t).split()) for t in (reasoning, record))
    if len(text) < n or len(source) < n:
        return 0.0
    starts = find_shared(*(hash_runs(encode(t), n) for t in (text, source))).nonzero()[0]
    edges = np.zeros(len(text) + 1, dtype=int)
    edges[starts] += 1
    edges[starts + n] -= 1
    return int((edges.cumsum() > 0).sum()) / len(text)


_LATIN = re.compile(r"[\x20-\x7e]{2,}")
_TELLING = re.compile(r"[A-Za-z]{2}|\d{5}")


class Phrases:
    """Alternatives of regular expressions, in any case.

    Each is searched for by itself, which is several times as fast where it begins with hanzi; those
    of Latin letters are searched for in the Latin stretches of a text alone, in lower case.
    """

    def __init__(self, alternatives: list[str]) -> None:
        latin = [one for one in alternatives if one.isascii()]
        self._latin = re.compile("|".join(f"(?:{_lower(one)})" for one in latin))
        self._others = [
            re.compile(one, _find_flags(one)) for one in alternatives if one not in latin
        ]

    def search(self, text: str) -> tuple[int, str] | None:
        """Find a phrase: where it stands in the text or in its Latin stretches, and its words."""
        for pattern in self._others:
            if found := pattern.search(text):
                return found.start(), found[0]
        latin = _keep_latin(text)
        found = self._latin.search(latin.lower())
        return (found.start(), latin[found.start() : found.end()]) if found else None

    def count_letters(self, text: str) -> int:
        """Count the letters and digits of a text that stand in phrases."""
        spans = sorted(f.span() for one in self._others for f in one.finditer(text))
        found = [match[0] for match in self._latin.finditer(_keep_latin(text).lower())]
        done = 0
        for start, end in spans:
            found.append(text[max(start, done) : end])
            done = max(done, end)
        return sum(map(str.isalnum, "".join(found)))


def _lower(pattern: str) -> str:
    """Write the letters of a pattern in lower case, but those of its classes: \\S is not \\s."""
    return re.sub(r"(?<!\\)[A-Z]", lambda found: found[0].lower(), pattern)


def _find_flags(pattern: str) -> int:
    """Leave the case of a pattern alone where it has no letters but those of sets: without the flag
    its first characters are looked for at once."""
    has_case = re.search("[A-Za-z]", re.sub(r"\[[^\]]{0,200}\]|\\.", "", pattern))
    return re.IGNORECASE if has_case else 0


@lru_cache(maxsize=8)
def _keep_latin(text: str) -> str:
    """Keep the Latin stretches of a text that hold a word or a long number."""
    return "\n".join(one for one in _LATIN.findall(text) if _TELLING.search(one))


@cache
def load_phrases(name: str) -> Phrases:
    """Load a list of `check_phrases.yaml`."""
    return Phrases(cast(list[str], load_table("check_phrases.yaml")[name]))
