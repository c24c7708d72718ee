"""Rules for personal names: places where a name may stand, each with how much it speaks for one;
`name_model` weighs what stands there against ordinary words.

In: normalised text. Out: spans, through `RULES`. Not done here: a name without any context, unless
`search` has met it elsewhere in the same case; English names, which are a tagger's.
"""

import re
from collections.abc import Iterator

from medkd.deidentify.name_model import (
    NAME_STARTS,
    SURNAMES,
    as_name,
    as_words,
    is_word,
    name_until,
    run_at,
)
from medkd.deidentify.rules import (
    Category,
    Rule,
    any_of,
    first_characters,
    load_table,
    pattern_rule,
)

_TABLE = load_table("names.yaml")
_TITLE = any_of(_TABLE["titles"].split())
_BLANK = frozenset(_TABLE["blank"])
_ANY_SURNAME = f"[{''.join(sorted(SURNAMES))}]"
DOTTED = r"[一-鿿]{2,8}(?:[·•][一-鿿]{1,8}){1,3}"
"""A name such as 古丽娜尔·艾合买提."""
LATIN = r"[A-Z][a-z]+(?:\s[A-Z]\.)?(?:[\s-][A-Z][a-z]+){1,2}"
_IN_BOTH = re.compile(r"\s?[(/]?\s?[A-Z]{2,}(?:,?\s[A-Z][a-z]+){1,2}\)?")
"""What may follow a name: the same in Latin letters, 陈大文 CHAN Tai Man."""

# Log-odds that a place gives a name before it is looked at; a name must outweigh words by the rest.
_PRIORS = {"patient": -5.0, "title": -1.5, "other": -1.0, "agent": -3.5, "kin": -2.0}
_KIN_ALONE, _AFTER_COMMA = -5.0, -3.0
_SHORT = 1.0
"""Two characters behind a patient are rather a finding: 窦停, 宫缩."""
_AFTER_LABEL, _AFTER_GAP, _BEFORE_TITLE, _BY, _SIGNED_BY = 8.0, 4.0, 1.0, 2.0, 5.0
_AT_EDGE, _BEFORE_ACT, _BEFORE_PARTICULARS = 3.0, 3.0, 8.0

_PARTICULARS = re.compile(
    r"\s?[,(、/|:]\s?(?:[男女](?![方友儿朋])|\d{1,3}\s?岁|(?:性别|年龄|身份证|家住|住址|现住|电话|民族"
    r"|[一-鿿]{1,4}[族籍]))|\s(?:[男女]|\d{1,3}岁)|性别|年龄|(?:[男女][,性])"
)
_ACT = re.compile(any_of(_TABLE["acts"]))
_EDGE = re.compile(r"[^一-鿿A-Za-z\d]|$")
_PEOPLES = re.compile(r"[一-鿿]{1,5}(?<![汉家民亲水种氏])族|[一-鿿]{2,5}籍|外籍|国籍|护照")


def is_blank(value: str) -> bool:
    """Tell whether a field holds a word that says that nobody is named."""
    return value in _BLANK or value[:2] in _BLANK or value in _TITLES


def _follow_up(text: str, end: int) -> float:
    """Weigh what stands behind a name."""
    if _PARTICULARS.match(text, end):
        return _BEFORE_PARTICULARS
    if _ACT.match(text, end):
        return _BEFORE_ACT
    return _AT_EDGE if _EDGE.match(text, end) else 0.0


def _name_after(text: str, start: int, prior: float) -> int:
    """Return the length of the name at a place, with what stands behind it weighed in."""
    best, length = 0.0, 0
    run = run_at(text, start)
    if len(run) < 2 or run[:2] in _BLANK or _ACT.match(run):
        return 0
    if titled := _TITLES_FOUND.search(run):
        run = run[: titled.start()]
    is_weak = prior <= _PRIORS["patient"]
    if is_weak and run[0] not in SURNAMES and not _PEOPLES.search(text):
        return 0
    plain = as_words(run)
    for n in range(2, min(len(run), 8) + 1):
        gain = as_name(run[:n]) + as_words(run[n:]) - plain + _follow_up(text, start + n)
        score = prior + gain - (_SHORT if is_weak and n == 2 else 0.0)
        if score > best:
            best, length = score, n
    return length


