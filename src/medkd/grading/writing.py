"""How a name is written, brought to one: width, case, numbering, old characters, English qualities,
synonyms.

In: a name as somebody wrote it. Out: the same in plain form, under the one name of `synonyms.yaml`.
The other tables are read here too.
Not done here: taking a name apart (`grading.names`).
"""

import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from medkd.core.yaml_io import read_shipped_yaml

TABLES_DIR = Path(__file__).parent


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """Bring a name to one width, case and numbering; white space, punctuation and quotation marks
    go.

    >>> normalise("Ⅱ型 糖尿病（T2DM）")
    '2型糖尿病t2dm'
    """
    plain = unicodedata.normalize("NFKC", simplify(text)).lower().replace("°", "度")
    for old, new in _words():
        plain = old.sub(new, plain)
    plain = _LATIN.sub(lambda found: unicodedata.normalize("NFKD", found[0])[0], plain)
    if re.search("[a-z]{3}", plain):
        for pattern, form in _english_forms():
            plain = pattern.sub(form, plain)
    plain = re.sub(r"\bstage\s*([0-9ivx]+[abc]?)\b", r"\1期", plain)
    plain = re.sub(r"甲状腺([左右])侧?叶", r"\1侧甲状腺", plain)
    plain = re.sub(r"(?<=[左右双侧])乳(?![腺房头突糜])|乳房", "乳腺", plain)
    plain = re.sub(r"([胸腰颈骶])(?=[0-9])", lambda found: _VERTEBRAE[found[0]], plain)
    plain = _english().sub(
        lambda found: read_qualities()["english"][found[0].removesuffix("-sided")], plain
    )
    plain = re.sub(
        r"(?:(?<![a-z])|(?<=ckd))(viii|vii|vi|iv|v|iii|ii|i)(?=[a-c]?[型期级度类])",
        lambda found: _ROMAN[found[1]],
        re.sub(r"\s", "", plain),
    )
    plain = re.sub(r"(?<=type)(iv|iii|ii|i)(?=[a-z])", lambda found: _ROMAN[found[1]], plain)
    plain = re.sub(
        r"[一二三四五六](?=[型期级度](?!联))",
        lambda found: str("一二三四五六".index(found[0]) + 1),
        plain,
    )
    return re.sub(r"[\W_]", "", plain)


_LATIN = re.compile("[\u00e0-\u024f]")
"""Letters with accents."""
_VERTEBRAE = {"颈": "c", "胸": "t", "腰": "l", "骶": "s"}
_ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6", "vii": "7", "viii": "8"}


def is_listed(text: str) -> bool:
    """Tell whether a whole text is a name of the shipped table."""
    return normalise(text) in _synonyms(None)[0]


def is_known(plain: str) -> bool:
    """Tell whether a plain text is the one name of a diagnosis of the shipped table."""
    return _synonyms(None)[0].get(plain) == plain


def use_one_name(plain: str, synonyms_path: Path | None) -> str:
    """Put the one name in the place of every other name for it that stands in a plain text."""
    names, pattern = _synonyms(synonyms_path)
    return pattern.sub(lambda found: names[found[0]], plain)


@cache
def _synonyms(path: Path | None) -> tuple[dict[str, str], re.Pattern[str]]:
    """Read the shipped synonyms, and those of `path` on top of them."""
    import yaml

    names: dict[str, str] = {}
    for file in (TABLES_DIR / "synonyms.yaml", path):
        if file is not None:
            groups = cast(dict[str, list[str]], yaml.safe_load(file.read_text(encoding="utf-8")))
            for name, others in groups.items():
                names.update((normalise(other), normalise(name)) for other in (name, *others))
    for written, name in list(names.items()):
        if len(written) > 4 and "性" in written[2:]:  # 高血压性肾病 is written 高血压肾病 as well
            names.setdefault(written[:2] + written[2:].replace("性", ""), name)
        for word, chinese in read_qualities()["eponyms"].items():
            if written.isascii() and written.endswith(word) and len(written) > len(word) + 3:
                names.setdefault(written.removesuffix(word) + chinese, name)  # Guillain-Barré综合征
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    whole_words = (
        rf"(?<![a-z]){re.escape(n)}(?![a-z])" if n.isascii() else re.escape(n)
        for n in longest_first
    )
    return names, re.compile("|".join(whole_words))


@cache
def _english() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(read_qualities()['english'])})(?:-sided)?\b")


@cache
def _english_forms() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), form) for pattern, form in read_qualities()["english_forms"]]


@cache
def _words() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), form) for pattern, form in read_qualities()["words"]]


def simplify(text: str) -> str:
    """Bring traditional and variant characters to the ones that the tables are written in."""
    return text if text.isascii() else text.translate(_simplified())


@cache
def _simplified() -> dict[int, str]:
    from opencc import OpenCC

    characters = [chr(code) for code in range(0x4E00, 0xA000)]
    simple = OpenCC("t2s").convert("\n".join(characters)).split("\n")
    pairs = [
        *zip(characters, simple, strict=True),
        *(tuple(pair) for pair in read_qualities()["variants"]),
    ]
    return {ord(old): new for old, new in pairs if old != new}


@cache
def read_qualities() -> dict[str, Any]:
    """Read what keeps two names apart, and what the characters and words of one name may look
    like."""
    return read_table("qualities.yaml")


def read_table(name: str) -> dict[str, Any]:
    """Read a table of this room."""
    return cast(dict[str, Any], read_shipped_yaml("medkd.grading", name))
