"""Finds the diagnoses that an answer commits itself to.

In: what a model or a physician wrote, tags and all. Out: the diagnoses in order, denied or not.
Not done here: deciding whether they are right (`grading.diagnosis`).

>>> [one.text for one in extract_diagnoses("综上，诊断为：1. 急性脑梗死 2. 高血压病3级")]
['急性脑梗死', '高血压病3级']
>>> [one.text for one in extract_diagnoses("<think>想</think>考虑急性阑尾炎可能性大，建议手术。")]
['急性阑尾炎']
"""

import html
import re
from functools import cache, lru_cache
from typing import NamedTuple

from medkd.core import thinking
from medkd.grading import load_table
from medkd.grading.names import is_listed, variants
from medkd.text.diagnoses import split_numbered
from medkd.text.normalize import normalize

MAX_READ = 4000
"""Characters of an answer that are read: its two ends where it is longer."""
MAX_ITEM = 80
"""A longer piece of an answer is prose, no name of a diagnosis."""
MAX_HANZI = 30
"""The same, counted in Chinese characters alone."""
MAX_FIRST_LINE = 40
"""An answer whose first line is longer may hide its diagnosis behind a 考虑."""
MAX_ITEMS = 40
MAX_EVIDENCE = 16
"""Characters of what excludes a diagnosis, said before the word: 病理已排除."""


class StatedDiagnosis(NamedTuple):
    """One diagnosis as stated."""

    text: str
    denied: bool = False
    alias: str = ""
    """What stood in brackets behind it, or before a colon: its other name, or more about it."""
    is_companion: bool = False
    """Whether it came along with the one before: 腹水 of 肝硬化伴腹水."""
    is_doubtful: bool = False
    """Whether it is only kept in mind (肺癌待排): it stands behind the others."""


_CIRCLED = re.compile("[①-⑳❶-❿⓪⑴-⒇]")
_DASH = re.compile(r"(?<=[一-鿿]{2})\s*[—―]+\s*(?=[一-鿿]{3})")
"""A dash that leads up to what was concluded."""
_MARKUP = re.compile(
    r"<(script|style)\b[^<>]{0,200}>.*?</\1>|</?[a-zA-Z][^<>\n]{0,200}>|<[^<>\n]{1,20}>|[*#`>~]+"
    r"|\\(?:boxed|text(?:bf|it|rm)?|math(?:bf|rm)|[()\[\]])|[{}\\$]",
    re.DOTALL | re.IGNORECASE,
)
_ANGLED = re.compile(r"<([^<>\n]{1,20})>")
_LINK = re.compile(r"\[([^\[\]\n]+)\]\(https?://[^\s()]*(?:\([^\s()]*\)[^\s()]*)*\)")
_FORMS = {
    "stop_heading": r"(?:^|\n|。|;)\s*(?:[一二三四五六0-9]+[.、)]\s*)?(?:%s)",
    "advice": r"^(?:%s)",
    "hedge_before": r"^(?:%s)++",
    "hedge_after": r"(?:%s)++$",
    "denied_before": r"^(?:该|此|本|例|病例|患者|病人|目前|现|暂时?|可|基本|已经?|故|可以|的"
    r"|诊断|其|这|证据|现有|检查|并|但|绝|均|都|there (?:is|was) |we |the |patient |it |is |was "
    r"|does |did |has |have |had )*(?:%s)"
    r"(?:患?有|存在|诊断为?)?",
    "denied_alone": r"(?:(?:%s)(?:的?(?:此|该|本)?(?:诊断|疾病))?[ 。.,!]?)+",
    "denied_after": r"(?:%s)(?:的诊断)?$",
    "grade": r"(?:%s)+",
}
"""Where the words of `answer_phrases.yaml` may stand; anywhere, if not listed."""


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        _FORMS.get(name, "%s") % "|".join(load_table("answer_phrases.yaml")[name]), re.IGNORECASE
    )


def extract_diagnoses(answer: str, keep_companions: bool = False) -> tuple[StatedDiagnosis, ...]:
    """List the diagnoses of an answer; prose that only hints, or open thinking, states none."""
    text = _plain(thinking.read(answer).answer)
    block = _after_lead(text)
    return split_list(
        _before_heading(text) if block is None else block,
        is_prose=True,
        keep_companions=keep_companions,
    )