def _with_latin(text: str, start: int, end: int) -> tuple[int, int]:
    both = _IN_BOTH.match(text, end)
    return start, both.end() if both else end


_KIN_PREFIX = "大小二三四五六七八九老幺长次独继养义干堂表外叔伯岳祖曾太亲阿弟侄甥儿孙未婚双前男女"
_KIN_BASE = (
    "父亲|母亲|爸爸|妈妈|爷爷|奶奶|姥姥|姥爷|哥哥|弟弟|姐姐|妹妹|叔叔|伯伯|舅舅|姑姑|婶婶|儿子|女儿"
    "|妻子|丈夫|配偶|爱人|老公|老婆|老伴|儿媳|女婿|外甥女?|侄[子女儿]|孙[子女]|男友|女友|朋友|夫妻"
    "|妯娌|连襟|亲家|父|母|爸|妈|爷|奶|爹|娘|妻|夫|兄|弟|姐|妹|哥|子|女|孙|甥|侄|媳|婿|嫂|婶|姨"
    "|姑|舅|叔|伯|公|婆|儿"
)
_KIN = rf"[{_KIN_PREFIX}]{{0,2}}(?:{_KIN_BASE})"
_KIN_EDGE = r"(?:(?<![一-鿿])|(?<=[其之与和及由经我他她的叫为系])|(?<=患者)|(?<=患儿)|(?<=病人))"
_OTHERS = any_of(_TABLE["others"].split())
_PATIENTS = any_of(_TABLE["patients"])
_LINK = r"\s?(?:姓名|名叫|叫做|名|叫|[系是为即])?\s?[:,(\"“]?\s?"
_NAME_STARTS = f"(?={_LINK}(?:[{NAME_STARTS}][一-鿿]|[A-Z][a-z]))"
_ROLES = re.compile(
    rf"(?=[{first_characters(_PATIENTS + '|' + _TITLE + '|' + _OTHERS)}])"
    rf"(?:(?P<patient>{_PATIENTS})|(?P<title>{_TITLE})|(?P<other>{_OTHERS})){_NAME_STARTS}"
    rf"|床(?<=\d床){_NAME_STARTS}|(?=[{first_characters(_KIN_BASE)}{_KIN_PREFIX}]){_KIN_EDGE}"
    rf"(?P<kin>{_KIN}){_NAME_STARTS}|[人者员](?<=[一-鿿]{{3}})(?P<agent>){_NAME_STARTS}"
)
_TO_NAME = re.compile(_LINK)


def _names_after_roles(text: str) -> Iterator[tuple[int, int]]:
    """Find the names behind a role: 患者李建国因, 其子王小军, 三线马腾空, 翻译阿依古丽."""
    for role in _ROLES.finditer(text):
        prior = _PRIORS[role.lastgroup or "patient"]
        if len(role[0]) == 1 and role.lastgroup == "kin" and text[role.start() - 1] not in "其之":
            prior = _KIN_ALONE
        linked = _TO_NAME.match(text, role.end()).end()  # pyright: ignore[reportOptionalMemberAccess]
        for start in sorted({role.end(), linked}, reverse=True):
            if latin := _LATIN_NAME.match(text, start):
                yield latin.span()
                break
            distance = _AFTER_COMMA if "," in text[role.end() : start] else 0.0
            if length := _name_after(text, start, prior + distance):
                yield _with_latin(text, start, start + length)
                break


