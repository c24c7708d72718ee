"""Rules for places: hospitals by their own name, wards, addresses.

In: a text. Out: spans, through `RULES` in the order in which they claim text. Not done here: a bare
city or province, which alone tells too little of a patient and, as a travel history, much of the
disease.
"""

import re
from collections.abc import Iterator

from medkd.deidentify.rules import (
    Category,
    Rule,
    any_of,
    by_pattern,
    first_characters,
    load_table,
    rules_of,
)

_TABLE = load_table("places.yaml")
_KIND = re.compile(any_of(_TABLE["kinds"].split()))
_EDGE = re.compile(any_of(_TABLE["left_edges"].split()))
_PROTECTED = re.compile(any_of(_TABLE["protected"]))
_GENERIC_LEFT = re.compile(f"(?:{any_of(_TABLE['generic'].split())}){{1,6}}")
_DEICTIC = re.compile(
    r"(?:当地|外地|外|我|本|该|某+|各|其[他它]|另一?家?|[一两三多几]家|上级|下级|基层|私人|私立"
    r"|个体|社区|附近的?|家附近|不同|此|大|小|院外|国内|国外|个人|正规)(?:[级乡镇县市省区村]"
    r"|人民|中心|中医|综合|专科|的|大|小型?|三甲){0,4}$"
)
_RUN = re.compile(r"[一-鿿A-Za-z0-9·]{0,20}$")
_EVIDENCE = re.compile(
    r"[省市县区州镇乡旗村盟]|第[一二三四五六七八九十\d]|\d{2,}|大学|医学院|学院|军|协和|同济"
    r"|华西|湘雅|齐鲁|瑞金|仁济|中山|西京|友谊|宣武|天坛|安贞|阜外|红十字"
)
_ORDINARY = re.compile(
    r"诊|治|疗|院|查|考虑|否认|患|感染|病|的|了|无|未|有|要求|继续|随|期间|专家|建议|应|可|需"
    r"|门|主动|时间|获得|发|生|服|药|回|嘱|自行|送|来|去|型|家"
)
_ANCHORED = re.compile(r"(?:在|于|到|至|往|赴|去|入|由|从|经|和|、|我县|我市|本县|本市|该县|该市)$")
_LOCAL = re.compile(r"(?:(?:当地|外地|本地|附近)的?(?=[一-鿿]{2,}[省市县区州镇乡村旗]))?")
_GONE_TO = r"(?:[在于到至往赴去入由从经回]|转|外院)"
_NUMERAL = r"第?[一二三四五六七八九十]"
_MAX_NAME = 20


def _hospitals(text: str) -> Iterator[tuple[int, int]]:
    for kind in _KIND.finditer(text):
        start = _name_start(text, kind.start())
        if text.startswith(("感染", "获得"), kind.end()):
            continue  # 医院感染
        start += len(_LOCAL.match(text[start : kind.start()])[0])  # pyright: ignore[reportOptionalSubscript]
        if start < kind.start() and _is_own_name(text, start, kind.start(), kind[0]):
            end = kind.end()
            branch = re.match(r"[一-鿿]{0,4}(?:院区|分院)", text[end:])
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


_INSTITUTION = re.compile(
    any_of(_TABLE["institutions"].split()) + "|[一二三四五六七八九]中(?![学医西心国年])"
)
_WORKS_THERE = re.compile(
    rf"[的,(]?(?:担?任|从事)?[一-鿿]{{0,3}}?(?:{any_of(_TABLE['occupations'].split())})"
    r"|[高初大研][一二三四]|[读上][一-鿿\d]{0,3}年级|[一二三四五六]年级|[做当]|[,。;)\s]|$"
)
_BEFORE_INSTITUTION = re.compile(r"[一-鿿]{2,16}$")
_TO_WORK = re.compile(
    r"(?:患者|患儿|本人|退休前|单位|学校|就读|就职|任职|供职|毕业|受雇|[务打]工|工作|[在系为是至到去]|(?<![助由对关基属处源致用适])于)+"
)
_PLACED = re.compile(
    r"[省市县区州镇乡旗](?=.)|(?<![一二三四五六七八九十\d])[一二三四五六七八九十\d]+$"
)
_SOME = re.compile(
    r"某|一[家所个]|私[人营]|当地|本地|外地|附近|我|该|本[市县省]|其|各|多家|[两几]家|小型|大型|集体|国[有营家]|自家|统一|[这那]"
)
_TRADE = re.compile(f"(?:{any_of(_TABLE['trades'].split())})*")