@lru_cache(maxsize=1024)
def split_list(
    text: str, is_prose: bool = False, keep_companions: bool = False
) -> tuple[StatedDiagnosis, ...]:
    """Split a list of diagnoses at numbers, semicolons, commas and lines.

    In prose the list ends where advice begins. `keep_companions` leaves 慢性胃炎伴糜烂 one name.
    """
    pieces = _split_pieces(text, keep_companions)[:MAX_ITEMS]
    found: list[StatedDiagnosis] = []
    preferred: set[str] = set()
    for n, (piece, is_companion) in enumerate(pieces):
        if found and (last := _add_to(found[-1], piece)):
            found[-1] = last
            continue
        has_disease = any(_DISEASE.search(one.text) or is_listed(one.text) for one in found)
        led = _pattern("led").search(piece) if is_prose else None
        is_advice = bool(is_prose and _pattern("advice").match(piece.strip()))
        if is_prose and (_is_prose(piece) or (is_advice and found and (has_disease or not led))):
            if _pattern("preferred").search("".join(later for later, _ in pieces[n + 1 :])):
                continue
            break
        if is_prose and found and (more := _pattern("narrowed").match(piece)):
            found.pop()
            piece = piece[more.end() :]
        if led and _NEGATIVE.search(piece[: led.start()]):
            led = None
        if is_advice and not led:
            continue
        is_led = led and not _pattern("denied_after").search(piece)
        stated = _clean(piece[led.end() :] if led and is_led else piece, is_prose)
        if led and stated and found and not has_disease:
            found.clear()  # what stood before were the findings it was concluded from
        if stated is None or stated in found:
            continue
        found.append(stated._replace(is_companion=is_companion and bool(found)))
        if is_prose and _pattern("preferred").search(piece):
            preferred.add(stated.text)
    if preferred:  # the others are only kept in mind
        found = [
            one if one.is_companion or one.text in preferred else one._replace(is_doubtful=True)
            for one in found
        ]
    return tuple(sorted(found, key=lambda stated: stated.is_doubtful))


def _add_to(last: StatedDiagnosis, piece: str) -> StatedDiagnosis | None:
    """Add a piece that is only a grade or a denial to the diagnosis before; None for another."""
    if _pattern("grade").fullmatch(piece):
        if piece[0].isascii():
            return last._replace(alias=f"{last.alias}/{piece}")
        return last._replace(text=last.text + piece)
    if piece.strip() == _DENIED or _is_denial(piece.removeprefix("考虑")):
        return last._replace(denied=True)
    return None


def _split_pieces(text: str, keep_companions: bool) -> list[tuple[str, bool]]:
    """Cut a list into pieces, each with whether it came along with the one before."""
    pieces: list[tuple[str, bool]] = []
    entries = _split_numbered(_unfold_brackets(_plain(text)).strip())
    for clause in (clause for entry in entries for clause in re.split("[;。]", entry)):
        bare = _pattern("hedge_before").sub("", clause.strip())
        is_one = is_listed(clause) or is_listed(bare)
        parts = [clause] if is_one else _pattern("separator").split(clause)
        for piece in (piece for part in parts for piece in _split_enumeration(part)):
            if keep_companions or is_listed(piece):
                pieces.append((piece, False))
                continue
            head, *companions = _pattern("companion").split(piece.strip())
            pieces += [(head, False), *((companion, True) for companion in companions)]
    return pieces


def _plain(text: str) -> str:
    if len(text) > MAX_READ:
        text = f"{text[: MAX_READ // 2]}\n{text[-MAX_READ // 2 :]}"
    text = text.translate({ord(_ALIAS): None, ord(_DENIED): None})
    text = _ANGLED.sub(lambda found: f"({found[1]})" if _is_denial(found[1]) else found[0], text)
    text = _DASH.sub(",考虑", _CIRCLED.sub("\n", text))
    text = strip_markup(normalize(text).translate(variants()))
    for pattern, replacement in _LAYOUT:
        text = pattern.sub(replacement, text)
    return text.strip()


def strip_markup(text: str) -> str:
    """Take tags, Markdown and LaTeX away and read the codes of signs.

    >>> strip_markup("<b>肺炎</b>；**COPD** &amp; [高血压](https://example.org)")
    '肺炎；COPD & 高血压'
    """
    return _MARKUP.sub("", _LINK.sub(r"\1", html.unescape(text)))


