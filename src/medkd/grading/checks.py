"""Checks of one rationale, each a function that answers with a `Verdict`; what deserves to be learnt from passes all.

In: reasoning, answer, record and known diagnosis as texts. Out: verdicts with a `Reason`, and the measures behind them.
The phrases are in `check_words.yaml`. Not done here: choosing thresholds (`medkd.verify`), grading (`grading.diagnosis`).

>>> check_hint("根据给出的诊断，患者应为肺炎。").reason
'hint_leak'
>>> check_loop("体温38.5℃，咳嗽三天，右下肺湿啰音。").passed
True
"""

import re
import unicodedata
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import cast

from medkd.core import thinking
from medkd.core.records import Verdict
from medkd.grading.diagnosis import grade
from medkd.grading.loops import is_looping


class Reason(StrEnum):
    """Why a rationale falls."""

    INCOMPLETE = "incomplete"
    """The teacher was cut off or failed."""
    NO_REASONING = "no_reasoning"
    """There is no reasoning."""
    NO_ANSWER = "no_answer"
    """There is no answer after the reasoning."""
    TAG_INSIDE = "tag_inside"
    """A thinking tag stands within the reasoning or the answer."""
    REFUSAL = "refusal"
    """The text declines to answer."""
    TOO_SHORT = "too_short"
    """The reasoning is too short to explain anything."""
    TOO_LONG = "too_long"
    """The reasoning is too long to be learnt whole."""
    LANGUAGE_SWITCH = "language_switch"
    """The reasoning leaves the language of the record."""
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


def check_form(reasoning: str, answer: str, is_complete: bool = True) -> Verdict:
    """Ask for a whole reasoning and a whole answer, without a second tag inside either."""
    if not is_complete:
        return _fail("form", Reason.INCOMPLETE)
    if not reasoning.strip():
        return _fail("form", Reason.NO_REASONING)
    if not answer.strip():
        return _fail("form", Reason.NO_ANSWER)
    has_tag = any(tag in text for tag in (thinking.OPEN, thinking.CLOSE) for text in (reasoning, answer))
    return _fail("form", Reason.TAG_INSIDE) if has_tag else _pass("form")


def check_refusal(reasoning: str, answer: str) -> Verdict:
    """Ask that the text does not decline to answer."""
    return _check_absent("refusal", Reason.REFUSAL, f"{reasoning[:200]}\n{answer[:200]}")


def check_length(reasoning: str, min_chars: int, max_chars: int) -> Verdict:
    """Ask for a reasoning within bounds, in characters."""
    n = len(reasoning.strip())
    if n < min_chars:
        return _fail("length", Reason.TOO_SHORT, f"{n} characters")
    return _fail("length", Reason.TOO_LONG, f"{n} characters") if n > max_chars else _pass("length")


def check_language(reasoning: str, record: str) -> Verdict:
    """Ask that a Chinese record is reasoned about in Chinese and another not, without runs of a third script."""
    foreign = re.search(r"[぀-ヿ가-힯Ѐ-ӿ؀-ۿऀ-ॿ฀-๿]{3,}", reasoning)
    if foreign and foreign[0] not in record:
        return _fail("language", Reason.LANGUAGE_SWITCH, foreign[0][:20])
    is_chinese = _share_of_hanzi(record) >= 0.5
    if is_chinese:
        english = re.search(r"(?:\b[A-Za-z][A-Za-z'’-]*\b[ ,.;:()]*){12,}", reasoning)
        if english and english[0].strip() not in record:
            return _fail("language", Reason.LANGUAGE_SWITCH, english[0][:40].strip())
    switched = is_chinese != (_share_of_hanzi(reasoning) >= 0.5)
    return _fail("language", Reason.LANGUAGE_SWITCH, "another language throughout") if switched else _pass("language")


def check_loop(text: str) -> Verdict:
    """Ask that a text does not repeat itself."""
    return _fail("loop", Reason.LOOP) if is_looping(text) else _pass("loop")


def check_brevity(answer: str, reference: str, max_chars: int) -> Verdict:
    """Ask for a short answer: `max_chars`, or twice the known diagnosis where that is long itself."""
    allowed = max(max_chars, 2 * len(reference))
    return _fail("brevity", Reason.LONG_ANSWER, f"{len(answer)} characters") if len(answer) > allowed else _pass("brevity")


def check_diagnosis(answer: str, reference: str, min_f1: float) -> Verdict:
    """Ask that the answer is the known diagnosis; one the rules cannot decide passes from a soft F1 of `min_f1`."""
    found = grade(answer, reference)
    if found.principal or (not found.decided and found.f1 >= min_f1):
        return _pass("diagnosis")
    return _fail("diagnosis", Reason.WRONG_DIAGNOSIS, f"{found.relation}, soft F1 {found.f1:.2f}: {'；'.join(found.stated)[:60]}")


