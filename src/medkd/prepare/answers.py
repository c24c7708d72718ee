"""The words that would give a case's answer away.

In: the diagnoses of a case. Out: its `Answer`: the names as listed and the names derived from them,
in a plain form without punctuation. Not done here: finding and removing them (`scrub`), grading
(`grading.diagnosis`).

>>> answer = name_answer(["2.高血压病3级（很高危）"])
>>> sorted(answer.listed), "高血压病" in answer.derived, "高血压" in answer.derived
(['高血压病3级很高危'], True, True)
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from medkd.prepare.words import AnswerWords, load_words, make_plain
from medkd.text.diagnoses import clean_diagnosis, split_diagnoses

_BRACKETS = re.compile(r"[（(]([^（）()]*)[）)]")
_JOINTS = re.compile(
    r"[，,、；;/?？。：:]|(?<=[一-鿿）)])\s+|\s+(?=[一-鿿])|伴有?|合并|并发?|及|和|与|导致的?|所致的?|引起的?"
)
_PREFIX = re.compile(
    r"^(?:(?i:(?:acute|chronic|subacute|severe|mild|moderate|left|right|bilateral|primary|secondary|recurrent|suspected) )|"
    r"[左右双两][侧眼]?|小儿|婴幼?儿|儿童|成人|老年性?|妊娠期|急性|重症|(?:[A-Za-z]{1,20}\s){0,3}[A-Za-z]{0,20}?[A-Z\dIVXⅠ-Ⅳ]{1,3}\s?型|(?:细菌|病毒|真菌|化脓|感染|自身免疫|药物|酒精|缺血|外伤|创伤|先天|遗传|获得|[良恶]|浸润|转移|坏死|粘连|嵌顿|反流|萎缩|糜烂|弥漫|局限|系统|急性化脓|免疫|过敏|非?特异)性(?=[一-鿿]{3})|亚急性|慢性|陈旧性?|继发性|原发性|特发性|[轻中重]度|[少中大]量|早期|晚期|多发性?|复发性?|难治性|反复|间断|阵发性|持续性?|频发性?|偶发|广泛|完全性|不完全性|IVIG无应答型|无应答型|[12一二ⅠⅡI]{1,2}型|心功能(?:不全)?[IVXⅠ-Ⅳ1-4一二三四]+级)"
)
_ENGLISH_END = re.compile(
    r"(?:itis|oma|emia|osis|pathy|disease|syndrome|infarction|failure|cancer|fracture|stroke|pneumonia|embolism|asthma|diabetes|mellitus|"
    r"hemorrhage|bleeding|infection|tuberculosis|effusion|insufficiency|stenosis|aneurysm|ulcer|stones?)$"
)
_INSIDE = re.compile(
    r"(?<=[一-鿿])(?:[上中下]段|[左右双]侧?|[远近]端|[上下]端|[一-鿿]{1,2}部(?=妊娠))"
)
"""Where in an organ, said in the middle of a name."""
_TISSUE = re.compile(
    r"(?<=[一-鿿])(?:乳头状|滤泡状?|髓样|鳞状?细胞|腺鳞|鳞|(?<=[肺胃肠宫囊管])腺|非?小细胞|大细胞|肝?细胞|浸润性?|导管|小叶|透明细胞|移行细胞|尿路上皮|内膜样|浆液性|黏液性?|[未低中高]分化)+(?=癌$)"
)
"""What a cancer is made of: records call 肺腺癌 肺癌, and 肺Ca."""
_HEAD = re.compile(
    r"(?:心肌梗[死塞]|脑梗[死塞]|脑出血|心绞痛|呼吸衰竭|心力衰竭|肾衰竭|阑尾炎|胰腺炎|胆囊炎|脑膜炎|心肌炎|肺栓塞|肺结核)$"
)
"""The disease itself at the end of a longer name: it stands alone as often as the whole."""
_SUFFIX = re.compile(
    r"(?:(?:[IVXⅠ-Ⅳ]+|[\d一二三四])[级期度型]|[很极]?高危组?|[中低]危组?|急性加重期?|急性发作期?|活动期|缓解期|失?代偿期|(?:术|治疗|化疗|放疗|放化疗|植入|置换|消融|造影)后|早期|晚期|终末期|恢复期|后遗症期?|待[查排]|查因|可能性?大?|不[能可]?除外|[轻中重]度|[大小]三阳|痰涂.*|痰培养.*|[IVX]+)$"
)
_DISEASE_END = re.compile(
    r"(?:病|炎|癌|瘤|症|征|疹|疝|疮|癣|痔|痫|热|中风|痛风|哮喘|结石|骨折|梗死|梗塞|出血|感染|积液|积水|积脓|肥大|增生|硬化|衰竭|不全|狭窄|畸形|损伤|结核|血压|贫血|中毒|脓肿|囊肿|息肉|溃疡|紊乱|障碍|缺损|缺失|失常|颤动|扑动|早搏|收缩|过速|过缓|阻滞|停[搏博]|扩张|脱垂|梗阻|穿孔|血栓|栓塞|水肿|气肿|气胸|大泡|纤维化|萎缩|脱位|不正|弱视|云翳|前膜|白内障|青光眼|肌桥|戒断|昏迷|休克|麻痹|结节|肿大|逸搏|不齐|旁道|双径路|毁损肺|断裂|撕裂|套叠|填塞|压塞|突出|扭转|嵌顿|坏死|痉挛|瘫痪|妊娠|无力|潴留|反流|瘘|积血|血肿|脓胸|发作|粘连|狼疮|病变型?|房颤|房扑|室早|房早|室速|房速|三阳|血症|淋巴瘤|形成|破裂|夹层|缺血|不良|减退|亢进|减少|增多|升高|降低|异常|综合征|综合症)$"
)
_SEAM = re.compile(
    r"(?:病|炎|癌|瘤|结石|骨折|梗死|出血|衰竭|不全|结核|高血压|贫血|缺损|失常|颤动|早搏|收缩|过速|过缓|阻滞|停[搏博]|积液|气胸|气肿|大泡|硬化|房颤|房扑|室颤|室早|房早|室速|逸搏|综合征|综合症|术后)(?=[^性后伴并合术病引所导致期型级及和与部区样灶症史综或毒变原理人因肿态（(、，,；;）)\d\s。？?][^（(、，,；;）)\s。？?])"
)


class Answer(NamedTuple):
    """Plain names of what a case is diagnosed with."""

    listed: frozenset[str]
    """As listed: none of these may remain, wherever it stands."""
    derived: frozenset[str]
    """Parts, short forms and synonyms: they go where they state the diagnosis."""
    names: tuple[str, ...]
    """All of them, the longest first."""
    traces: frozenset[str]
    """Pieces long enough to show that a suspected diagnosis is a variant of a listed one."""
    findings: Mapping[str, str]
    """How a mere finding is said in other words."""
    inside: Mapping[str, str]
    """Words in which one of the names only happens to stand, and what is said instead."""


def name_answer(diagnoses: Iterable[str], words: AnswerWords | None = None) -> Answer:
    """Name everything that would tell one of the diagnoses."""
    words = words or load_words()
    cleaned = list(
        dict.fromkeys(
            item
            for text in diagnoses
            for item in map(clean_diagnosis, (text, *split_diagnoses(text)))
            if item
        )
    )
    listed = {plain for item in cleaned if (plain := make_plain(item))}
    short = {
        plain
        for item in cleaned
        for part in _parts(item)
        for form in _shorten(part)
        if _tells(plain := make_plain(form), words)
    }
    short |= {
        make_plain(inside)
        for item in cleaned
        for inside in _BRACKETS.findall(item)
        if re.fullmatch(r"[A-Za-z]{3,}", inside)
    }
    derived = words.reword(listed | short) - listed
    inside = {
        word: said
        for word, said in words.inside.items()
        if any(name in make_plain(word) for name in listed)
    }
    names = sorted(listed | derived, key=lambda name: (-len(name), name))
    return Answer(
        frozenset(listed),
        frozenset(derived),
        tuple(names),
        frozenset(_traces(names)),
        words.findings,
        inside,
    )


def _parts(diagnosis: str) -> Iterable[str]:
    """Yield a diagnosis without its brackets, what in brackets is a name, and its joined or
    run-together parts."""
    for inside in cast(list[str], _BRACKETS.findall(diagnosis)):
        if _DISEASE_END.search(inside):
            yield inside
    outside = _BRACKETS.sub("，", diagnosis)
    yield _BRACKETS.sub("", diagnosis)
    for part in _JOINTS.split(outside):
        yield part
        yield from _SEAM.sub(lambda m: m[0] + "\n", part).split("\n")


def _shorten(name: str) -> Iterable[str]:
    """Yield a name, then without its stage, side, course and degree."""
    previous = None
    while name != previous:
        yield name
        previous, name = name, _SUFFIX.sub("", name).strip()
    previous = None
    while name != previous:
        yield name
        yield _INSIDE.sub("", name)
        if name.endswith("癌"):
            organ = _TISSUE.sub("", name)
            yield from (organ, f"{organ[:-1]}Ca")
        previous, name = name, _PREFIX.sub("", name)
    if head := _HEAD.search(name):
        yield head[0]


def _tells(name: str, words: AnswerWords) -> bool:
    """Tell whether a derived name is specific enough to be taken out of a record."""
    if words.has_synonyms(name):
        return True
    if name.endswith("ca") and len(name) > 2 and not name.isascii():
        return True
    if name.isascii():
        return len(name) >= 7 and bool(_ENGLISH_END.search(name))
    return (
        len(name) >= 3
        and not name.isascii()
        and bool(_DISEASE_END.search(name))
        and name not in words.generic
    )


def _traces(names: Iterable[str]) -> set[str]:
    traces: set[str] = set()
    for name in names:
        size = max(4, -(-len(name) * 3 // 5))
        traces.update(name[i : i + size] for i in range(len(name) - size + 1))
    return traces
