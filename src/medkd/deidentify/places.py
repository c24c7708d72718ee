"""Places: what a pattern cannot say of hospitals by their own name, wards, addresses.

In: a text. Out: spans, through `RULES` (in `places.yaml`). Not done here: a bare city or province,
which alone tells too little of a patient and, as a travel history, much of the disease.
"""

import re
from collections.abc import Iterator

from medkd.deidentify.rules import Category, Table, by_pattern

_TABLE = Table("places.yaml")
_KIND = _TABLE.compile("{KINDS}")
_EDGE = _TABLE.compile("{LEFT_EDGES}")
_PROTECTED = _TABLE.compile("{PROTECTED}")
_GENERIC_LEFT = _TABLE.compile("{GENERIC_LEFT}")
_DEICTIC = _TABLE.compile("{DEICTIC}")
_RUN = re.compile(r"[一-鿿A-Za-z0-9·]{0,20}$")
_EVIDENCE = _TABLE.compile("{EVIDENCE}")
_ORDINARY = _TABLE.compile("{ORDINARY}")
_ANCHORED = re.compile(r"(?:在|于|到|至|往|赴|去|入|由|从|经|和|、|我县|我市|本县|本市|该县|该市)$")
_LOCAL = re.compile(r"(?:(?:当地|外地|本地|附近)的?(?=[一-鿿]{2,}[省市县区州镇乡村旗]))?")
_MAX_NAME = 20


def _hospitals(text: str) -> Iterator[tuple[int, int]]:
    for kind in _KIND.finditer(text):
        start = _name_start(text, kind.start())
        if text.startswith(("感染", "获得"), kind.end()):
            continue  # 医院感染
        start += len(_LOCAL.match(text[start : kind.start()])[0])  # pyright: ignore[reportOptionalSubscript]
        if start < kind.start() and _is_own_name(text, start, kind.start(), kind[0]):
            end = kind.end()
            branch = re.match(r"[一-鿿]{0,4}(?:院区|分院)|[东西南北新老本]院|门诊部", text[end:])
            yield start, end + (branch.end() if branch else 0)


def _is_local(match: re.Match[str]) -> bool:
    """Accept 县中医院 and 市一院 as somewhere one was; leave 当地县人民医院, which says no more
    than nearby."""
    return not re.search(
        r"(?:当地|外地|某|我|本|该|各|一家|附近)[一-鿿]?$",
        match.string[max(0, match.start("x") - 4) : match.start("x")],
    )


def _name_start(text: str, end: int) -> int:
    """Find where the words before a kind of hospital stop being narration and begin being its
    name."""
    begin = max(0, end - _MAX_NAME)
    run = _RUN.search(text[begin:end])
    start = begin + (run.start() if run else 0)
    protected = [match.span() for match in _PROTECTED.finditer(text, start, end)]
    for edge in _EDGE.finditer(text, start, end):
        if not any(a <= edge.start() < b or a < edge.end() <= b for a, b in protected):
            start = edge.end()
    return start


def _is_own_name(text: str, start: int, end: int, kind: str) -> bool:
    words = text[start:end]
    if _DEICTIC.search(words):
        return False
    core = words
    while core and (stripped := _GENERIC_LEFT.match(core)):
        core = core[stripped.end() :]
    if not core:
        return False
    if _EVIDENCE.search(core):
        return True
    if len(core) < 2 or _ORDINARY.search(core):
        return False
    is_first = start == 0 or text[start - 1] in ',。;、:(“" \n'
    if is_first and core == words and len(core) <= 6:
        return True
    return (
        kind in {"卫生院", "卫生所", "卫生室"}
        or _ANCHORED.search(text[max(0, start - 4) : start]) is not None
        or core != words
    )


_INSTITUTION = _TABLE.compile("{INSTITUTION}")
_WORKS_THERE = _TABLE.compile("{WORKS_THERE}")
_BEFORE_INSTITUTION = re.compile(r"[一-鿿]{2,16}$")
_TO_WORK = _TABLE.compile("{TO_WORK}")
_PLACED = _TABLE.compile("{PLACED}")
_SOME = _TABLE.compile("{SOME}")
_TRADE = _TABLE.compile("{TRADE}")