_LATIN_NAME = re.compile(rf"{LATIN}(?=\s*(?:[,。;(男女、]|因|于|诉|$))")
_SIGNED = any_of(_TABLE["signed"].split())
_DEEDS = any_of(_TABLE["deeds"].split())
_LABEL = re.compile(
    rf"(?=[{first_characters(_DEEDS + '|' + _SIGNED)}])(?:(?P<deed>{_DEEDS})|{_SIGNED})"
    r"(?:签名|签字|姓名)?(?:\([^()]{1,6}\))?(?:\s*:\s*|[ \t]+|[ \t]*\n[ \t]*)"
)
_NAMED = re.compile(
    rf"(?:{any_of(_TABLE['named'])})[\s|]*[:为是叫]?[\s|]*[“\"]?(?P<x>{DOTTED}|[一-鿿]{{2,6}}?|{LATIN})"
    r"(?=[^一-鿿·]|$|性别|年龄|男|女|民族|职业)"
)
_ITEM = re.compile(rf"{DOTTED}|[一-鿿]{{1,12}}|{LATIN}")
_TITLED = re.compile(rf"(?:副?(?:{_TITLE})|[记签报录]$)")
_NEXT = re.compile(r"\s*[、,/;和及与]\s*|[ \t]+")


def _names_after_labels(text: str) -> Iterator[tuple[int, int]]:
    """Find the names behind a label, one or a list: 手术者:李勇、王芳副主任医师, 复核:庾国强."""
    for named in _NAMED.finditer(text):
        if not is_blank(named["x"]):
            yield _with_latin(text, *named.span("x"))
    for label in _LABEL.finditer(text):
        position = label.end()
        prior = _AFTER_GAP
        if ":" in label[0]:
            prior = _AFTER_LABEL if label["deed"] else _AFTER_LABEL + 4
        while item := _ITEM.match(text, position):
            length = _labelled_length(item[0], prior if position == label.end() else _AFTER_GAP)
            if length:
                yield _with_latin(text, position, position + length)
            elif item[0] not in _TITLES:
                break
            following = _NEXT.match(text, item.end())
            if following is None:
                break
            position = following.end()


_TITLES = frozenset(_TABLE["titles"].split())


def _labelled_length(item: str, prior: float) -> int:
    """Return the length of the name in a field that ends with it or with a title."""
    if is_blank(item):
        return 0
    if not "一" <= item[0] <= "鿿" or "·" in item or "•" in item:
        return len(item)
    titled = _TITLED.search(item, 1)
    name = item[: titled.start()] if titled else item
    if len(name) == 1:
        return int(name in SURNAMES and titled is not None)
    likelihood = as_name(name, any_surname=True) - as_words(name)
    return len(name) if len(name) <= 8 and prior + likelihood > 0 else 0


def _names_before_titles(text: str) -> Iterator[tuple[int, int]]:
    """Find the name in front of a title, or a surname alone: 请心内科陈明教授, 王主任."""
    for title in _TITLES_FOUND.finditer(text):
        end = title.start()
        is_acting = _ACT.match(text, title.end()) is not None
        is_headed = (
            end < 2 or not "一" <= text[end - 2] <= "鿿" or text[end - 2] in "请由经找问叫给转嘱"
        )
        alone = (0.0 if is_headed else -3.0) + (2.0 if is_acting else 0.0)
        if length := name_until(text, end, _BEFORE_TITLE, alone):
            yield end - length, end


_TITLES_FOUND = re.compile(
    rf"(?=[副代{first_characters(_TITLE)}])(?<=[一-鿿])[副代]?(?:{_TITLE})(?!班)"
)
_HEAD = re.compile(
    rf"(?:^|[\s,。;:、|/(【\]】)\"“→]|患者|患儿|病人)(?P<x>(?!{_PATIENTS})[一-鿿]{{2,8}})$"
)


def _names_before_particulars(text: str) -> Iterator[tuple[int, int]]:
    """Find a name at the head of a clause: 李建国,男,56岁."""
    for particulars in _PARTICULARS.finditer(text):
        begin = max(0, particulars.start() - 11)
        head = _HEAD.search(text[begin : particulars.start()])
        if head is None or is_blank(head["x"]):
            continue
        name = head["x"]
        prior = _BEFORE_PARTICULARS if name[0] in SURNAMES else 2.0
        after = text[particulars.start() : particulars.end() + 12]
        is_of_people = _PEOPLES.search(after) is not None
        if is_of_people:
            prior = _BEFORE_PARTICULARS
        if as_name(name, any_surname=is_of_people) + prior > as_words(name):
            yield begin + head.start("x"), particulars.start()


