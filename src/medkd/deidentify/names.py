"""Rules for personal names: found by what stands around them, checked by what a name is made of and
by how jieba cuts words.

In: normalised text. Out: spans, through `RULES`. Not done here: a name without any context, unless
`search` has met it elsewhere in the same case; scripts other than Chinese and Latin.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern, first_characters, load_table
from medkd.text.segmentation import load_jieba

TABLE = load_table("names.yaml")
SURNAME = f"(?:{any_of(TABLE['compound_surnames'])}|[{TABLE['surnames'].replace(' ', '')}])"
COMPOUND = re.compile(any_of(TABLE["compound_surnames"]))
_GIVEN_CHARACTERS = "".join(sorted({*TABLE["given"], *TABLE["more_given"]} - {" "}))
GIVEN = f"(?:(?!代[诉述])[{_GIVEN_CHARACTERS}])"
NOT_NAME = re.compile(any_of(word for row in TABLE["not_names"] for word in row))
_RARE = f"[{TABLE['rare_surnames']}]"
_NEVER = f"[{TABLE['never']}]"
ELEMENT = f"(?:{any_of(TABLE['elements'].split())})"
SOUND = f"[{TABLE['sounds']}]"
OF_ELEMENTS = (
    f"(?:{ELEMENT}{{2,3}}|{ELEMENT}{SOUND}{{1,3}}|{SOUND}{{1,2}}{ELEMENT}(?:{SOUND}{{1,2}})?)"
)
"""A name of two parts such as 扎西卓玛, whose people have no surnames."""
DOTTED = r"[一-鿿]{2,8}(?:[·•][一-鿿]{2,8}){1,3}"
"""A name such as 古丽娜尔·艾合买提."""
FULL = rf"(?P<x>{SURNAME}{GIVEN}{{1,2}})"
"""A surname and a given name of usual characters."""
LATIN = r"[A-Z][a-z]+(?:\s[A-Z]\.)?(?:[\s-][A-Z][a-z]+){1,2}"

_WHOLE = re.compile(
    rf"{SURNAME}(?!{_NEVER})[一-鿿](?:(?!{_NEVER})[一-鿿])?|{SURNAME}{GIVEN}{{3}}"
    rf"|{_RARE}{GIVEN}{{1,2}}|{SURNAME}某{{1,2}}|{OF_ELEMENTS}|{DOTTED}|{LATIN}"
)
_ORDINARY = re.compile(
    f"{SURNAME}[一-鿿]{{1,2}}|[一-鿿]{{1,8}}[·•][一-鿿·•]{{1,30}}|{OF_ELEMENTS}"
    f"|[A-Z][a-z]{{1,30}} [A-Za-z -]{{1,60}}"
)


def is_name(match: re.Match[str]) -> bool:
    """Tell whether what a pattern found as `x` does not begin with an ordinary word."""
    return not NOT_NAME.match(match["x"])


def is_whole_name(word: str) -> bool:
    """Tell whether a word between two marks could be somebody's name, whatever its characters.

    >>> [is_whole_name(word) for word in ("柏林", "欧阳雨薇", "乌云其其格", "主任", "高血压")]
    [True, True, True, False, False]
    """
    return _WHOLE.fullmatch(word) is not None and not NOT_NAME.match(word)


def is_ordinary_name(name: str) -> bool:
    """Tell whether a name would also be met as an ordinary word, so that it cannot be looked for
    without context."""
    return len(name) < 2 or bool(NOT_NAME.match(name)) or not _ORDINARY.fullmatch(name)


_WINDOW = 9
"""Characters looked at."""


@cache
def _tagger() -> Any:
    load_jieba()
    import jieba.posseg  # pyright: ignore[reportMissingTypeStubs]

    return jieba.posseg.dt


@lru_cache(maxsize=16384)
def leading_name(window: str) -> int:
    """Return the length of the name with which a window begins; 0 where it begins with something
    else."""
    word, tag = next(iter(_tagger().cut(window)))
    return len(word) if tag.startswith("nr") and 2 <= len(word) <= 4 else 0


def is_common_word(word: str) -> bool:
    """Tell whether the dictionary has a word, and not as a name."""
    return not _tagger().word_tag_tab.get(word, "nr").startswith("nr")


def has_common_word(candidate: str) -> bool:
    """Tell whether what could be a name, or all of it but its first character, is a word and no
    name.

    >>> [has_common_word(word) for word in ("满意", "易疲劳", "席慕云")]
    [True, True, False]
    """
    return is_common_word(candidate) or (len(candidate) > 2 and is_common_word(candidate[1:]))


_TITLE = any_of(TABLE["titles"].split())
_LABEL = re.compile(
    rf"(?:{any_of(TABLE['signed'].split())})(?:签名|签字|姓名)?(?:\([^()]{{1,6}}\))?(?:\s*:\s*"
    rf"|[ \t]+)"
)
_ITEM = re.compile(r"(?P<x>[一-鿿·•]{2,12}|[A-Z][A-Za-z .-]{2,30})(?=[^一-鿿·•A-Za-z]|$)")
_TITLED = re.compile(rf"(?P<x>[一-鿿·•]{{1,12}}?)(?:副?(?:{_TITLE})|[记签报录]$)")
_NEXT = re.compile(r"\s*[、,/;和及与]\s*|[ \t]+")


def _labelled_names(text: str) -> Iterator[tuple[int, int]]:
    """Find the names after a label that ends in a role, one or a list of them: 手术者:李勇、王芳
    副主任医师。"""
    for label in _LABEL.finditer(text):
        position = label.end()
        while item := _ITEM.match(text, position):
            word = item["x"].rstrip(" .-")
            titled = _TITLED.match(word)
            for name in (word, titled["x"] if titled else ""):
                if is_whole_name(name) and not (
                    name[0] in TABLE["rare_surnames"] and is_common_word(name)
                ):
                    yield position, position + len(name)
                    break
            else:
                if word not in TABLE["titles"]:
                    break
            following = _NEXT.match(text, item.end())
            if following is None:
                break
            position = following.end()


_ROW_HINT = re.compile(r"[号床岁男女]|科室|病区")


def _names_in_rows(text: str) -> Iterator[tuple[int, int]]:
    """Find a usual name that stands by itself in a row of fields: 住院号0998812 王建国 神经外科."""
    for field in _FIELD.finditer(text):
        around = text[max(0, field.start() - 30) : field.end() + 30]
        if (
            not NOT_NAME.match(field["x"])
            and not is_common_word(field["x"])
            and _ROW_HINT.search(around)
        ):
            yield field.span("x")


_FIELD = re.compile(rf"(?<=[ \t|]){FULL}(?=[ \t|])")

_FORM_RULES: tuple[Rule, ...] = (
    Rule(
        "name_labelled",
        Category.NAME,
        by_pattern(
            rf"(?:姓名|小名|乳名|大名|曾用名|别名|化名|真名|网名"
            rf"|昵称)\s*[:为是叫]?\s*[“\"]?(?P<x>(?!不详|保密|未知|匿名|同上|性别)(?:{DOTTED}"
            rf"|[一-鿿]{{2,4}}?))(?=[^一-鿿·]|$|性别|年龄|男|女|民族|职业)",
            ("名",),
        ),
    ),
    Rule("name_in_row", Category.NAME, _names_in_rows),
    Rule("name_of_role", Category.NAME, _labelled_names),
)


_RELATIVE = any_of(TABLE["relatives"].split())
_FUNCTION_WORDS = set(TABLE["function_words"])
_PATIENT = r"患者|病人|患儿|产妇|孕妇|伤者|死者|病员|患方|受试者|逝者|床(?<=\d床)"
_STOP = r"[\s,。;:、()“”\"'【】\[\]/]|$"
_VERBS = "家[属住]|身份证|年龄|性别|查房|会诊|要求|之[父母子女妻夫]|饮酒|出院|术后"
_AFTER = (
    rf"(?={_STOP}|[因于自诉系的在入今现曾为突来被代陪住签发述称就与和及将到经带送既男女]|{_VERBS})"
)
_MASKED = r"(?:某{1,3}|[×*○〇]{1,3}|[xX]{2,3})"
_TITLE_HINTS = tuple(TABLE["titles"].split())
_PARTICULARS = ("性别", "年龄", "身份证", "家住", "住址", "现住", "电话", "民族", "职业", "籍贯")
_NAMES_TOO = frozenset(TABLE["names_too"].split())
_SEX_HINTS = (*(f"{mark}{sex}" for mark in ",( :" for sex in "男女"), *_PARTICULARS)


def _is_surname_with_title(match: re.Match[str]) -> bool:
    """Accept 王主任; accept 于主任, whose first character is also a word, only where the doctor
    acts."""
    if len(match["x"]) > 1:
        return True
    if match.string[max(0, match.start() - 1) : match.end("x")] in {
        "随车",
        "由于",
        "对于",
        "至于",
        "关于",
    }:
        return False
    if not _BEFORE_SURNAME.search(match.string[max(0, match.start() - 4) : match.start()]):
        return False
    if match["x"] not in _FUNCTION_WORDS:
        return True
    return (
        re.match(
            r"查房|会诊|指示|建议|主刀|手术|签|阅片|看过|嘱|发言|认为|表示|分析|补充|同意|说|回",
            match.string[match.end() : match.end() + 4],
        )
        is not None
    )


def _is_name_with_particulars(match: re.Match[str]) -> bool:
    if match["x"][0] in TABLE["rare_surnames"] and not is_common_word(match["x"]):
        return True
    return (
        re.match(OF_ELEMENTS, match["x"]) is not None
        or (len(match["x"]) <= 4 and _SURNAME.match(match["x"]) is not None and is_name(match))
        or match["x"] in _NAMES_TOO
    )


def _is_titled_name(match: re.Match[str]) -> bool:
    """Leave 对于经医师解释, where the surname is the end of another word."""
    before = match.string[max(0, match.start("x") - 1) : match.start("x")]
    return is_name(match) and not (
        match["x"][0] in _FUNCTION_WORDS and before in {"对", "由", "至"}
    )


def _is_dotted_name(match: re.Match[str]) -> bool:
    """Accept 买买提江·吐尔逊; leave 拉姆齐·亨特综合征."""
    return re.search(
        "综合[征症]|[病征症法氏型]$|现象|试验|反射", match["x"]
    ) is None and not re.match(
        "综合[征症]|[病征症法氏型]|现象|试验|反射|瘤|骨折|手术|评分|量表",
        match.string[match.end() : match.end() + 3],
    )


def _is_masked_name(match: re.Match[str]) -> bool:
    after = match.string[match.end("x") : match.end("x") + 2]
    return match["x"][0] not in _FUNCTION_WORDS and not (
        match["x"][1] == "某"
        and re.match(r"[医院地日种些个次科县市年月药病处类原天人]|医院", after)
    )


_KIN = any_of(word for word in TABLE["relatives"].split() if len(word) > 1)
_ROLE = any_of(word for word in TABLE["signed"].split() if len(word) > 1)
_ONE = f"{SURNAME}{GIVEN}{{1,2}}"
_HELPERS = re.compile(
    rf"(?<=[由请]){_ONE}(?:[、,和及]{_ONE})*(?=[一-鿿]{{0,6}}(?:送|陪|扶|抬|背|主刀|施行|负责"
    rf"|会诊|接诊|代))"
)


def _names_of_helpers(text: str) -> Iterator[tuple[int, int]]:
    """Find who brought or treated somebody: 由曲波、于占海两位同事送来."""
    for helpers in _HELPERS.finditer(text):
        for name in re.finditer(r"[^、,和及]+", helpers[0]):
            if not NOT_NAME.match(name[0]) and not is_common_word(name[0]):
                yield helpers.start() + name.start(), helpers.start() + name.end()


_OTHERS = (
    "[其之][父母子女兄弟姐妹妻夫]|[者人员]|[其好群网]友|医(?![师生院务疗])"
    r"|[一二三]线|管床(?!.?医)|职工|学生|我叫|我是|名叫|叫做|报告|通知"
)
_WHO = f"{_PATIENT}|{_KIN}|{_ROLE}|{_TITLE}|{_OTHERS}"
_CONTEXT = re.compile(
    rf"(?=[{first_characters(_WHO)}])(?:{_WHO})(?:名?叫|[系是为])?[,:(“ ]?(?=(?:{SURNAME}"
    rf"|{ELEMENT}|{SOUND})[一-鿿]|[A-Z][a-z])"
)
_OF_ELEMENTS = re.compile(
    rf"{OF_ELEMENTS}(?={_STOP}|男|女|[因于自诉系在入今曾突来被代陪住发述称就]|之[父母子女]|饮酒"
    rf"|出院|术后)"
)
_LATIN = re.compile(rf"{LATIN}(?=\s*(?:[,。;(男女、]|因|于|诉|$))")
_ANY_NAME = re.compile(rf"{SURNAME}{GIVEN}{{2}}(?!{GIVEN})|{SURNAME}{GIVEN}{{1,2}}{_AFTER}")
_SURNAME = re.compile(SURNAME)
_CLOSED = re.compile(rf"[一-鿿]{{2,4}}(?={_STOP}|交班|接班|主刀)")


def _names_in_context(text: str) -> Iterator[tuple[int, int]]:
    """Find names after a person's role: by how words are cut, by what usual names are made of, or
    whatever stands up to a mark."""
    for context in _CONTEXT.finditer(text):
        start = context.end()
        if elsewhere := _OF_ELEMENTS.match(text, start) or _LATIN.match(text, start):
            yield elsewhere.span()
            continue
        if (
            NOT_NAME.match(text, start)
            or not _SURNAME.match(text, start)
            or (text[start] in _FUNCTION_WORDS and context[0] in {"患者", "病人", "家属"})
        ):
            continue
        closed = _CLOSED.match(text, start)
        if (
            closed
            and re.fullmatch(rf"{SURNAME}[一-鿿]{GIVEN}", closed[0])
            and is_whole_name(closed[0])
            and not is_common_word(closed[0])
        ):
            yield closed.span()
            continue
        length = leading_name(text[start : start + _WINDOW])
        longest = 4 if COMPOUND.match(text, start) else 3
        if 0 < length <= longest:
            yield start, start + length
        elif (usual := _ANY_NAME.match(text, start)) and not is_common_word(usual[0]):
            yield usual.span()
        elif closed and is_whole_name(closed[0]) and not has_common_word(closed[0]):
            yield closed.span()


_BEFORE = any_of(TABLE["before_surname"].split())
_BEFORE_SURNAME = re.compile(f"(?:^|[^一-鿿]|[请经遵由]|{_BEFORE})$")
RULES: tuple[Rule, ...] = (
    *_FORM_RULES,
    Rule(
        "name_dotted",
        Category.NAME,
        by_pattern(
            rf"(?:(?<![一-鿿·])|(?<=[由与和对]))(?:{_WHO})?(?P<x>{DOTTED})",
            ("·", "•", "・"),
            _is_dotted_name,
        ),
    ),
    Rule(
        "name_of_patient",
        Category.NAME,
        by_pattern(
            rf"(?:{_PATIENT})[,:( ]?(?P<x>{SURNAME}{GIVEN}{{1,2}}|小{GIVEN}){_AFTER}",
            (),
            is_name,
        ),
    ),
    Rule(
        "name_before_particulars",
        Category.NAME,
        by_pattern(
            rf"(?:(?<![一-鿿])|(?<=患者)|(?<=患儿)|(?<=病人))(?P<x>{SURNAME}[一-鿿]{{1,2}}"
            rf"|[{first_characters(ELEMENT[3:-1])}{SOUND[1:-1]}][一-鿿]{{2,5}}"
            rf"|(?<![一-鿿])[{TABLE['rare_surnames']}]{GIVEN}{{1,2}})"
            rf"(?=[,( :]\s*[男女](?:性)?[,、) 。]|[,( ]?(?:{'|'.join(_PARTICULARS)}))",
            _SEX_HINTS,
            _is_name_with_particulars,
        ),
    ),
    Rule(
        "name_of_relative",
        Category.NAME,
        by_pattern(
            rf"(?:{_RELATIVE})[(: “\"]{{0,2}}{FULL}(?={_STOP}"
            rf"|[代陪诉述签称送带护发告系患体有均已死去既健要同因于在背扶抱]|身体)",
            (),
            is_name,
        ),
    ),
    Rule(
        "name_of_doctor",
        Category.NAME,
        by_pattern(
            rf"(?:{_TITLE}){FULL}(?={_STOP}|[查看会指主审记签]|[一-鿿]{{0,2}}(?:查房|会诊|主刀"
            rf"|诊治|接诊))",
            _TITLE_HINTS,
            is_name,
        ),
    ),
    Rule(
        "name_before_title",
        Category.NAME,
        by_pattern(
            rf"(?:(?<![一-鿿])|(?<=[由请经与和及科给被示为的])"
            rf"|{_BEFORE}){FULL}(?=(?:副)?(?:{_TITLE}))",
            _TITLE_HINTS,
            _is_titled_name,
        ),
    ),
    Rule(
        "name_familiar",
        Category.NAME,
        by_pattern(
            rf"(?:{any_of(TABLE['peers'].split())})[“\"]?(?P<x>[老小阿]{SURNAME})(?![一-鿿]?[病型性])(?=[发见将把送陪说来在帮打叫扶背同的家]|{_STOP})",
            ("老", "小", "阿"),
            is_name,
        ),
    ),
    Rule("name_of_helper", Category.NAME, _names_of_helpers),
    Rule(
        "name_of_kin_of",
        Category.NAME,
        by_pattern(rf"(?<![一-鿿])(?:[我这]?[是叫的])?{FULL}(?=的(?:{_KIN}))", ("的",), is_name),
    ),
    Rule(
        "name_signed_below",
        Category.NAME,
        by_pattern(
            rf"(?:[院科室]|中心)[ ]+{FULL}(?=[ ]*(?:$|\n|[12]\d{{3}}[-年./]|通讯|电话|邮箱|手机"
            rf"|E-?mail))",
            ("院", "科", "室", "中心"),
            is_name,
        ),
    ),
    Rule(
        "surname_before_title",
        Category.NAME,
        by_pattern(
            rf"(?P<x>{SURNAME})(?:副)?(?:主任(?:医师|护师|技师|药师)?|主治医师|住院医师|教授"
            rf"|医师|医生|大夫|护士|院长|主治|先生|女士|老师|护师|技师|药师)(?!班)",
            _TITLE_HINTS,
            _is_surname_with_title,
        ),
    ),
    Rule("name_in_context", Category.NAME, _names_in_context),
    Rule(
        "name_masked",
        Category.NAME,
        by_pattern(
            rf"(?P<x>{SURNAME}{_MASKED})(?![A-Za-z\d])",
            ("某", "xx", "XX", "×", "*", "＊", "○", "〇"),
            _is_masked_name,
        ),
    ),
)