def _institutions(text: str) -> Iterator[tuple[int, int]]:
    """Find schools, employers and offices by their own name, where somebody learns or works."""
    for kind in _INSTITUTION.finditer(text):
        begin = max(0, kind.start() - 16)
        run = _BEFORE_INSTITUTION.search(text[begin : kind.start()])
        if run is None or not _WORKS_THERE.match(text, kind.end()):
            continue
        cuts = [cut.end() for cut in _TO_WORK.finditer(run[0])]
        name = run[0][cuts[-1] :] if cuts else run[0]
        before = text[max(0, begin + run.start() - 1) : begin + run.start()]
        is_told = bool(cuts) or before in ":("
        if len(name) < 2 or _SOME.search(name) or _TRADE.fullmatch(name):
            continue
        if _PLACED.search(name + kind[0][0]) or is_told:
            yield kind.start() - len(name), kind.end()


_KIND_AT_END = re.compile(f"(?:{_KIND.pattern})$")
_INSTITUTION_AT_END = re.compile(f"(?:{_INSTITUTION.pattern})$")
_FINE_AT_END = re.compile(
    r"(?:[镇乡村屯寨庄街巷弄]|(?<![径通尿气思旁线])路|街道|胡同|小区|花园|家园|社区)$"
)


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


_UNIT = r"(?:省|自治区|市|自治州|州|地区|盟|县|自治县|旗|镇(?![痛静咳吐惊肝定])|乡|街道|村)"
_FINE_UNIT = f"(?:{any_of(_TABLE['fine_units'].split())})"
_HOUSE = (
    r"(?:第?[一二三四五六七八九十\d]+(?:-\d+)*"
    r"(?:号院|号楼|号(?:附\d{1,3}号)?|栋|幢|座|弄|组|队|单元|室|楼|层|社)+)"
)
_LABELS = any_of(_TABLE["address_labels"].split())
_PLACE_WORD = re.compile(
    r"[省市县区州镇乡村路街巷弄号栋幢组屯旗]|小区|公司|厂|学校|大学|中学|小学|幼儿园|集团|局|部队"
)
_NO_PLACE = re.compile(
    any_of(_TABLE["no_place"].split()) + "|城市$|(?:^|本|该|等|当地)地区$|(?:^|[于在住])山区"
)


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
    return not _NO_PLACE.search(place) and (has_colon or bool(_PLACE_WORD.search(place)))


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
        if re.match(rf"[一-鿿]{{1,7}}?{_FINE_UNIT}[一-鿿\d]", text[start:end]):
            yield start, end


_FIRST_UNIT = re.compile(_UNIT)
_VERBS = re.compile(
    "(?:患者|患儿|本人)?(?:现?[与和随同跟][一-鿿]{1,3}?同住[于在]?)?[系为是]?(?:家|现|居|常|长期)?住?(?:居住)?[在于]?"
)
_STEP = "(?:(?!打工|务工|返乡|返回|回乡|回到|出差|旅游|居住|人[,。;因])[一-鿿])"
_CHAINS = by_pattern(
    rf"(?P<x>[一-鿿]{{1,8}}?{_UNIT}(?:{_STEP}{{1,9}}?{_FINE_UNIT}(?:村|社区"
    rf"|镇)?)+(?:[一-鿿\d]{{0,8}}?{_HOUSE})*|[一-鿿]{{1,8}}?{_UNIT}[一-鿿]{{0,6}}?{_HOUSE}+)",
    _is_chain,
    needs="省 市 县 镇 乡 村 街道 自治 旗 盟 州",
)

_DEPARTMENTS = any_of(_TABLE["departments"].split())
_DEPARTMENT = f"(?:(?:{_DEPARTMENTS})(?:外|内)?科?|[内外妇产儿骨眼]科?|ICU)"
_ROOM = r"\d{1,5}(?:-\d{1,5}){0,3}(?:室|号|房|栋|幢|座|楼|单元)?"

