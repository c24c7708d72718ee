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
from medkd.text.normalize import View, drop_unseen, normalize

_EMPTY = re.compile(
    r"无|暂[无缺]|缺如?|不详|未(?:查|做|行|见|填写?|录入|记录|提供)|待补充|略|空白?|none|nan?|null|nil|n/a|n\.a"
    r"|\#(?:n/?a|ref!|value!|div/0!|name\?|null!|num!)|\\n|<na>|nat|undefined|unknown|missing"
)
"""What stands where a section is empty: words of people, of tables and of programs."""
_NO_WORD = re.compile(r"(?:[^\w+]|_)*")
_QUIRK = re.compile(r"^[^。]{0,20}?T是\d")
_NATURAL_IS = re.compile(
    r"(?<![但于还不只可都总就也若要正像便即仍别其])是(?!否|因|由|由于|指|指的|的|一|在|从|以|为)"
)
_DEGREE = re.compile(r"(?<=[^\d.])((?:3[3-9]|4[0-2])(?:\.\d{1,2})?)度")
_ENTITY = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")
_LINES = (
    (re.compile(r"\r\n?"), "\n"),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" ?\n ?"), "\n"),
    (re.compile(r"\n{3,}"), "\n\n"),
)
_ONE_LINE = (
    (re.compile(r"\r"), "\n"),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" ?\n[ \n]*"), "\n"),
)
_ENGLISH = (
    (re.compile(r"(?<=[.;,:!?])\n"), " "),
    (re.compile(r"\n"), "; "),
    (re.compile("【"), ""),
    (re.compile("】"), " "),
)
_CHINESE = (
    (re.compile(r"(?<=[。；，：！？;:,、])\n"), ""),
    (re.compile(r"\n"), "，"),
    (re.compile(r"(?<=[^\x00-\xff]) | (?=[^\x00-\xff])"), ""),
)
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
) -> dict[str, View]:
    """Repair the sections of a question, those that are folded into another too; those without
    content are left out. Each view leads back to the section as it was."""
    is_labelled = "{section}" in part.template[language]
    folded = (name for names in part.fold.values() for name in names)
    views = {
        name: clean_text(sections[name], name, language)
        if is_labelled
        else keep_lines(sections[name])
        for name in dict.fromkeys((*part.sections, *folded))
        if name in sections
    }
    return {name: view for name, view in views.items() if not is_empty(view.text)}


def fold_sections(
    texts: Mapping[str, str], part: QuestionPart, language: Language
) -> dict[str, str]:
    """Return the texts of a question's sections in their order, the folded ones at the end of
    another."""
    told = {name: texts[name] for name in part.sections if name in texts}
    colon, stop = ("：", "。") if language == "zh" else (": ", ".")
    for name, folded in part.fold.items():
        extra = [
            f"{_label(other, part, language)}{colon}{texts[other]}"
            for other in folded
            if other not in part.sections and other in texts
        ]
        if extra and name in part.sections:
            lines = [*([told[name]] if name in told else []), *extra]
            between = stop if language == "zh" else f"{stop} "
            told[name] = between.join(line.rstrip(stop) for line in lines) + stop
    return {name: told[name] for name in part.sections if name in told}


def _label(name: str, part: QuestionPart, language: Language) -> str:
    return part.labels.get(language, {}).get(name, name)


def keep_lines(text: str) -> View:
    """Repair white space and keep the lines: blanks within and around them, and all but one empty
    line.

    >>> keep_lines(" A.  one\\r\\n\\n\\n\\nB. two ").text
    'A. one\\n\\nB. two'
    """
    view = _unescape(text)
    for pattern, replacement in _LINES:
        view = view.sub(pattern, replacement)
    return view.rstrip().lstrip()


def clean_text(text: str, section: str = "", language: Language = "zh") -> View:
    """Put a section on one line and repair what crawlers broke: commas for line breaks, 是 for a
    colon, 度 for ℃."""
    view = _unescape(text).rstrip().lstrip()
    for pattern, replacement in (*_ONE_LINE, *(_ENGLISH if language == "en" else _CHINESE)):
        view = view.sub(pattern, replacement)
    if language == "en":
        return view.rstrip(", \t\xa0")
    if section == "查体" and _QUIRK.match(view.text):
        view = view.sub(_NATURAL_IS, "：").sub(_DEGREE, r"\1℃")
    for pattern, replacement in _REPAIRS:
        view = view.sub(pattern, replacement)
    return view.rstrip(",，、 \t\r\n\u3000\xa0")


def _unescape(text: str) -> View:
    view = drop_unseen(text)
    return view.sub(_ENTITY, lambda entity: html.unescape(entity[0])) if "&" in text else view


def is_empty(text: str) -> bool:
    """Tell whether a section says nothing.

    >>> [is_empty(text) for text in ("\\\\N", "#N/A。", "[]", "--", "未填写", "无异常")]
    [True, True, True, True, True, False]
    """
    plain = normalize(text).strip(" 。、,.;:“”\"'").lower()
    return bool(
        _EMPTY.fullmatch(plain)
        or _EMPTY.fullmatch(plain.strip("()[]{}<>"))
        or _NO_WORD.fullmatch(plain)
    )


def join_sections(sections: Mapping[str, str], part: QuestionPart, language: Language) -> str:
    """Write sections in their order, each as the template says."""
    template = part.template[language]
    texts = {name: sections[name] for name in part.sections if name in sections}
    written = [
        template.replace("{section}", _label(name, part, language)).replace("{text}", text)
        for name, text in texts.items()
    ]
    return "".join([*written, part.ask[language]]).strip()