def _institutions(text: str) -> Iterator[tuple[int, int]]:
    """Find schools, employers and offices by their own name, where somebody learns or works."""
    for kind in _INSTITUTION.finditer(text):
        begin = max(0, kind.start() - 16)
        run = _BEFORE_INSTITUTION.search(text[begin : kind.start()])
        works = _WORKS_THERE.match(text, kind.end())
        if run is None or works is None:
            continue
        cuts = [cut.end() for cut in _TO_WORK.finditer(run[0])]
        name = run[0][cuts[-1] :] if cuts else run[0]
        before = text[max(0, begin + run.start() - 1) : begin + run.start()]
        is_told = bool(cuts or works["said"]) or before in ":("
        if len(name) < 2 or _SOME.search(name) or _TRADE.fullmatch(name):
            continue
        if _PLACED.search(name + kind[0][0]) or is_told:
            school_class = _CLASS.match(text, kind.end())
            yield kind.start() - len(name), school_class.end() if school_class else kind.end()


_CLASS = re.compile(r"[高初大一二三四五六]{1,2}年?级?\(?\d{1,2}\)?班")
_KIND_AT_END = _TABLE.compile("{KIND_AT_END}")
_INSTITUTION_AT_END = _TABLE.compile("{INSTITUTION_AT_END}")
_FINE_AT_END = _TABLE.compile("{FINE_AT_END}")


_SCHOOLING = re.compile("程度|文化|学历")


def kind_of_place(text: str, start: int, end: int) -> Category | None:
    """Tell what a tagger's place or organisation is by its last word: a hospital, an address; None
    for a bare city and for what names nothing of its own."""
    words = text[start:end].rstrip()
    if kind := _KIND_AT_END.search(words):
        is_own = kind.start() and _is_own_name(text, start, start + kind.start(), kind[0])
        return Category.HOSPITAL if is_own else None
    if len(words) < 3 or any(no.search(words) for no in (_SOME, _NO_PLACE, _SCHOOLING)):
        return None
    is_place = _FINE_AT_END.search(words) or (len(words) > 3 and _INSTITUTION_AT_END.search(words))
    return Category.ADDRESS if is_place else None


_PLACE_WORD = _TABLE.compile("{PLACE_WORD}")
_NO_PLACE = _TABLE.compile("{NOWHERE}")


def _is_labelled_address(match: re.Match[str]) -> bool:
    place = match["x"]
    has_colon = match["colon"] == ":"
    if match[0].startswith("单位"):
        return (
            bool(match["colon"])
            and not _NO_PLACE.search(place)
            and bool(_PLACE_WORD.search(place))
            and not place.isascii()
        )
    is_origin = match[0].startswith(("籍贯", "出生地", "祖籍")) and len(place) >= 4
    is_told = has_colon or is_origin or bool(_PLACE_WORD.search(place))
    return is_told and not _NO_PLACE.search(place)


def _is_chain(match: re.Match[str]) -> bool:
    return not re.match(
        r"(?:超|门|都|城|全|各|我|本|该|外|农|节|反)[市省县乡村]", match["x"]
    ) and not _NO_PLACE.search(match["x"])


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """Find chains of at least two administrative units, narration before them cut off."""
    for start, end in _CHAINS(text):
        start += _VERBS.match(text[start:end]).end()  # pyright: ignore[reportOptionalMemberAccess]
        first_unit = _FIRST_UNIT.search(text, start, end)
        head = first_unit.start() if first_unit else start
        for edge in _EDGE.finditer(text, start, min(end, head)):
            if not _PROTECTED.search(text, max(start, edge.start() - 1), edge.end() + 1):
                start = edge.end()
        if _BEGINS_WITH_UNIT.match(text, start, end):
            yield start, end


_FIRST_UNIT = _TABLE.compile("{UNIT}")
_VERBS = _TABLE.compile("{VERBS}")
_BEGINS_WITH_UNIT = _TABLE.compile(r"[一-鿿]{1,7}?{FINE_UNIT}[一-鿿\d]")
_CHAINS = by_pattern(_TABLE.fill("{CHAIN}"), [_is_chain], [*"省市县镇乡村旗盟州", "街道", "自治"])
RULES = _TABLE.rules(_hospitals, _is_local, _is_labelled_address, _institutions, _addresses)