RULES: tuple[Rule, ...] = (
    *rules_of(
        Category.HOSPITAL,
        hospital=_hospitals,
        hospital_local=by_pattern(
            rf"(?P<x>(?:[省市县区州](?:(?:{_NUMERAL})?(?:人民|中医|中心|妇幼保健|妇幼|立|儿童|肿瘤"
            rf"|胸科|传染病|精神病|骨科|中西医结合){{1,2}}(?:医?院)|{_NUMERAL}(?:医?院|医))"
            rf"|(?:医大|附属?){_NUMERAL}院?)(?![级外内长前]|科|校)"
            r"|(?<=[在于到去至从往])(?:[一-鿿]{2,3}[市县省][一二三四五六](?=[医的做住看行复查])))",
            _is_local,
        ),
        hospital_short=rf"{_GONE_TO}(?P<x>{any_of(_TABLE['short_names'].split())})(?=[^一-鿿]|$"
        rf"|[就住治行查继复急门手诊做看开住会的转予给]|医院)",
        hospital_called=r"(?<=[在于到去至从往])(?P<x>[一-鿿]{2,7}?(?:(?:附|北|中山|医大)?[一二三四五六七八九]院|附[一二三四五])"
        r"|[一-鿿]{0,6}[省市县区](?:妇幼|妇保院?)|[一-鿿]{2,8}(?:大药房|药店))"
        r"(?=[就住治行查继复急门手诊做看开会的转予给产建买购输,。;]|$)",
    ),
    *rules_of(
        Category.WARD,
        ward=rf"(?=[{first_characters(_DEPARTMENTS)}内外I]){_DEPARTMENT}"
        r"(?:[一二三四五六七八九十]|\d{1,2})(?:病?区|病房|科)(?![一-鿿]?[域段会])",
        ward_in_building=by_pattern(
            r"(?:[一-鿿]{1,4}|[A-Z\d]号?)楼\d{1,2}[层楼][东西南北中]?[区侧]?", needs="楼"
        ),
        ward_numbered=by_pattern(
            r"第?[东西南北]?(?:(?:[一二三四五六七八九十]{1,3}|\d{1,2}[A-Za-z]?)楼?[东西南北]?"
            r"|[东西南北])[号楼]?(?:病区|病房|病室)",
            needs="病区 病房 病室",
        ),
    ),
    *rules_of(
        Category.ADDRESS,
        address_labelled=by_pattern(
            rf"(?:{_LABELS})(?P<colon>[:为是]?)\s*(?P<x>[^,。;:\s()“”\"]{{2,40}}?)(?=农村|的"
            rf"|(?<=[中小大]学)[高初大一二三四五六]|[,。;:\s()“”\"]|$)",
            _is_labelled_address,
        ),
        institution=_institutions,
        home=rf"(?<=[住在于])(?P<x>(?!(?:某|一家|一所|私|外|当地|本地|家|附近|了|该|本|集体|单位"
        rf"|学校|学生|职工|员工|工厂|教工|公司))[一-鿿]{{2,8}}(?:养老院|敬老院|福利院"
        rf"|养老公寓|宿舍)(?:\d*{_HOUSE})*)",
        address=_addresses,
        district=rf"(?:(?<=[于在住到至为系自是])"
        rf"|(?<![一-鿿]))(?P<x>[一-鿿]{{2,4}}区[一-鿿]{{2,6}}(?:街道|大街|大道"
        rf"|路\d)(?:\d*{_HOUSE})*)",
        postal_code=r"邮政?编码?\s*[:为是]?\s*(?P<x>\d{6})(?!\d)",
        home_with_number=rf"住[于在]?(?P<x>(?![院了])[一-鿿]{{3,20}}\d{{1,5}}(?:-\d{{1,5}}){{0,3}}(?:室|号|房|栋|幢)"
        rf"(?:\d*{_HOUSE})*)",
        home_in_estate=rf"(?<![一-鿿])(?P<x>[一-鿿]{{2,8}}(?:社区|小区|花园|家园|新村|新城|[苑邨])"
        rf"{_ROOM}(?:\d*{_HOUSE})*)",
        street=r"(?<=[于在住到至])(?![在于到至])[一-鿿]{2,6}(?:路|街|大道|巷|弄|胡同|小区|花园|村"
        r"|镇|乡)(?:\d+(?:号|栋|幢|弄|组|单元|室)+)+",
        home_in_block=by_pattern(
            r"(?<!\d)\d{1,3}(?:号楼|栋|幢)(?:\d{1,2}单元)?\d{2,4}室?(?![\d.%])", needs="号楼 栋 幢"
        ),
    ),
)
