"""Personal names: where one may stand, each place with how much it speaks for one, and whether what
stands there reads better as a name or as words, by the counts of jieba's dictionary.

In: normalised text. Out: spans, through `RULES`. Not done here: a name without any context, unless
`search` has met it elsewhere in the same case; English names, which are a tagger's.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from medkd.deidentify.rules import Table
from medkd.text.normalize import load_jieba

_TABLE = Table("names.yaml")
SURNAMES = frozenset(_TABLE["surnames"]) - {" "}
COMPOUND_SURNAMES = frozenset(_TABLE["compound_surnames"])
JAPANESE_SURNAMES = frozenset(_TABLE["japanese_surnames"])
_SOUNDS = frozenset(_TABLE["sounds"]) - {" "}
_FIRST = SURNAMES | _SOUNDS | {name[0] for name in COMPOUND_SURNAMES | JAPANESE_SURNAMES}
_TABLE.define(ANY_SURNAME=f"[{''.join(sorted(SURNAMES))}]", NAME_STARTS="".join(sorted(_FIRST)))
_SOUND = math.log(1 / len(_SOUNDS))
_UNSEEN = -14.0
_UNSEEN_GIVEN = -16.0
"""Log-probability of a character that no counted name or word holds."""
_ROLE_FREQUENCY = 1000
"""Of roles and titles that the dictionary lacks (管床, 三线)."""
_RARE_SURNAME = -12.0
_AT_START = 2.0
"""What it adds that a name begins where a clause does, in log-odds."""
_NO_END = frozenset("班科室院部组级线区床疹癌瘤疮症病肿痛")
"""Names do not end in these; wards, shifts, lists and diseases do."""
_LONGEST_WORD = 5
_FREQUENT = 30
"""From this frequency on, what the dictionary takes for a name of two characters is rather a word
(康复, 安静) or somebody famous."""
_HANZI_RUN = re.compile(r"[一-鿿]*")
_HANZI_AT_END = re.compile(r"[一-鿿]{0,8}$")


class _Counts(NamedTuple):
    """Log-probabilities of words, surnames and the characters of given names."""

    words: dict[str, float]
    surnames: dict[str, float]
    given: dict[str, float]
    nouns: frozenset[str]
    """Words that a clause does not end with behind a person's role, unless they name one."""


@cache
def _counts() -> _Counts:
    """Count jieba's dictionary: a word, its frequency and its part of speech in each line."""
    words: dict[str, int] = {}
    surnames: Counter[str] = Counter()
    given: Counter[str] = Counter()
    nouns: set[str] = set()
    with load_jieba().get_dict_file() as file:
        for line in file:
            word, frequency, tag = line.decode().split()
            if tag[0] in "nt" and len(word) == 2 and word[0] in SURNAMES:
                nouns.add(word)
            if not tag.startswith("nr") or (len(word) == 2 and int(frequency) >= _FREQUENT):
                words[word] = int(frequency)
            elif 2 <= len(word) <= 3 and word[0] in SURNAMES:
                surnames[word[0]] += 1
                given.update(word[1:])
    for row in ("titles", "others", "signed", "deeds"):
        for word in _TABLE.words(row):
            words.setdefault(word, _ROLE_FREQUENCY)
    n_words = sum(words.values())
    n_names, n_given = surnames.total(), given.total()
    return _Counts(
        {word: math.log(max(n, 1) / n_words) for word, n in words.items()},
        {name: math.log((surnames[name] + 1) / n_names) for name in SURNAMES},
        {character: math.log(n / n_given) for character, n in given.items()},
        frozenset(nouns),
    )


def is_word(text: str) -> bool:
    """Tell whether the dictionary has a text of two or more characters, and not as a name."""
    return len(text) > 1 and text in _counts().words


@lru_cache(maxsize=65536)
def as_words(text: str) -> float:
    """Compute the log-probability of the likeliest way to cut a text into words."""
    words = _counts().words
    best = [0.0]
    for end in range(1, len(text) + 1):
        choices = [best[end - 1] + words.get(text[end - 1], _UNSEEN)]
        choices += [
            best[start] + words[text[start:end]]
            for start in range(max(0, end - _LONGEST_WORD), end - 1)
            if text[start:end] in words
        ]
        best.append(max(choices))
    return best[-1]


def _as_surname(text: str) -> float:
    return -8.0 if text in COMPOUND_SURNAMES else _counts().surnames.get(text, -math.inf)


