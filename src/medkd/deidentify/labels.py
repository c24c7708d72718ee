"""Rules for names in forms: after a label, in lists of those who signed or took part.

In: a text. Out: spans, through `RULES`. Not done here: names in narration (`names`).
"""

import re
from collections.abc import Iterator

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern
from medkd.deidentify.shape import DOTTED, FULL, NOT_NAME, TABLE, is_whole_name
from medkd.deidentify.words import is_ordinary

_TITLE = any_of(TABLE["titles"].split())
_LABEL = re.compile(
    rf"(?:{any_of(TABLE['signed'].split())})(?:签名|签字|姓名)?(?:[（(][^（()）]{{1,6}}[）)])?(?:\s*[:：]\s*|[ 　\t]+)"
)
_ITEM = re.compile(r"(?P<x>[一-鿿·•・]{2,12}|[A-Z][A-Za-z .-]{2,30})(?=[^一-鿿·•・A-Za-z]|$)")
_TITLED = re.compile(rf"(?P<x>[一-鿿·•・]+?)(?:副?(?:{_TITLE})|[记签报录]$)")
_NEXT = re.compile(r"\s*[、，,/／;；和及与]\s*|[ 　\t]+")


def _labelled_names(text: str) -> Iterator[tuple[int, int]]:
    """Find the names after a label that ends in a role, one or a list of them: 手术者：李勇、王芳
    副主任医师。"""
    for label in _LABEL.finditer(text):
        position = label.end()
        while item := _ITEM.match(text, position):
            word = item["x"].rstrip(" .-")
            titled = _TITLED.match(word)
            for name in (word, titled["x"] if titled else ""):
                if is_whole_name(name) and not (
                    name[0] in TABLE["rare_surnames"] and is_ordinary(name)
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
            and not is_ordinary(field["x"])
            and _ROW_HINT.search(around)
        ):
            yield field.span("x")


_FIELD = re.compile(rf"(?<=[ 　\t|]){FULL}(?=[ 　\t|])")

RULES: tuple[Rule, ...] = (
    Rule(
        "name_labelled",
        Category.NAME,
        by_pattern(
            rf"(?:姓名|小名|乳名|大名|曾用名|别名|化名|真名|网名|昵称)\s*[:：为是叫]?\s*[“\"]?(?P<x>(?!不详|保密|未知|匿名|同上|性别)(?:{DOTTED}|[一-鿿]{{2,4}}?))(?=[^一-鿿·]|$|性别|年龄|男|女|民族|职业)",
            ("名",),
        ),
    ),
    Rule("name_in_row", Category.NAME, _names_in_rows),
    Rule("name_of_role", Category.NAME, _labelled_names),
)