_SIGNATURE = re.compile(
    r"(?:[(【\[/]\s?|(?<=[。;]))(?P<x>[一-鿿]{2,4}?)\s?(?:(?:代?[签记录写]|记录|书写|整理|执笔|审阅|审签|报告)"
    r"\s?[)】\]\n]|(?=\s*[)】\]]?\s*(?:$|\n)))"
)


def _signatures(text: str) -> Iterator[tuple[int, int]]:
    """Find who signs in brackets or at the end of a text: (李建国记录), /沈逸飞."""
    for signature in _SIGNATURE.finditer(text):
        name = signature["x"]
        is_said = signature.end("x") != signature.end()
        if name not in _BLANK and as_name(name) + (_SIGNED_BY if is_said else 0.0) > as_words(name):
            yield signature.span("x")


_BY_WHOM = re.compile(r"[由请](?=[一-鿿])")
_AND = re.compile(r"[、和及与](?=[一-鿿])")
_DOES = re.compile(rf"{_ACT.pattern}|[一-鿿]{{0,5}}(?:送|陪|扶|抬|背|代|查房|会诊)")


def _names_of_actors(text: str) -> Iterator[tuple[int, int]]:
    """Find who does something: 由曲波、于占海送来, 本病历由盛开书写."""
    for by in _BY_WHOM.finditer(text):
        names: list[tuple[int, int]] = []
        position = by.end()
        while length := _name_after(text, position, _BY):
            names.append((position, position + length))
            following = _AND.match(text, position + length)
            if following is None:
                break
            position = following.end()
        if names and _DOES.match(text, names[-1][1]):
            yield from names


_FIELD = re.compile(r"(?:(?<=[ \t|])|(?<=^))(?P<x>[一-鿿]{2,4})(?=[ \t|])")
_ROW_HINT = re.compile(r"[号床岁男女]|科室|病区")


def _names_in_rows(text: str) -> Iterator[tuple[int, int]]:
    """Find a name that stands by itself in a row of fields: 住院号0998812 王建国 神经外科."""
    for field in _FIELD.finditer(text):
        around = text[max(0, field.start() - 30) : field.end() + 30]
        if (
            field["x"] not in _BLANK
            and as_name(field["x"]) > as_words(field["x"]) + 2
            and _ROW_HINT.search(around)
        ):
            yield field.span("x")


def _is_dotted_name(match: re.Match[str]) -> bool:
    """Accept 买买提江·吐尔逊; leave 拉姆齐·亨特综合征."""
    return re.search(
        "综合[征症]|[病征症法氏型]$|现象|试验|反射", match["x"]
    ) is None and not re.match(
        "综合[征症]|[病征症法氏型]|现象|试验|反射|瘤|骨折|手术|评分|量表",
        match.string[match.end() : match.end() + 3],
    )


_EPONYM = re.compile(r"氏|[征病试综现反音线法式术菌瘤骨点管钉手肌骨]|[IVXⅠⅡ]{1,3}型")


def is_eponym(text: str, end: int) -> bool:
    """Tell whether what ends at a place is the first part of a sign, a disease or a method."""
    return text[end - 1 : end] == "氏" or _EPONYM.match(text, end) is not None


def is_name_in_place(text: str, start: int, end: int) -> bool:
    """Tell whether a name that a tagger proposes is plausible where it stands: with a surname, at
    the end of a clause or before an act, and in no list of drugs."""
    name, before = text[start:end], text[max(0, start - 1) : start]
    is_headed = not "一" <= before <= "鿿"
    follow_up = _follow_up(text, end)
    if not 2 <= len(name) <= 4 or not follow_up or "、" in (before, text[end : end + 1]):
        return False
    if name[0] not in SURNAMES or (len(name) == 2 and not is_headed):
        return is_whole_name(name) and _PEOPLES.search(text) is not None
    return as_name(name) > as_words(name) + (4 if len(name) == 2 else 1)


