"""Rules for names in forms: after a label, in lists of those who signed or took part.

In: a text. Out: spans, through `RULES`. Not done here: names in narration (`names`).
"""

import re
from collections.abc import Iterator

from medkd.deidentify.rules import Category, Rule, any_of, by_pattern
from medkd.deidentify.shape import DOTTED, TABLE, is_whole_name

_TITLE = any_of(TABLE["titles"].split())
_LABEL = re.compile(rf"(?:{any_of(TABLE['signed'].split())})(?:签名|签字|姓名)?(?:[（(][^（()）]{{1,6}}[）)])?(?:\s*[:：]\s*|[ 　\t]+)")
_ITEM = re.compile(r"(?P<x>[一-鿿·•・]{2,12}|[A-Z][A-Za-z .-]{2,30})(?=[^一-鿿·•・A-Za-z]|$)")
_TITLED = re.compile(rf"(?P<x>[一-鿿·•・]+?)(?:副?(?:{_TITLE})|[记签报录]$)")
_NEXT = re.compile(r"\s*[、，,/／;；和及与]\s*|[ 　\t]+")


def _labelled_names(text: str) -> Iterator[tuple[int, int]]:
    """Find the names after a label that ends in a role, one or a list of them: 手术者：李勇、王芳 副主任医师。"""
    for label in _LABEL.finditer(text):
        position = label.end()
        while item := _ITEM.match(text, position):
            word = item["x"].rstrip(" .-")
            titled = _TITLED.match(word)
            for name in (word, titled["x"] if titled else ""):
                if is_whole_name(name):
                    yield position, position + len(name)
                    break
            else:
                if word not in TABLE["titles"]:
                    break
            following = _NEXT.match(text, item.end())
            if following is None:
                break
            position = following.end()


RULES: tuple[Rule, ...] = (
    Rule(
        "name_labelled",
        Category.NAME,
        by_pattern(
            rf"(?:姓名|小名|乳名|大名|曾用名|别名|化名|真名|网名|昵称)\s*[:：为是叫]?\s*[“\"]?(?P<x>(?!不详|保密|未知|匿名|同上|性别)(?:{DOTTED}|[一-鿿]{{2,4}}?))(?=[^一-鿿·]|$|性别|年龄|男|女|民族|职业)",
            ("名",),
        ),
    ),
    Rule("name_of_role", Category.NAME, _labelled_names),
)