@lru_cache(maxsize=65536)
def as_name(text: str, any_surname: bool = False) -> float:
    """Compute the log-probability of a text as a name: a surname with a given name, a Japanese
    name, or the sounds that names of other peoples are written with; minus infinity for none."""
    choices = [-math.inf]
    if text[-1] in _NO_END:
        return choices[0]
    given = _counts().given
    if text[:2] in COMPOUND_SURNAMES and 3 <= len(text) <= 4:
        choices.append(-8.0 + sum(given.get(c, _UNSEEN_GIVEN) for c in text[2:]))
    if 2 <= len(text) <= 3 and (any_surname or text[0] in SURNAMES):
        length = math.log(0.8 if len(text) == 3 else 0.2)
        surname = _counts().surnames.get(text[0], _RARE_SURNAME)
        choices.append(length + surname + sum(given.get(c, _UNSEEN_GIVEN) for c in text[1:]))
    if 3 <= len(text) <= 5 and text[:2] in JAPANESE_SURNAMES:
        choices.append(-9.0 + sum(given.get(c, -9.0) for c in text[2:]))
    if 2 <= len(text) <= 8:
        choices.append(-2.0 + sum(_SOUND if c in _SOUNDS else _UNSEEN for c in text))
    return max(choices)


def run_at(text: str, start: int, longest: int = 10) -> str:
    """Take the Chinese characters from a place on."""
    return _HANZI_RUN.match(text, start, start + longest)[0]  # pyright: ignore[reportOptionalSubscript]


def name_until(text: str, end: int, prior: float, prior_alone: float) -> int:
    """Give the length of the name that ends at a place; 0 for none. A surname that stands alone has
    a prior of its own."""
    before = _HANZI_AT_END.search(text[max(0, end - 8) : end])[0]  # pyright: ignore[reportOptionalSubscript]
    plain = as_words(before)
    best, length = 0.0, 0
    for n in range(1, min(len(before), 8) + 1):
        name = before[-n:]
        is_surname = n == 1 or name in COMPOUND_SURNAMES
        is_head = n == len(before) < 8
        likelihood = _as_surname(name) if is_surname else as_name(name, any_surname=is_head)
        edge = _AT_START if is_head and not is_surname else 0.0
        score = (
            (prior_alone if is_surname else prior)
            + edge
            + likelihood
            + as_words(before[:-n])
            - plain
        )
        if score > best:
            best, length = score, n
    return length


_BLANK = frozenset(_TABLE["blank"])
_WHOLE_NAME = _TABLE.compile("{DOTTED}|{LATIN}")
_IN_BOTH = re.compile(r"\s?[(/]?\s?[A-Z]{2,}(?:,?\s[A-Z][a-z]+){1,2}\)?")
"""What may follow a name: the same in Latin letters, 陈大文 CHAN Tai Man."""

# Log-odds that a place gives a name before it is looked at; a name must outweigh words by the rest.
_PRIORS = {"patient": -5.0, "title": -1.5, "other": -1.0, "agent": -3.5, "kin": -2.0}
_KIN_ALONE, _AFTER_COMMA = -5.0, -3.0
_SHORT = 1.0
"""Two characters behind a patient are rather a finding: 窦停, 宫缩."""
_AFTER_LABEL, _AFTER_GAP, _BEFORE_TITLE, _BY, _SIGNED_BY = 8.0, 4.0, 1.0, 2.0, 5.0
_AT_EDGE, _BEFORE_ACT, _BEFORE_PARTICULARS = 3.0, 3.0, 8.0
_NOUN_ALONE = 3.5
"""What it adds that a noun is all that a clause says behind a role: 转出医生时光."""
_LONG_SOUNDS = 12.0
"""By how much four sounds or more must outweigh words behind a patient: 患者扎西卓玛."""

_PARTICULARS = _TABLE.compile("{PARTICULARS}")
_ACT = _TABLE.compile("{ACTS}")
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


def _name_after(text: str, start: int, prior: float, role: str = "") -> int:
    """Return the length of the name at a place, with what stands behind it weighed in; words may
    begin in the role before it: 子宫正常."""
    best, length = 0.0, 0
    run = run_at(text, start)
    if len(run) < 2 or run[:2] in _BLANK or _ACT.match(run):
        return 0
    if titled := _TITLES_FOUND.search(run):
        run = run[: titled.start()]
    is_weak = prior <= _PRIORS["patient"]
    is_foreign = is_weak and run[0] not in SURNAMES and not _PEOPLES.search(text)
    if (
        prior >= _PRIORS["title"]
        and not _DEED.fullmatch(role)
        and run in _counts().nouns
        and not "一" <= text[start + 2 : start + 3] <= "鿿"
    ):
        prior += _NOUN_ALONE
    plain = as_words(run)
    if role and text.startswith(role, start - len(role)):
        plain = max(plain, as_words(role + run) - as_words(role))
    for n in range(4 if is_foreign else 2, min(len(run), 8) + 1):
        gain = as_name(run[:n]) + as_words(run[n:]) - plain + _follow_up(text, start + n)
        score = prior + gain - (_SHORT if is_weak and n == 2 else 0.0)
        if is_foreign and gain < _LONG_SOUNDS:
            continue
        if score > best:
            best, length = score, n
    return length