def is_whole_name(word: str) -> bool:
    """Tell whether a word between two marks could be somebody's name.

    >>> [is_whole_name(word) for word in ("柏林", "欧阳雨薇", "乌云其其格", "主任", "高血压")]
    [False, True, True, False, False]
    """
    return re.fullmatch(f"{DOTTED}|{LATIN}", word) is not None or (
        2 <= len(word) <= 8 and as_name(word) > as_words(word)
    )


def is_ordinary_name(name: str) -> bool:
    """Tell whether a name would also be met as an ordinary word, so that it cannot be looked for
    without context."""
    return len(name) < 2 or is_word(name) or ("一" <= name[0] <= "鿿" and not is_whole_name(name))


_KIN_TITLE = (
    "(?:[大小二三四五六七八九老]?(?:婶|姨|姑|舅|叔|伯|嫂|哥|姐|爷|奶奶|婆|妈|娘)"
    "|老[大二三四五六七八九幺])"
)

RULES: tuple[Rule, ...] = (
    Rule("name_labelled", Category.NAME, _names_after_labels),
    pattern_rule(
        "name_dotted",
        Category.NAME,
        rf"(?:(?<![一-鿿·])|(?<=[由与和对]))(?:{_PATIENTS}|{_OTHERS}|其?{_KIN})?(?P<x>{DOTTED})",
        ("·", "•"),
        _is_dotted_name,
    ),
    Rule("name_before_particulars", Category.NAME, _names_before_particulars),
    Rule("name_after_role", Category.NAME, _names_after_roles),
    Rule("name_before_title", Category.NAME, _names_before_titles),
    Rule("name_signature", Category.NAME, _signatures),
    pattern_rule(
        "name_before_signing",
        Category.NAME,
        r"(?<![一-鿿])(?P<x>[一-鿿]{2,4})(?=(?:记录|书写|审阅|审核|整理|执笔|签名|代签)(?![一-鿿]))",
        ("记录", "书写", "审", "整理", "执笔", "签"),
        lambda m: not is_blank(m["x"]) and as_name(m["x"]) > as_words(m["x"]),
    ),
    pattern_rule(
        "name_signed_below",
        Category.NAME,
        r"(?:[院科室部]|中心)[ \n]+(?P<x>[一-鿿]{2,4})(?=[ ]*(?:$|\n|[12]\d{3}[-年./]"
        r"|通[讯信]|电话|邮箱|手机|E-?mail))",
        ("院", "科", "室", "部", "中心"),
        lambda m: as_name(m["x"]) + _AFTER_GAP > as_words(m["x"]),
    ),
    Rule("name_of_actor", Category.NAME, _names_of_actors),
    Rule("name_in_row", Category.NAME, _names_in_rows),
    pattern_rule(
        "name_familiar",
        Category.NAME,
        rf"(?=[{first_characters(_OTHERS + '|' + _PATIENTS)}与和被由])"
        rf"(?:{_OTHERS}|{_PATIENTS}|[与和被由])[“\"]?(?P<x>[老小阿]{_ANY_SURNAME}(?![一-鿿]?[病型性])"
        rf"(?=[发见将把送陪说来在帮打叫扶背代同的家诉述]|{_EDGE.pattern})"
        rf"|{_ANY_SURNAME}{_KIN_TITLE})",
    ),
    pattern_rule("name_of_pupil", Category.NAME, r"[小阿][一-鿿](?=同学)", ("同学",)),
    pattern_rule(
        "name_masked",
        Category.NAME,
        rf"(?P<x>{_ANY_SURNAME}(?:某{{1,3}}(?![医院地日种些个次科县市年月药病处类原天人])"
        rf"|[×*○〇]{{1,3}}|[xX]{{2,3}}))(?![A-Za-z\d])",
        ("某", "xx", "XX", "×", "*", "○", "〇"),
    ),
)
