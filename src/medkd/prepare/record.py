"""One record in one line: sections repaired, put in order and joined.

In: the sections of a case. Out: their cleaned text, and `【基本信息】… 【主诉】…`. Not done here:
the answer (`scrub`).

>>> join_sections({"主诉": "发热3天。", "基本信息": "男，49岁"})
'【基本信息】男，49岁 【主诉】发热3天。'
"""

import html
import re
from collections.abc import Mapping, Sequence

from medkd.text.normalize import drop_unseen, normalize

SECTIONS = ("基本信息", "主诉", "现病史", "既往史", "查体", "辅助检查", "诊治经过")
"""What stands in a question, in this order."""
FOLDED = ("个人史", "婚育史", "月经史", "过敏史", "家族史")
"""Rare sections that are told at the end of the past history."""
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


def clean_sections(sections: Mapping[str, str], wanted: Sequence[str] = SECTIONS) -> dict[str, str]:
    """Return the wanted sections in their order, repaired, without the empty ones."""
    cleaned = {name: clean_text(sections.get(name, ""), name) for name in (*wanted, *FOLDED)}
    present = {name: text for name in wanted if not is_empty(text := cleaned[name])}
    extra = [
        f"{name}：{cleaned[name]}"
        for name in FOLDED
        if name not in wanted and not is_empty(cleaned[name])
    ]
    if extra and "既往史" in wanted:
        told = [
            *([present["既往史"].rstrip("。")] if "既往史" in present else []),
            *(text.rstrip("。") for text in extra),
        ]
        present["既往史"] = "。".join(told) + "。"
    return {name: present[name] for name in wanted if name in present}


def clean_text(text: str, section: str = "") -> str:
    """Put a section on one line and repair what crawlers broke: commas for line breaks, 是 for a
    colon, 度 for ℃."""
    if not text:
        return ""
    text = drop_unseen(text)
    text = html.unescape(text) if "&" in text else text
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r", "\n").strip())
    text = re.sub(r" ?\n[ \n]*", "\n", text)
    text = re.sub(r"(?<=[。；，：！？;:,、])\n", "", text).replace("\n", "，")
    text = re.sub(r"(?<=[^\x00-\xff]) | (?=[^\x00-\xff])", "", text)
    if section == "查体" and _QUIRK.match(text):
        text = _DEGREE.sub(r"\1℃", _NATURAL_IS.sub("：", text)).replace("次/min", "次/分")
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


def join_sections(sections: Mapping[str, str], order: Sequence[str] = SECTIONS) -> str:
    """Write sections as one line, in the given order."""
    return " ".join(f"【{name}】{sections[name]}" for name in order if name in sections)
