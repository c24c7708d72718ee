"""Checks of one rationale, each a function that answers with a `Verdict`; what deserves to be
learnt from passes all.

In: reasoning, answer, record and known diagnosis as texts. Out: verdicts with a `Reason`, and the
measures behind them.
Not done here: the phrases (`check_phrases.yaml`), choosing thresholds (`medkd.verify`), grading
(`grading.diagnosis`).

>>> check_hint("根据给出的诊断，患者应为肺炎。").reason
'hint_leak'
>>> check_loop("体温38.5℃，咳嗽三天，右下肺湿啰音。").passed
True
"""

import re
from enum import StrEnum

from medkd.core.records import Verdict
from medkd.grading.diagnosis import NEAR, grade
from medkd.grading.extract import split_list
from medkd.grading.grounding import find_claims
from medkd.grading.names import normalize_name
from medkd.grading.repetition import is_looping
from medkd.grading.tables import load_phrases
from medkd.text.normalize import is_chinese, normalize, simplify


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


MIN_RECORD = 40
"""Letters of the shortest record that a reasoning must draw on."""
MIN_SHARED = 6
"""Different runs of letters (3 hanzi, 12 Latin letters) that a reasoning and its record have in
common at the least: two findings."""
STRETCH = 30
"""Hanzi by which a script is known."""
MIN_TRADITIONAL = 0.1
"""Share of hanzi that are written otherwise in simplified script; running text has about 0.3."""
_FOREIGN = re.compile(r"[぀-ヿ가-힯Ѐ-ӿ؀-ۿऀ-ॿ฀-๿]{3,}")
_ENGLISH_RUN = re.compile(r"(?:\b[A-Za-z][A-Za-z'’-]*\b[ ,.;:()]*){12,}")
_CHINESE_RUN = re.compile(r"[一-鿿][一-鿿，、。；：]{11,}")
_TAG = re.compile(
    r"</?(?:think|thinking|thought|reasoning|answer|record|diagnosis)>|<\|[a-z_]+\|>", re.IGNORECASE
)


def check_form(reasoning: str, answer: str, is_complete: bool = True) -> Verdict:
    """Ask for a whole reasoning and a whole answer, without a second tag inside either."""
    if not is_complete:
        return fail_check("form", Reason.INCOMPLETE)
    if not reasoning.strip():
        return fail_check("form", Reason.NO_REASONING)
    if not answer.strip():
        return fail_check("form", Reason.NO_ANSWER)
    tag = _TAG.search(f"{reasoning}\n{answer}")
    return fail_check("form", Reason.TAG_INSIDE, tag[0]) if tag else pass_check("form")


def check_refusal(reasoning: str, answer: str) -> Verdict:
    """Ask that the text does not decline to answer."""
    return _check_absent("refusal", Reason.REFUSAL, f"{reasoning[:200]}\n{answer[:200]}")


def check_length(reasoning: str, min_chars: int, max_chars: int) -> Verdict:
    """Ask for a reasoning within bounds, in characters."""
    n = len(reasoning.strip())
    if n < min_chars:
        return fail_check("length", Reason.TOO_SHORT, f"{n} characters")
    return (
        fail_check("length", Reason.TOO_LONG, f"{n} characters")
        if n > max_chars
        else pass_check("length")
    )


def check_language(reasoning: str, record: str) -> Verdict:
    """Ask that a Chinese record is reasoned about in Chinese and another not, without runs of a
    third script."""
    wants_chinese = is_chinese(record)
    strange = [_FOREIGN, _ENGLISH_RUN if wants_chinese else _CHINESE_RUN]
    for pattern in strange:
        for found in pattern.finditer(reasoning):
            if found[0].strip() not in record:
                return fail_check("language", Reason.LANGUAGE_SWITCH, found[0][:40].strip())
    return (
        fail_check("language", Reason.LANGUAGE_SWITCH, "another language throughout")
        if wants_chinese != is_chinese(reasoning)
        else pass_check("language")
    )


def check_script(reasoning: str, answer: str, record: str) -> Verdict:
    """Ask that simplified or traditional characters stay what they are in the record, or, where
    the record is too short to tell, what they are at the beginning."""
    stretches = _stretches(f"{reasoning}\n{answer}")
    scripts = [script for script in map(_find_script, stretches) if script]
    of_record = [script for script in map(_find_script, _stretches(record)) if script]
    allowed = set(of_record) or set(scripts[:1])
    for stretch in stretches:
        if (script := _find_script(stretch)) and script not in allowed:
            return fail_check("script", Reason.LANGUAGE_SWITCH, f"{script}: {stretch[:20]}")
    return pass_check("script")


def _stretches(text: str) -> list[str]:
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
    """Ask that a text does not repeat itself."""
    return fail_check("loop", Reason.LOOP) if is_looping(text) else pass_check("loop")


def check_brevity(answer: str, reference: str, max_chars: int) -> Verdict:
    """Ask for a short answer: `max_chars`, or twice the known diagnosis where that is long
    itself."""
    allowed = max(max_chars, 2 * len(reference))
    return (
        fail_check("brevity", Reason.LONG_ANSWER, f"{len(answer)} characters")
        if len(answer) > allowed
        else pass_check("brevity")
    )