def _with_latin(text: str, start: int, end: int) -> tuple[int, int]:
    both = _IN_BOTH.match(text, end)
    return start, both.end() if both else end


_ROLES = _TABLE.compile("{ROLES}")
_TO_NAME = _TABLE.compile("{LINK}")


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
            length = _name_after(text, start, prior + distance, role[0])
            if length and not _NAMED_AFTER.match(text, start + length):
                yield _with_latin(text, start, start + length)
                break


_DEED = re.compile("报告|通知|转告|叫做|[审复]核|[核校]对|录入|阅片|审签")
_NAMED_AFTER = re.compile(
    "效应|定律|综合[征症]|现象|试验|实验|评分|量表|学说|理论|法则|氏"
    r"|替尼|单抗|他汀|沙坦|洛尔|普利|西林|沙星|霉素|地平|[拉洛]唑"
    r"|病(?![情重危史人故逝程房区室历例因理了倒假急])"
)
"""What bears the name of who found it."""
_LATIN_NAME = _TABLE.compile("{LATIN_NAME}")
_LABEL = _TABLE.compile("{LABEL}")
_NAMED = _TABLE.compile("{NAMED_FIELD}")
_ITEM = _TABLE.compile("{ITEM}")
_TITLED = _TABLE.compile("{TITLED}")
_LATIN_BEHIND = re.compile(r"[A-Za-z\d]")
_NEXT = re.compile(r"\s*[、,/;和及与]\s*|[ \t]+")


def _names_after_labels(text: str) -> Iterator[tuple[int, int]]:
    """Find the names behind a label, one or a list: 手术者:李勇、王芳副主任医师, 复核:庾国强."""
    for named in _NAMED.finditer(text):
        if not is_blank(named["x"]):
            yield _with_latin(text, *named.span("x"))
    for label in _LABEL.finditer(text):
        position = label.end()
        prior = 0.0 if label["deed"] else _AFTER_GAP
        if ":" in label[0]:
            prior = _AFTER_LABEL if label["deed"] else _AFTER_LABEL + 4
        while item := _ITEM.match(text, position):
            is_first = position == label.end()
            if not is_first and _LATIN_BEHIND.match(text, item.end()):
                break  # a term: 全口PD
            length = _labelled_length(item[0], prior if is_first else _AFTER_GAP)
            if length:
                yield _with_latin(text, position, position + length)
            elif item[0] not in _TITLES:
                break
            following = _NEXT.match(text, item.end())
            if following is None:
                break
            position = following.end()


_TITLES = frozenset(_TABLE.words("titles"))


def _labelled_length(item: str, prior: float) -> int:
    """Return the length of the name in a field that ends with it or with a title."""
    if is_blank(item):
        return 0
    if not "一" <= item[0] <= "鿿" or "·" in item or "•" in item:
        return len(item)
    titled = _TITLED.search(item, 1)
    name = item[: titled.start()] if titled else item
    if len(name) == 1:
        is_signed = titled is not None or prior > _AFTER_LABEL  # 报告:阳
        return int(name in SURNAMES and is_signed)
    likelihood = as_name(name, any_surname=True) - as_words(name)
    return len(name) if len(name) <= 8 and prior + likelihood > 0 else 0


def _names_before_titles(text: str) -> Iterator[tuple[int, int]]:
    """Find the name in front of a title, or a surname alone: 请心内科陈明教授, 王主任."""
    for title in _TITLES_FOUND.finditer(text):
        end = title.start()
        is_acting = _ACT.match(text, title.end()) is not None
        is_headed = (
            end < 2
            or not "一" <= text[end - 2] <= "鿿"
            or text[end - 2] in "请由经找问叫给转嘱院科"
        )
        alone = (0.0 if is_headed else -3.0) + (2.0 if is_acting else 0.0)
        if length := name_until(text, end, _BEFORE_TITLE, alone):
            yield end - length, end


