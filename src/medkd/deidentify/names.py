"""Rules for personal names: found by what stands around them, checked by what a name is made of.

In: a text. Out: spans, through `RULES`. Not done here: a name without any context, unless `detect` has met it elsewhere
in the same case; names in scripts other than Chinese and Latin.
"""

import re
from collections.abc import Iterator

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, load_table
from medkd.deidentify.words import WINDOW, leading_name

_TABLE = load_table("names.yaml")
_SINGLE = _TABLE["surnames"].replace(" ", "")
_SURNAME = f"(?:{any_of(_TABLE['compound_surnames'])}|[{_SINGLE}])"
_COMPOUND = re.compile(any_of(_TABLE["compound_surnames"]))
_GIVEN = f"[{''.join(sorted(set((_TABLE['given'] + _TABLE['more_given']).replace(' ', ''))))}]"
_NOT_NAME = re.compile(any_of(word for row in _TABLE["not_names"] for word in row))
_RELATIVE = any_of(_TABLE["relatives"].split())
_TITLE = any_of(_TABLE["titles"].split())
_FUNCTION_WORDS = set(_TABLE["function_words"])
_PATIENT = "患者|病人|患儿|产妇|孕妇|伤者|死者|病员|患方|受试者"
_SIGNED = any_of(_TABLE["signed"].split())
_STOP = r"[\s，,。；;：:、（()）“”\"'【】\[\]/]|$"
_AFTER = rf"(?={_STOP}|[因于自诉系的在入今现曾为突来被代陪住签发述称就与和及将到经带送]|男|女|家[属住]|身份证|年龄|性别|查房|会诊|要求)"
_MASKED = r"(?:某{1,3}|[×＊*○〇]{1,3}|[xX]{2,3})"
_TITLE_HINTS = ("主任", "教授", "医师", "医生", "大夫", "护", "院长", "科长", "先生", "女士", "小姐", "同志", "师傅", "老师", "主治")
_PARTICULARS = ("性别", "年龄", "身份证", "家住", "住址", "现住", "电话", "民族", "职业", "籍贯")
_SEX_HINTS = (*(f"{mark}{sex}" for mark in "，,（( " for sex in "男女"), *_PARTICULARS)


def _is_name(match: re.Match[str]) -> bool:
    return not _NOT_NAME.match(match["x"])


def _is_surname_with_title(match: re.Match[str]) -> bool:
    """Accept 王主任; accept 于主任, whose first character is also a word, only where the doctor acts."""
    if not _BEFORE_SURNAME.search(match.string[max(0, match.start() - 4) : match.start()]):
        return False
    if match["x"] not in _FUNCTION_WORDS:
        return True
    if match["x"] == "于" and match.string[match.start() - 1 : match.start()] in {"由", "对", "至"}:
        return False
    return re.match(r"查房|会诊|指示|建议|主刀|手术|签|阅片|看过|嘱", match.string[match.end() : match.end() + 4]) is not None


def _is_masked_name(match: re.Match[str]) -> bool:
    after = match.string[match.end("x") : match.end("x") + 2]
    return match["x"][0] not in _FUNCTION_WORDS and not (
        match["x"][1] == "某" and re.match(r"[医院地日种些个次科县市年月药病处类原天人]|医院", after)
    )


_MORE = re.compile(rf"(?:[、，,/ ]{{1,2}}{_SURNAME}{_GIVEN}{{1,2}}(?={_STOP}|查房|会诊|主刀|在场))+")
_FIRST = re.compile(rf"(?:(?:{_SIGNED})\s*[:：]\s*{_SURNAME}[一-鿿]{{1,2}}|(?:{_TITLE}){_SURNAME}{_GIVEN}{{1,2}})$")


def _names_in_lists(text: str) -> Iterator[tuple[int, int]]:
    """Find the names that follow the first one after a label or a title: 助手：李勇、王芳。"""
    for more in _MORE.finditer(text):
        if not _FIRST.search(text[max(0, more.start() - 20) : more.start()]):
            continue
        for name in re.finditer(r"[一-鿿]+", more[0]):
            if not _NOT_NAME.match(name[0]):
                yield more.start() + name.start(), more.start() + name.end()


_KIN = any_of(word for word in _TABLE["relatives"].split() if len(word) > 1)
_CONTEXT = re.compile(
    rf"(?:{_PATIENT}|其[父母子女兄弟姐妹妻夫]|{_KIN}|护士长|职工|员工|学生|同学|司机[为是]?|签字人)[，,：:（( ]?(?={_SURNAME}[一-鿿])"
)


