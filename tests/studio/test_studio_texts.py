"""Two languages, the same texts in both."""

import ast
import re
from pathlib import Path

import pytest
from english import find_english

import medkd.studio
from medkd.evaluate.report import DESCRIPTIONS, MORE
from medkd.stages import STAGES
from medkd.studio.citations import mark_reasoning, mark_record
from medkd.studio.forms import list_fields
from medkd.studio.texts import LANGUAGES, Texts, choose_language, read_fields, read_texts

SOURCES = [
    path
    for path in Path(medkd.studio.__file__).parent.rglob("*")
    if path.suffix in (".py", ".jinja")
]
WORDS = (
    "stage",
    "recipe",
    "state",
    "reason",
    "outcome",
    "check",
    "cause",
    "decision",
    "end",
    "department",
    "fact",
    "split",
    "style",
    "mode",
    "finish_reason",
    "framework",
)
"""Groups of words for names that come from files: a name without a word stands for itself."""
GROUPS = {
    "completers/outcomes.py": "outcome", "core/reviews.py": "decision", "core/records.py": "finish_reason",
}  # fmt: skip
"""Where the words for the members of a file's enumeration stand; those of all others are
reasons."""
NEVER_SHOWN = (
    "StopReason",
    "AnswerPart",
    "Category",
    "Fault",
    "Prefix",
    "Flaw",
    "Relation",
    "Cause",
)
"""Enumerations that no page shows."""
PASSING = ("listed", "looked_up", "kept")
"""Outcomes of a page that are no reason to drop a case."""


def places(text: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", text))


def test_every_text_is_there_in_every_language_with_the_same_places() -> None:
    chinese, english = (read_texts(language) for language in LANGUAGES)
    own = {key for key in chinese.keys() | english.keys() if key.split(".")[0] not in WORDS}
    assert own <= chinese.keys() & english.keys()
    assert [key for key in own if places(chinese[key]) != places(english[key])] == []


def test_no_chinese_text_holds_english_but_names() -> None:
    labels = [
        text for fields in read_fields("zh").values() for label in fields.values() for text in label
    ]
    texts = [
        re.sub(r"{\w+}", "", text)
        for key, text in read_texts("zh").items()
        if not key.startswith("stage.")
    ]
    assert {text: words for text in [*texts, *labels] if (words := find_english(text))} == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_stage_says_what_it_does(language: str) -> None:
    assert [stage for stage in STAGES if Texts(language).word("stage", stage) == stage] == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_has_a_chinese_label_and_hint_and_none_is_of_a_field_that_is_gone(
    stage: str,
) -> None:
    fields = list_fields(STAGES[stage].load().Config)
    assert read_fields("zh").keys() == {*STAGES, "measures"}
    assert read_fields("zh")[stage].keys() == {field.name for field in fields}
    for field in fields:
        label, hint = Texts("zh").label(stage, field.name, field.help)
        assert field.name in label
        assert is_chinese(hint), field.name
        assert Texts("en").label(stage, field.name, field.help) == (field.name, field.help)


def list_members() -> list[tuple[str, str]]:
    """List the members of every enumeration of words that pages show, each with the group its
    Chinese word belongs to."""
    package = Path(medkd.studio.__file__).parents[1]
    classes = [
        (GROUPS.get(path.relative_to(package).as_posix(), "reason"), node)
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base) == "StrEnum" for base in node.bases)
        and node.name not in NEVER_SHOWN
    ]
    members = [
        (group, str(ast.literal_eval(line.value)))
        for group, found in classes
        for line in found.body
        if isinstance(line, ast.Assign)
    ]
    return [(group, member) for group, member in members if member not in PASSING]


def test_every_reason_to_drop_a_row_and_every_ending_has_a_chinese_word() -> None:
    members = list_members()
    assert {("reason", "wrong_diagnosis"), ("outcome", "no_balance")} <= set(members)
    assert [
        f"{group}.{member}"
        for group, member in members
        if not is_chinese(Texts("zh").word(group, member))
    ] == []


def test_every_measure_has_a_chinese_name_and_meaning_and_none_is_of_a_measure_that_is_gone() -> (
    None
):
    assert read_fields("zh")["measures"].keys() == (DESCRIPTIONS | MORE).keys()
    for name, meaning in (DESCRIPTIONS | MORE).items():
        assert is_chinese(Texts("zh").label("measures", name, meaning)[1]), name
        assert Texts("en").label("measures", name, meaning) == (name, meaning)


def is_chinese(text: str) -> bool:
    return bool(re.search("[\u4e00-\u9fff]", text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_text_that_is_asked_for_is_there(path: Path) -> None:
    asked = re.findall(r"\b(?:t|texts)\(f?['\"]([\w.{}]+)['\"]", path.read_text(encoding="utf-8"))
    known = read_texts("en")
    assert [
        key for key in asked if "{" not in key and not key.endswith(".") and key not in known
    ] == []


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB", "en"),
        ("fr;q=0.9, zh-TW;q=0.5", "zh"),
        ("", "en"),
        (";;q=x,,", "en"),
    ],
)
def test_the_browser_chooses(accepted: str, language: str) -> None:
    assert choose_language(accepted) == language
    assert Texts(language)("page.data")


def test_what_is_cited_is_marked_in_the_record_and_what_is_not_there_in_the_reasoning() -> None:
    record = "体温38.5℃，右下肺可闻及湿啰音。血压120/80mmHg，否认胸痛。"
    reasoning = "体温38.5℃提示发热，右下肺可闻及湿啰音；白细胞15.2提示感染，无胸痛。"
    marked = "|".join(
        piece.text for piece in mark_record(record, reasoning) if piece.mark == "cited"
    )
    assert marked == "体温38.5℃|右下肺可闻及湿啰音"
    assert [piece.text for piece in mark_reasoning(reasoning, record) if piece.mark] == ["15.2"]
    for text, pieces in (
        (record, mark_record(record, reasoning)),
        (reasoning, mark_reasoning(reasoning, record)),
    ):
        assert "".join(piece.text for piece in pieces) == text


@pytest.mark.parametrize("piece", ['": ', "a: ", "，", "a"])
def test_a_text_longer_than_a_sentence_is_returned_at_once(piece):
    text = piece * 50_000
    assert Texts("zh").say(text) == text
