"""Rules for personal names: found by what stands around them, checked by what a name is made of.

In: a text. Out: spans, through `RULES`. Not done here: a name without any context, unless `detect` has met it elsewhere
in the same case; names in scripts other than Chinese and Latin.
"""

import re
from collections.abc import Iterator

from medkd.deidentify import labels
from medkd.deidentify.rules import Category, Rule, any_of, by_pattern
from medkd.deidentify.shape import COMPOUND, DOTTED, FULL, GIVEN, LATIN, NOT_NAME, OF_ELEMENTS, SURNAME, TABLE, is_name
from medkd.deidentify.words import WINDOW, leading_name

_RELATIVE = any_of(TABLE["relatives"].split())
_TITLE = any_of(TABLE["titles"].split())
_FUNCTION_WORDS = set(TABLE["function_words"])
_PATIENT = r"患者|病人|患儿|产妇|孕妇|伤者|死者|病员|患方|受试者|逝者|\d床"
_STOP = r"[\s，,。；;：:、（()）“”\"'【】\[\]/／]|$"
_AFTER = rf"(?={_STOP}|[因于自诉系的在入今现曾为突来被代陪住签发述称就与和及将到经带送既]|男|女|家[属住]|身份证|年龄|性别|查房|会诊|要求|之[父母子女妻夫]|饮酒|出院|术后)"
_MASKED = r"(?:某{1,3}|[×＊*○〇]{1,3}|[xX]{2,3})"
_TITLE_HINTS = ("主任", "教授", "医师", "医生", "大夫", "护", "院长", "科长", "先生", "女士", "小姐", "同志", "师傅", "老师", "主治")
_PARTICULARS = ("性别", "年龄", "身份证", "家住", "住址", "现住", "电话", "民族", "职业", "籍贯")
_NAMES_TOO = frozenset(TABLE["names_too"].split())
_SEX_HINTS = (*(f"{mark}{sex}" for mark in "，,（( " for sex in "男女"), *_PARTICULARS)


def _is_surname_with_title(match: re.Match[str]) -> bool:
    """Accept 王主任; accept 于主任, whose first character is also a word, only where the doctor acts."""
    if not _BEFORE_SURNAME.search(match.string[max(0, match.start() - 4) : match.start()]):
        return False
    if match["x"] not in _FUNCTION_WORDS:
        return True
    if match["x"] == "于" and match.string[match.start() - 1 : match.start()] in {"由", "对", "至"}:
        return False
    return re.match(r"查房|会诊|指示|建议|主刀|手术|签|阅片|看过|嘱", match.string[match.end() : match.end() + 4]) is not None


def _is_dotted_name(match: re.Match[str]) -> bool:
    """Accept 买买提江·吐尔逊; leave 拉姆齐·亨特综合征."""
    return re.search("综合[征症]|[病征症法氏型]$|现象|试验|反射", match["x"]) is None and not re.match(
        "综合[征症]|[病征症法氏型]|现象|试验|反射|瘤|骨折|手术|评分|量表", match.string[match.end() : match.end() + 3]
    )


def _is_masked_name(match: re.Match[str]) -> bool:
    after = match.string[match.end("x") : match.end("x") + 2]
    return match["x"][0] not in _FUNCTION_WORDS and not (
        match["x"][1] == "某" and re.match(r"[医院地日种些个次科县市年月药病处类原天人]|医院", after)
    )


_KIN = any_of(word for word in TABLE["relatives"].split() if len(word) > 1)
_CONTEXT = re.compile(
    rf"(?:{_PATIENT}|其[父母子女兄弟姐妹妻夫]|{_KIN}|护士长|职工|员工|学生|同学|司机[为是]?|签字人)[，,：:（( ]?(?={SURNAME}[一-鿿])"
)


def _names_by_words(text: str) -> Iterator[tuple[int, int]]:
    """Find names after a context whatever their characters, where the words are cut so that a name stands there."""
    for context in _CONTEXT.finditer(text):
        start = context.end()
        if NOT_NAME.match(text, start):
            continue
        length = leading_name(text[start : start + WINDOW])
        longest = 4 if COMPOUND.match(text, start) else 3
        if 0 < length <= longest:
            yield start, start + length
        elif (
            re.match(rf"{SURNAME}{GIVEN}{{2}}", text[start : start + 4]) and text[start] not in _FUNCTION_WORDS
        ):  # the tagger took a verb for part of the name
            yield start, start + longest


