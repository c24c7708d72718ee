"""What the program says in English reaches a Chinese reader in Chinese."""

import re
from importlib.resources import files

import pytest
import yaml
from english import find_english
from sentences import list_said, list_texts

from medkd.studio.texts import Texts
from medkd.train.preflight import Cause

NOT_OURS = ("form", "cause", "table", "libraries")
"""Sections whose sentences the code does not say as they are."""
ZH = Texts("zh")


@pytest.mark.parametrize(
    ("place", "sentence"),
    sorted({said for said in list_said() if re.search("[a-z]", said[1])}),
    ids=lambda text: text[:60],
)
def test_every_error_and_every_finding_is_said_in_chinese(place: str, sentence: str) -> None:
    said = ZH.say(sentence)
    assert re.search("[\u4e00-\u9fff]", said), place
    assert find_english(said) == [], said
    assert Texts("en").say(sentence) == sentence


def test_no_chinese_sentence_is_of_an_english_one_that_is_gone() -> None:
    texts = "\n".join(list_texts())
    sections = yaml.safe_load(
        files("medkd.studio").joinpath("zh_sentences.yaml").read_text(encoding="utf-8")
    )
    own = [
        sentence
        for name, section in sections.items()
        if name not in NOT_OURS
        for sentence in section
    ]
    assert [
        sentence
        for sentence in own
        if not re.search(".+?".join(map(re.escape, re.split(r"{\w+}", sentence))), texts)
    ] == []


@pytest.mark.parametrize("cause", Cause)
def test_the_cause_of_a_finding_is_named_in_chinese(cause: Cause) -> None:
    assert re.match("[\u4e00-\u9fff]", ZH.say(f"{cause}: 7 (3 rows); choose another model"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("runs/a/merge: no such file; run \"medkd merge\" first or check --input", "runs/a/merge：没有此文件；请先运行 merge，或检查输入"),
        ("train: epochs: Input should be greater than 0 (got -1)", "train：epochs：应大于 0（当前为 -1）"),
        ("a: no row is left to train on: too_long 12, no_answer 3; leave it out", "a：没有剩下可训练的数据行：过长 12，没有回答 3；请留空"),
        (
            "a: refuses the key (401: bad key; out of luck); put a valid one in KEY and run the same command again, it goes on from here",
            "a：密钥被拒绝（401：bad key；out of luck）；请把有效的密钥放入 KEY；请再次运行同一命令，会从这里继续",
        ),
        ("quite another thing", "quite another thing"),
    ],
)  # fmt: skip
def test_a_sentence_is_put_together_from_its_clauses_and_what_is_unknown_stays(
    said: str, told: str
) -> None:
    assert ZH.say(said) == told