_LAYOUT = (
    (re.compile(r"(^|\n)\s{0,9}[lI|]\s{0,9}[.、](?=\s{0,9}[一-鿿])"), r"\g<1>1."),
    (re.compile(r"(?<=[一-鿿])\s+(CKD\s*[0-9IVX]+[ab]?\s*期)"), r"(\1)"),
    (re.compile(r"(?<=[一-鿿][病炎症癌瘤])-(?=[一-鿿]{3})"), ":"),
    (re.compile(r"(^|\n|[;。])\s{0,9}[(][0-9]{1,2}[)]\s{0,9}(?=[0-9])"), "\n"),
    (re.compile(r"[(]([0-9]{1,2})[)]"), r"\1."),
    (re.compile(r"[(][一二三四五六七八九十][)]"), "\n"),
    (
        re.compile(r"【([^【】]{0,40}(?:诊断|依据|分析|建议|治疗|鉴别|处理)[^【】]{0,40})】"),
        r"\n\1:",
    ),
    (re.compile(r"[【】「」『』]"), ""),
    (re.compile(r"(?<![一-鿿])([一-鿿]) +(?=[一-鿿])|(?<=[一-鿿]) +([一-鿿])(?![一-鿿])"), r"\1\2"),
)
"""Ways of writing that are brought to one, in this order."""


_COMES_SECOND = re.compile("(?:其次|再次|[也还亦])[可应需要]?$")
_DENIES = re.compile(
    r"(?:不能|不宜|无法|不足以|未能|难以|不)(?:明确)?$|(?:排除|除外|不考虑|不支持|否定)了?的?$"
    r"|\b(?:not|never|hardly|excluded|unlikely)\s*$|n't\s*$",
    re.IGNORECASE,
)
_EVIDENCE = re.compile(
    "(?:病理|影像|检查|胸片|造影|活检|化验|检验|内镜|超声|随访|临床|目前|结果|证据|依据|证实|阴性|正常"
    "|ct|mri|ecg|eeg|pcr|x线|b超)学?[后示]?$|^(?:经|根据|结合|依据)",
    re.IGNORECASE,
)
"""How what excludes a diagnosis ends."""


def _after_lead(text: str) -> str | None:
    """Return what follows 诊断为 and its like, a whole list or the rest of the sentence; a final
    diagnosis wins over a first one. None where nothing leads up to a diagnosis."""
    strong = [
        lead
        for lead in _pattern("strong_lead").finditer(text)
        if not _DENIES.search(text[: lead.start()])
    ]
    final = [lead for lead in strong if lead["final"] or lead["final_en"]]
    weak = (
        list(_pattern("weak_lead").finditer(text))
        if not strong and len(_first_line(text)) > MAX_FIRST_LINE
        else []
    )
    weak = [lead for lead in weak if not _COMES_SECOND.search(text[: lead.start()])]
    for lead in (
        final[-1:]
        or strong[:1]
        or [lead for lead in weak if lead[0].startswith("首先")][:1]
        or weak[-1:]
    ):
        rest = _before_heading(text[lead.end() :].lstrip())
        return rest if re.match(r"[(]?1\s*[.、)]|[-•·]|一、", rest) else _first_sentence(rest)
    return None


