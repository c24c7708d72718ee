"""What the program says in English reaches a Chinese reader in Chinese."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from english import find_english
from pydantic import Field
from sentences import list_said, list_texts

from medkd.core.config import Options, make_config
from medkd.core.errors import InputError
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


class Form(Options):
    whole: Annotated[int, Field(ge=2, lt=9)] = 2
    share: Annotated[float, Field(gt=0, le=1)] = 1
    is_on: bool = False
    name: Annotated[str, Field(min_length=1)] = "a"
    names: Annotated[list[str], Field(min_length=1, default_factory=list)]
    values: Annotated[dict[str, int], Field(default_factory=dict)]
    path: Path = Path("a")
    kind: Literal["base", "low", "max"] = "base"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("whole", "x", "应为整数"),
        ("whole", 2.5, "应为整数"),
        ("whole", 1, "应不小于 2"),
        ("whole", 9, "应小于 9"),
        ("whole", 10**20, "应"),
        ("share", "x", "应为数字"),
        ("share", 0, "应大于 0.0"),
        ("share", 7, "应不大于 1.0"),
        ("share", float("nan"), "应为有限的数"),
        ("is_on", "perhaps", "应为是或否"),
        ("is_on", [], "应为是或否"),
        ("name", 7, "应为文本"),
        ("name", "", "不能为空"),
        ("names", 7, "应为列表"),
        ("names", [], "至少应有 1 项"),
        ("values", 7, "应为映射"),
        ("values", {"a": "x"}, "应为整数"),
        ("path", 7, "应为路径"),
        ("kind", "x", "应为 'base'，'low' 或 'max'"),
    ],
)
def test_a_value_that_a_config_refuses_is_told_in_chinese(
    field: str, value: Any, told: str
) -> None:
    for place, advice in (
        ("medkd train", "请查看 `medkd train --help`"),
        ("a.yaml", "请在文件中改正"),
    ):
        with pytest.raises(InputError) as caught:
            make_config(Form, {field: value}, place)
        said = ZH.say(str(caught.value))
        assert told in said
        assert said.endswith(advice)
        assert find_english(re.sub("^[^：]*：[^：]*：|（当前为[^）]*）", "", said)) == [], said


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