_BEFORE = any_of(TABLE["before_surname"].split())
_BEFORE_SURNAME = re.compile(f"(?:^|[^一-鿿]|[请经遵由]|{_BEFORE})$")
_FOLLOWS_ELEMENTS = rf"{_STOP}|男|女|[因于自诉系在入今曾突来被代陪住发述称就]|之[父母子女]|饮酒|出院|术后"
RULES: tuple[Rule, ...] = (
    *labels.RULES,
    Rule(
        "name_dotted",
        Category.NAME,
        by_pattern(rf"(?:(?<![一-鿿·])|(?<=患者)|(?<=患儿)|(?<=病人)|(?<=[由与和对]))(?P<x>{DOTTED})", ("·", "•", "・"), _is_dotted_name),
    ),
    Rule(
        "name_of_elements",
        Category.NAME,
        by_pattern(rf"(?:{_PATIENT}|{_RELATIVE}|^|[。；;\s（(，,])[，,：:（( ]?(?P<x>{OF_ELEMENTS})(?={_FOLLOWS_ELEMENTS})", (), is_name),
    ),
    Rule(
        "name_of_patient",
        Category.NAME,
        by_pattern(rf"(?:{_PATIENT})[，,：:（( ]?(?P<x>{SURNAME}{GIVEN}{{1,2}}|小{GIVEN}){_AFTER}", (), is_name),
    ),
    Rule(
        "name_before_particulars",
        Category.NAME,
        by_pattern(
            rf"(?:(?<![一-鿿])|(?<=患者)|(?<=患儿)|(?<=病人))(?P<x>{SURNAME}[一-鿿]{{1,2}})"
            rf"(?=[，,（( ]\s*[男女](?:性)?[，,、）) 。]|[，,（( ]?(?:{'|'.join(_PARTICULARS)}))",
            _SEX_HINTS,
            lambda m: is_name(m) or m["x"] in _NAMES_TOO,
        ),
    ),
    Rule(
        "name_of_relative",
        Category.NAME,
        by_pattern(
            rf"(?:{_RELATIVE})[（(：: “\"]{{0,2}}{FULL}(?={_STOP}|[代陪诉述签称送带护发告系患体有均已死去既健要同因于在背扶抱]|身体)",
            (),
            is_name,
        ),
    ),
    Rule(
        "name_of_doctor",
        Category.NAME,
        by_pattern(rf"(?:{_TITLE}){FULL}(?={_STOP}|[查看会指主审记签]|[一-鿿]{{0,2}}(?:查房|会诊|主刀|诊治|接诊))", _TITLE_HINTS, is_name),
    ),
    Rule(
        "name_before_title",
        Category.NAME,
        by_pattern(rf"(?:(?<![一-鿿])|(?<=[由请经与和及科给被示为])|{_BEFORE}){FULL}(?=(?:副)?(?:{_TITLE}))", _TITLE_HINTS, is_name),
    ),
    Rule(
        "name_familiar",
        Category.NAME,
        by_pattern(
            rf"(?:{any_of(TABLE['peers'].split())})[“\"]?(?P<x>[老小阿]{SURNAME})(?![一-鿿]?[病型性])(?=[发见将把送陪说来在帮打叫扶背同的]|{_STOP})",
            ("老", "小", "阿"),
            is_name,
        ),
    ),
    Rule(
        "name_latin",
        Category.NAME,
        by_pattern(rf"(?:{_PATIENT}|{_RELATIVE})[，,：:（( ]?\s?(?P<x>{LATIN})(?=\s*(?:[，,。；（(男女、]|因|于|诉|$))", (), is_name),
    ),
    Rule(
        "surname_before_title",
        Category.NAME,
        by_pattern(
            rf"(?P<x>{SURNAME})(?:副)?(?:主任|教授|医师|医生|大夫|护士|院长|主治|先生|女士)(?!班)",
            _TITLE_HINTS,
            _is_surname_with_title,
        ),
    ),
    Rule("name_by_words", Category.NAME, _names_by_words),
    Rule(
        "name_masked",
        Category.NAME,
        by_pattern(rf"(?P<x>{SURNAME}{_MASKED})(?![A-Za-z\d])", ("某", "xx", "XX", "×", "*", "＊", "○", "〇"), _is_masked_name),
    ),
)