_TITLES_FOUND = _TABLE.compile("{TITLES_FOUND}")
_HEAD = _TABLE.compile("{HEAD}")


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
        is_sure = is_of_people or head[0].removesuffix(name) in _PATIENTS
        if is_sure:
            prior = _BEFORE_PARTICULARS
        if as_name(name, any_surname=is_sure) + prior > as_words(name):
            yield begin + head.start("x"), particulars.start()


_PATIENTS = frozenset(_TABLE.words("patients"))
_SIGNATURE = _TABLE.compile("{SIGNATURE}")


def _signatures(text: str) -> Iterator[tuple[int, int]]:
    """Find who signs in brackets or at the end of a text: (李建国记录), /沈逸飞."""
    for signature in _SIGNATURE.finditer(text):
        name = signature["x"]
        is_said = signature.end("x") != signature.end()
        is_apart = text[signature.start()] == "/" or text[max(0, signature.start() - 1)] < "一"
        if not (is_said or is_apart):
            continue  # 多趾(左足)
        if name not in _BLANK and as_name(name) + (_SIGNED_BY if is_said else 0.0) > as_words(name):
            yield signature.span("x")


_BY_WHOM = re.compile(r"(?:由(?!于[一-鿿]{1,2}[因系])|请)(?=[一-鿿])")
_AND = re.compile(r"[、和及与](?=[一-鿿])")
_DOES = _TABLE.compile("{DOES}")


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
_ROW_HINT = re.compile(r"[号床岁男女]|科室|病区|\d{6}|[|\t][FM][|\t]")


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


_TOLD = _TABLE.compile("{TOLD}")
_TAKEN = re.compile(r"(?:服|予|用|停|加|滴|注射|联合)\s?$")
_TAGGED_AS_TOLD = 7.0
"""What it adds that a tagger takes for a name what stands behind a title, a relation or a label."""


def name_in_place(text: str, start: int, end: int) -> int:
    """Return the length of the name that a tagger proposes; 0 where none is plausible.

    It is behind a title, a relation or a label; or with a surname, at the end of a clause or before
    an act, and in no list of drugs.
    """
    name, before = text[start:end], text[max(0, start - 1) : start]
    if name in _BLANK or len(name) > 4 or "、" in (before, text[end : end + 1]):
        return 0
    if name[-1] in "氏征音" or text[end : end + 1] in {"氏", "征", "-"}:
        return 0
    if _TAKEN.search(text, max(0, start - 4), start):
        return 0
    if _TOLD.search(text, max(0, start - 8), start):
        if len(name) == 1:  # cut behind its surname
            return _name_after(text, start, _BY)
        return len(name) if as_name(name) + _TAGGED_AS_TOLD > as_words(name) else 0
    is_headed = not "一" <= before <= "鿿"
    if len(name) < 2 or not _follow_up(text, end):
        return 0
    if name[0] not in SURNAMES or (len(name) == 2 and not is_headed):
        return len(name) * (is_whole_name(name) and _PEOPLES.search(text) is not None)
    return len(name) * (as_name(name) > as_words(name) + (4 if len(name) == 2 else 1))


def is_whole_name(word: str) -> bool:
    """Tell whether a word between two marks could be somebody's name.

    >>> [is_whole_name(word) for word in ("柏林", "欧阳雨薇", "乌云其其格", "主任", "高血压")]
    [False, True, True, False, False]
    """
    return _WHOLE_NAME.fullmatch(word) is not None or (
        2 <= len(word) <= 8 and as_name(word) > as_words(word)
    )


def is_ordinary_name(name: str) -> bool:
    """Tell whether a name would also be met as an ordinary word, so that it cannot be looked for
    without context."""
    return len(name) < 2 or is_word(name) or ("一" <= name[0] <= "鿿" and not is_whole_name(name))


def _is_likely_name(match: re.Match[str]) -> bool:
    return not is_blank(match["x"]) and as_name(match["x"]) > as_words(match["x"])


def _is_no_word(match: re.Match[str]) -> bool:
    return not is_word(match["x"])


def _could_be_name(match: re.Match[str]) -> bool:
    return match["x"] not in _TITLES and as_name(match["x"]) + _AFTER_GAP > as_words(match["x"])


RULES = _TABLE.rules(
    _names_after_labels,
    _is_dotted_name,
    _names_before_particulars,
    _names_after_roles,
    _names_before_titles,
    _signatures,
    _is_likely_name,
    _is_no_word,
    _could_be_name,
    _names_of_actors,
    _names_in_rows,
)