def check_hint(reasoning: str) -> Verdict:
    """Ask that the reasoning does not betray, by phrase, that it knew the answer."""
    return _check_absent("hint", Reason.HINT_LEAK, reasoning, "hint_leak")


def check_identifiers(reasoning: str, answer: str) -> Verdict:
    """Ask that no telephone, identity card, address or record number is left; what was found is not repeated."""
    found = _words("identifier").search(f"{reasoning}\n{answer}")
    return _fail("identifiers", Reason.IDENTIFIER, f"at character {found.start()}") if found else _pass("identifiers")


def check_copy(reasoning: str, record: str, max_share: float) -> Verdict:
    """Ask that the reasoning is not the record over again."""
    share = copied_share(reasoning, record)
    return _fail("copy", Reason.COPY, f"{share:.2f} of it") if share > max_share else _pass("copy")


def check_grounding(reasoning: str, record: str, min_rate: float) -> Verdict:
    """Ask that the findings cited stand in the record; a reasoning that cites none that can be checked passes."""
    claims = find_claims(reasoning, record)
    unfounded = [claim for claim, stands in claims if not stands]
    if not claims or 1 - len(unfounded) / len(claims) >= min_rate:
        return _pass("grounding")
    return _fail("grounding", Reason.UNGROUNDED, f"{len(unfounded)} of {len(claims)}: {'、'.join(unfounded)[:60]}")


def grounded_rate(reasoning: str, record: str) -> float | None:
    """Give the share of checkable claims that stand in the record; None where there are none."""
    claims = find_claims(reasoning, record)
    return sum(stands for _, stands in claims) / len(claims) if claims else None


_NUMBER = re.compile(r"(?<![\d.第a-zA-Z])\d+(?:\.\d+)?(?![\d])(?!\s*[.、)）]\s*\D)")
_DENIED = re.compile(
    r"(?:否认|未见|没有|无(?!法|论|关|需|疑|痛|症状|力|菌|不|从|此|明显诱因))(?:明显的?)?([一-鿿]{2,6})(?=[，。、；,;\s]|$)"
)
_DENIALS = r"(?:否认|未见|没有|无|未|不)[^，。；,;]{0,12}"


def find_claims(reasoning: str, record: str) -> list[tuple[str, bool]]:
    """List what the reasoning cites that can be looked up, and whether the record has it: numbers, and denied findings.

    A denied finding counts only where the record speaks of it: 无发热 is unfounded where the record affirms 发热.
    """
    text, source = (unicodedata.normalize("NFKC", t) for t in (reasoning, record))
    known = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", source)}
    claims = [(number, float(number) in known) for number in dict.fromkeys(_NUMBER.findall(text))]
    denied = [finding for finding in dict.fromkeys(map(str, _DENIED.findall(text))) if finding in source]
    return claims + [(f"无{finding}", bool(re.search(_DENIALS + re.escape(finding), source))) for finding in denied]


def copied_share(reasoning: str, record: str, n: int = 12) -> float:
    """Give the share of the reasoning's characters that lie in runs of at least `n` taken from the record."""
    text, source = (re.sub(r"\s", "", t) for t in (reasoning, record))
    if len(text) < n or len(source) < n:
        return 0.0
    runs = {source[start : start + n] for start in range(len(source) - n + 1)}
    copied, end = 0, 0
    for start in range(len(text) - n + 1):
        if text[start : start + n] in runs:
            copied += start + n - max(start, end)
            end = start + n
    return copied / len(text)


def _share_of_hanzi(text: str) -> float:
    """Hanzi among letters, a Latin word counted as one letter; 1 for a text without letters."""
    n_hanzi, n_words = len(re.findall(r"[一-鿿]", text)), len(re.findall(r"[A-Za-z]+", text))
    return n_hanzi / (n_hanzi + n_words) if n_hanzi + n_words else 1.0


def _check_absent(check: str, reason: Reason, text: str, words: str = "") -> Verdict:
    found = _words(words or check).search(text)
    return _fail(check, reason, found[0][:40]) if found else _pass(check)


def _pass(check: str) -> Verdict:
    return Verdict(check=check, passed=True)


def _fail(check: str, reason: Reason, detail: str = "") -> Verdict:
    return Verdict(check=check, passed=False, reason=reason, detail=detail)


@cache
def _words(name: str) -> re.Pattern[str]:
    import yaml

    tables = cast(dict[str, list[str]], yaml.safe_load((Path(__file__).parent / "check_words.yaml").read_text(encoding="utf-8")))
    return re.compile("|".join(f"(?:{pattern})" for pattern in tables[name]), re.IGNORECASE)