def check_diagnosis(answer: str, reference: str, min_f1: float) -> Verdict:
    """Ask that the answer is the known diagnosis; a near one passes from a soft F1 of `min_f1`."""
    found = grade(answer, reference)
    if found.principal or (found.relation in NEAR and found.f1 >= min_f1):
        return pass_check("diagnosis")
    return fail_check(
        "diagnosis",
        Reason.WRONG_DIAGNOSIS,
        f"{found.relation}, soft F1 {found.f1:.2f}: {'；'.join(found.stated)[:60]}",
    )


def check_hint(reasoning: str, reference: str = "", record: str = "") -> Verdict:
    """Ask that the reasoning does not betray that it knew the answer: by phrase, or by naming it in
    the first sentence as a given."""
    reasoning, record = normalize(reasoning), normalize(record)
    found = load_phrases("hint_leak").search(reasoning)
    if found:
        return fail_check("hint", Reason.HINT_LEAK, found[0][:40])
    opening = _first_sentence(reasoning)
    principal = next((normalize_name(stated.text) for stated in split_list(reference)), "")
    is_given = (
        len(principal) >= 2
        and principal in normalize_name(opening)
        and principal not in normalize_name(record)
    )
    if is_given and not load_phrases("hedge").search(opening):
        return fail_check("hint", Reason.HINT_LEAK, f"begins with it: {opening[:40]}")
    return pass_check("hint")


def _first_sentence(text: str) -> str:
    """Give the first sentence that says something."""
    return next(
        (
            part
            for part in re.split(r"[。！!\n]|(?<=[a-z])\. ", text.strip())
            if len(part.strip()) >= 6
        ),
        "",
    )


def check_filler(reasoning: str, record: str, max_share: float) -> Verdict:
    """Ask that the reasoning is about this patient: few phrases that stand for thinking, and some
    of what the record says."""
    letters = _letters(reasoning)
    left = _letters(load_phrases("filler").sub("", normalize(reasoning)))
    share = 1 - len(left) / len(letters) if letters else 0.0
    if share > max_share:
        return fail_check("filler", Reason.FILLER, f"{share:.2f} of it")
    source = _letters(record)
    n = 3 if is_chinese(record) else 12
    if len(source) < MIN_RECORD:
        return pass_check("filler")
    runs = {source[start : start + n] for start in range(len(source) - n + 1)}
    n_shared = len({letters[start : start + n] for start in range(len(letters) - n + 1)} & runs)
    return (
        fail_check("filler", Reason.FILLER, f"{n_shared} runs of the record in it")
        if n_shared < MIN_SHARED
        else pass_check("filler")
    )


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", normalize(text)).lower()


def check_identifiers(reasoning: str, answer: str) -> Verdict:
    """Ask that no telephone, identity card, address or record number is left; what was found is not
    repeated."""
    found = load_phrases("identifier").search(normalize(f"{reasoning}\n{answer}"))
    return (
        fail_check("identifiers", Reason.IDENTIFIER, f"at character {found.start()}")
        if found
        else pass_check("identifiers")
    )


def check_copy(reasoning: str, record: str, max_share: float) -> Verdict:
    """Ask that the reasoning is not the record over again."""
    share = copied_share(reasoning, record)
    return (
        fail_check("copy", Reason.COPY, f"{share:.2f} of it")
        if share > max_share
        else pass_check("copy")
    )


def check_grounding(reasoning: str, record: str, min_rate: float) -> Verdict:
    """Ask that the findings cited stand in the record; a reasoning that cites none that can be
    checked passes."""
    claims = find_claims(reasoning, record)
    unfounded = [claim for claim, stands in claims if not stands]
    if not claims or 1 - len(unfounded) / len(claims) >= min_rate:
        return pass_check("grounding")
    return fail_check(
        "grounding",
        Reason.UNGROUNDED,
        f"{len(unfounded)} of {len(claims)}: {'、'.join(unfounded)[:60]}",
    )


def copied_share(reasoning: str, record: str, n: int = 12) -> float:
    """Give the share of the reasoning's characters that lie in runs of at least `n` taken from the
    record."""
    text, source = (re.sub(r"\s", "", normalize(t)) for t in (reasoning, record))
    if len(text) < n or len(source) < n:
        return 0.0
    runs = {source[start : start + n] for start in range(len(source) - n + 1)}
    copied, end = 0, 0
    for start in range(len(text) - n + 1):
        if text[start : start + n] in runs:
            copied += start + n - max(start, end)
            end = start + n
    return copied / len(text)


def _check_absent(check: str, reason: Reason, text: str) -> Verdict:
    found = load_phrases(check).search(normalize(text))
    return fail_check(check, reason, found[0][:40]) if found else pass_check(check)


def pass_check(check: str) -> Verdict:
    """Make the verdict of a check that found nothing."""
    return Verdict(check=check, passed=True)


def fail_check(check: str, reason: Reason, detail: str = "") -> Verdict:
    """Make the verdict of a check that failed."""
    return Verdict(check=check, passed=False, reason=reason, detail=detail)