def _before_heading(text: str) -> str:
    heading = _pattern("stop_heading").search(text, 1) if text else None
    paragraphs = (text[: heading.start() + 1] if heading else text).strip().split("\n\n")
    return (
        "\n".join(paragraphs)
        if all(len(_first_line(p)) <= MAX_FIRST_LINE for p in paragraphs)
        else paragraphs[0]
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _first_sentence(text: str) -> str:
    return re.split(r"[。\n]|(?<!\d)\.\s", text, maxsplit=1)[0]


def _split_numbered(text: str) -> list[str]:
    """Split at the numbers of a list and at line ends."""
    lead, items = split_numbered(re.sub(r"(?m)^[^\S\n]*[-•·]\s*", "", text))
    lines = [line for entry in (lead, *items) for line in entry.split("\n")]
    return [line for line in lines if line.strip()]


def _is_prose(piece: str) -> bool:
    return len(piece) > MAX_ITEM or len(re.findall("[一-鿿]", piece)) > MAX_HANZI


def _split_enumeration(text: str) -> list[str]:
    """Split at 、 where every part can stand alone: 肝、肾囊肿 stays whole."""
    parts = text.split("、")
    return parts if all(len(part.strip()) >= 3 for part in parts) else [text]


_ALIAS = "\x00"
"""Stands around the other name of a diagnosis while its list is split."""
_DENIED = "\x01"
"""Stands behind a diagnosis that its brackets exclude."""
_NAME = re.compile(r"[^;。:?\n]{1,40}")


_DISEASE = re.compile(
    "(?:炎|病|癌|瘤|症|征|折|伤|血|塞|死|毒|石|衰竭|衰|障碍|感染|溃疡|硬化|结核|狭窄|脱位|休克|中风|卒中|疹|疮|肿|疝|积液|哮喘"
    "|肥大|增生|不全|减退|亢进|[a-z])$",
    re.IGNORECASE,
)
"""How names of diseases end, by and large; findings end so too, now and then."""
_NEGATIVE = re.compile("[不未无没]|难以|缺乏|排除|除外")
_REPEATED = re.compile(r"^([一-鿿]{2,20}?)\1+$")


def _unfold_brackets(text: str) -> str:
    """Mark another name and a denial in brackets, and drop what else stands there."""

    def unfold(found: re.Match[str]) -> str:
        inner = found[1].strip()
        if _is_denial(inner):
            return _DENIED
        if _pattern("denied_before").search(inner) or _pattern("denied_after").search(inner):
            return f";{inner};"
        if _pattern("open_aside").search(inner):
            return ""
        return f"{_ALIAS}{re.sub('[,、]+', '/', inner)}{_ALIAS}" if _NAME.fullmatch(inner) else ""

    return re.sub(r"[(\[【〔]([^()\[\]【】〔〕]*)[)\]】〔〕]", unfold, text)


def _is_denial(text: str) -> bool:
    """Tell whether a text, in brackets or behind a name, only says that the name is excluded.

    >>> [_is_denial(text) for text in ("CT阴性,已排除", "病理已排除", "待排", "结核已排除")]
    [True, True, False, False]
    """
    clause = re.split("[,;、]", text.strip())[-1].strip()
    denial = _pattern("denied_alone").search(clause)
    if denial is None or denial.end() < len(clause):
        return False
    before = clause[: denial.start()]
    is_evidence = len(before) <= MAX_EVIDENCE and _EVIDENCE.search(before)
    return not before or bool(is_evidence)


def _clean(piece: str, is_prose: bool) -> StatedDiagnosis | None:
    """Take hedges and denials off one piece; None where no name is left.

    A known disease that another one causes is no other name of that: 糖尿病引起的肾病.
    """
    is_excluded = _DENIED in piece
    piece = piece.replace(_DENIED, "")
    alias = "".join(re.findall(f"{_ALIAS}([^{_ALIAS}]*){_ALIAS}", piece)[:1])
    piece = re.sub(f"{_ALIAS}[^{_ALIAS}]*{_ALIAS}?", "", piece)
    if ":" in piece.strip(" :"):
        label, piece = piece.rsplit(":", 1)
        if _is_denial(piece):
            label, piece = "", label
            is_excluded = True
        elif _is_denial(label):
            label = ""
            is_excluded = True
        alias = alias or (
            ""
            if _pattern("label").fullmatch(label.strip())
            else _pattern("hedge_before").sub("", label.strip())
        )
    if _pattern("aside_clause").fullmatch(piece.strip()):
        return None
    if cause := _pattern("cause_clause").search(piece):
        piece, effect = piece[: cause.start()], cause["effect"] or cause["cause"] or ""
        if not is_prose and cause["effect"] and _DISEASE.search(effect):
            piece, alias = f"{piece}{effect}", ""
        else:
            alias = alias or effect
    alias = _pattern("hedge_after").sub("", alias)
    text = _pattern("hedge_after").sub(
        "", _pattern("hedge_before").sub("", piece.strip(" \"'“”‘’-•·:"))
    )
    denied = is_excluded or bool(
        _pattern("denied_before").search(text) or _pattern("denied_after").search(text)
    )
    text = _pattern("denied_after").sub("", _pattern("denied_before").sub("", text)).strip()
    if (
        text[:1] in {"无", "非"} and not is_listed(text) and is_listed(text[1:])
    ):  # 无肛周脓肿, but 无痛性甲状腺炎
        text, denied = text[1:], True
    text = _REPEATED.sub(r"\1", text)
    is_doubtful = bool(_pattern("doubtful").search(piece))
    return (
        StatedDiagnosis(text, denied, alias, is_doubtful=is_doubtful)
        if re.search(r"[^\W\d_]{2}", text) or is_listed(text)
        else None
    )