def _names_by_words(text: str) -> Iterator[tuple[int, int]]:
    """Find names after a context whatever their characters, where the words are cut so that a name stands there."""
    for context in _CONTEXT.finditer(text):
        start = context.end()
        if _NOT_NAME.match(text, start):
            continue
        length = leading_name(text[start : start + WINDOW])
        longest = 4 if _COMPOUND.match(text, start) else 3
        if length <= longest:
            yield start, start + length
        elif re.match(_FULL, text[start : start + 3]):  # the tagger took a verb for part of the name
            yield start, start + longest


_BEFORE_SURNAME = re.compile(f"(?:^|[^一-鿿]|[请经遵由]|{any_of(_TABLE['before_surname'].split())})$")
_FULL = rf"(?P<x>{_SURNAME}{_GIVEN}{{1,2}})"

RULES: tuple[Rule, ...] = (
    Rule(
        "name_labelled",
        Category.NAME,
        by_pattern(
            r"(?:姓名|小名|乳名|大名|曾用名|别名|化名)\s*[:：为是叫]?\s*[“\"]?(?P<x>(?!不详|保密|未知|匿名|同上|性别)[一-鿿·]{2,4}?(?:·[一-鿿]{2,6})?)(?=[^一-鿿·]|$|性别|年龄|男|女|民族|职业)",
            ("名",),
        ),
    ),
    Rule(
        "name_of_signature",
        Category.NAME,
        by_pattern(
            rf"(?:{_SIGNED})\s*[:：]\s*(?P<x>{_SURNAME}[一-鿿]{{1,3}})(?={_STOP}|[记签报])",
            ("：", ":"),
            _is_name,
        ),
    ),
    Rule("name_in_list", Category.NAME, _names_in_lists),
    Rule(
        "name_of_patient",
        Category.NAME,
        by_pattern(rf"(?:{_PATIENT})[，,：:（( ]?(?P<x>{_SURNAME}{_GIVEN}{{1,2}}|小{_GIVEN}){_AFTER}", (), _is_name),
    ),
    Rule(
        "name_before_particulars",
        Category.NAME,
        by_pattern(
            rf"(?:(?<![一-鿿])|(?<=患者)|(?<=患儿)|(?<=病人))(?P<x>{_SURNAME}[一-鿿]{{1,2}})"
            rf"(?=[，,（( ]\s*[男女](?:性)?[，,、）) 。]|[，,（( ]?(?:{'|'.join(_PARTICULARS)}))",
            _SEX_HINTS,
            _is_name,
        ),
    ),
    Rule(
        "name_of_relative",
        Category.NAME,
        by_pattern(rf"(?:{_RELATIVE})[（(：: ]?{_FULL}(?={_STOP}|[代陪诉述签称送带护发告系患体有均已死去既健要同]|身体)", (), _is_name),
    ),
    Rule(
        "name_of_doctor",
        Category.NAME,
        by_pattern(
            rf"(?:{_TITLE}){_FULL}(?={_STOP}|[查看会指主审记签]|[一-鿿]{{0,2}}(?:查房|会诊|主刀|诊治|接诊))", _TITLE_HINTS, _is_name
        ),
    ),
    Rule(
        "name_before_title",
        Category.NAME,
        by_pattern(rf"(?:(?<![一-鿿])|(?<=[由请经与和及科给被示为])){_FULL}(?=(?:副)?(?:{_TITLE}))", _TITLE_HINTS, _is_name),
    ),
    Rule(
        "surname_before_title",
        Category.NAME,
        by_pattern(
            rf"(?P<x>{_SURNAME})(?:副)?(?:主任|教授|医师|医生|大夫|护士|院长|主治|先生|女士)(?!班)",
            _TITLE_HINTS,
            _is_surname_with_title,
        ),
    ),
    Rule("name_by_words", Category.NAME, _names_by_words),
    Rule(
        "name_masked",
        Category.NAME,
        by_pattern(rf"(?P<x>{_SURNAME}{_MASKED})(?![A-Za-z\d])", ("某", "xx", "XX", "×", "*", "＊", "○", "〇"), _is_masked_name),
    ),
)


def is_ordinary_word(name: str) -> bool:
    """Tell whether a name would also be met as an ordinary word, so that it cannot be looked for without context."""
    return (
        len(name) < 2
        or bool(_NOT_NAME.match(name))
        or not re.fullmatch(f"{_SURNAME}[一-鿿]{{1,2}}|[一-鿿]+·[一-鿿]+|[A-Z][a-z]+ [A-Za-z -]+", name)
    )
