"""The text of a question: sections repaired, put in order and joined.

In: the sections of a case, the question of its task. Out: their cleaned text, and
`【基本信息】… 【主诉】…`. Not done here: the answer (`leakage`).

>>> from medkd.core.task import load_task
>>> part = load_task("diagnosis").question
>>> join_sections({"主诉": "发热3天。", "基本信息": "男，49岁"}, part, "zh")
'【基本信息】男，49岁 【主诉】发热3天。'
>>> join_sections({"主诉": "Fever.", "基本信息": "Man of 49"}, part, "en")
'Patient: Man of 49\\nChief complaint: Fever.'
"""

import html
import re
from collections.abc import Mapping

from medkd.core.records import Language
from medkd.core.task import QuestionPart
from medkd.text.normalize import drop_unseen, normalize

_EMPTY = frozenset(
    [
        "无",
        "暂无",
        "暂缺",
        "缺",
        "缺如",
        "不详",
        "未查",
        "未做",
        "未行",
        "未见",
        "未填",
        "未填写",
        "未录入",
        "未记录",
        "未提供",
        "待补充",
        "略",
        "空",
        "空白",
        "none",
        "nan",
        "null",
        "nil",
        "na",
        "n/a",
        "n.a",
        "#n/a",
        "#na",
        "#ref!",
        "#value!",
        "#div/0!",
        "#name?",
        "#null!",
        "#num!",
        "\\n",
        "<na>",
        "nat",
        "undefined",
        "unknown",
        "missing",
        "(null)",
        "[null]",
        "<null>",
    ]
)
"""What stands where a section is empty: words of people, of tables and of programs."""
_NO_WORD = re.compile(r"(?:[^\w+]|_)*")
_QUIRK = re.compile(r"^[^。]{0,20}?T是\d")
_NATURAL_IS = re.compile(
    r"(?<![但于还不只可都总就也若要正像便即仍别其])是(?!否|因|由|由于|指|指的|的|一|在|从|以|为)"
)
_DEGREE = re.compile(r"(?<=[^\d.])((?:3[3-9]|4[0-2])(?:\.\d{1,2})?)度")
_LINE_BREAK_COMMA = re.compile(r"([。；，：！？;:,、])\s*[,，]+")
_REPAIRS = (
    (re.compile(r"【([^【】]{1,12})】[:：]?"), r"\1："),
    (re.compile(r"[【】]"), ""),
    (_LINE_BREAK_COMMA, r"\1"),
    (re.compile(r"。{2,}"), "。"),
    (re.compile(r",(?=[一-鿿])"), "，"),
    (re.compile(r"(?<=[一-鿿]),(?=\d{1,2}[.、．](?!\d))"), "；"),
    (re.compile(r"^[,，。；;、\s]+"), ""),
)


def clean_sections(
    sections: Mapping[str, str], part: QuestionPart, language: Language
) -> dict[str, str]:
    """Return the sections of a question in their order, repaired, those without content left
    out; folded ones stand at the end of another."""
    is_labelled = "{section}" in part.template[language]

    def clean(name: str) -> str:
        text = sections.get(name, "")
        text = clean_text(text, name, language) if is_labelled else keep_lines(text)
        return "" if is_empty(text) else text

    present = {name: text for name in part.sections if (text := clean(name))}
    colon, stop = ("：", "。") if language == "zh" else (": ", ".")
    for name, folded in part.fold.items():
        extra = [
            f"{_label(other, part, language)}{colon}{text}"
            for other in folded
            if other not in part.sections and (text := clean(other))
        ]
        if extra and name in part.sections:
            told = [*([present[name]] if name in present else []), *extra]
            between = stop if language == "zh" else f"{stop} "
            present[name] = between.join(text.rstrip(stop) for text in told) + stop
    return {name: present[name] for name in part.sections if name in present}


def _label(name: str, part: QuestionPart, language: Language) -> str:
    return part.labels.get(language, {}).get(name, name)


def keep_lines(text: str) -> str:
    """Repair white space and keep the lines: blanks within and around them, and all but one empty
    line.

    >>> keep_lines(" A.  one\\r\\n\\n\\n\\nB. two ")
    'A. one\\n\\nB. two'
    """
    text = drop_unseen(text)
    text = html.unescape(text) if "&" in text else text
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def clean_text(text: str, section: str = "", language: Language = "zh") -> str:
    """Put a section on one line and repair what crawlers broke: commas for line breaks, 是 for a
    colon, 度 for ℃."""
    if not text:
        return ""
    text = drop_unseen(text)
    text = html.unescape(text) if "&" in text else text
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r", "\n").strip())
    text = re.sub(r" ?\n[ \n]*", "\n", text)
    if language == "en":
        text = re.sub(r"(?<=[.;,:!?])\n", " ", text).replace("\n", "; ")
        return text.replace("【", "").replace("】", " ").rstrip(", \t\xa0")
    text = re.sub(r"(?<=[。；，：！？;:,、])\n", "", text).replace("\n", "，")
    text = re.sub(r"(?<=[^\x00-\xff]) | (?=[^\x00-\xff])", "", text)
    if section == "查体" and _QUIRK.match(text):
        text = _DEGREE.sub(r"\1℃", _NATURAL_IS.sub("：", text))
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    return text.rstrip(",，、 \t\r\n\u3000\xa0")


def is_empty(text: str) -> bool:
    """Tell whether a section says nothing.

    >>> [is_empty(text) for text in ("\\\\N", "#N/A。", "[]", "--", "未填写", "无异常")]
    [True, True, True, True, True, False]
    """
    plain = normalize(text).strip(" 。、,.;:“”\"'").lower()
    return plain in _EMPTY or plain.strip("()[]{}<>") in _EMPTY or bool(_NO_WORD.fullmatch(plain))


def join_sections(sections: Mapping[str, str], part: QuestionPart, language: Language) -> str:
    """Write sections in their order, each as the template says."""
    template = part.template[language]
    texts = {name: sections[name] for name in part.sections if name in sections}
    return "".join(
        template.replace("{section}", _label(name, part, language)).replace("{text}", text)
        for name, text in texts.items()
    ).strip()
