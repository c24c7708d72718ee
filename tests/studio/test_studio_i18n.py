"""Two languages: every text, word and field of the pages in Chinese; catalogues as gettext reads."""

import ast
import json
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medkd.studio
from medkd.core.errors import InputError, Said
from medkd.core.i18n import Texts, choose_language, load_catalogue, read_po
from medkd.grading.scores import MEASURES
from medkd.stages import STAGES
from medkd.studio.forms import read_fields

PACKAGE = Path(medkd.studio.__file__).parent
SOURCES = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".html")]
QUOTED = r"""('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
GROUPS = {"core/reviews.py": "decision", "core/records.py": "finish_reason"}
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
    "ResidueKind",
)
"""Enumerations that no page shows."""
PASSING = ("listed", "looked_up", "kept")
"""Outcomes of a page that are no reason to drop a case."""


def is_chinese(text: str) -> bool:
    return bool(re.search("[\u4e00-\u9fff]", text))


def list_texts() -> set[str]:
    """List the texts that pages ask the catalogue for."""
    found: set[str] = set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(rf"(?<![\w.])(?:page\.)?t\(\s*{QUOTED}", text))
        for pair in re.findall(rf"\bt\.n\(\s*{QUOTED},\s*{QUOTED}", text):
            found |= {pair[0]}
    return {ast.literal_eval(one) for one in found}


def test_every_text_of_a_page_is_there_in_chinese_with_the_same_places() -> None:
    texts = list_texts()
    assert len(texts) > 150
    chinese = {key.partition("\0")[0]: text for key, text in catalogue().items()}
    for text in texts:
        assert text in chinese, text
        assert set(re.findall(r"{(\w+)}", chinese[text])) == set(re.findall(r"{(\w+)}", text)), text


def catalogue() -> dict[str, str]:
    return read_po((PACKAGE.parent / "locale" / "zh.po").read_text(encoding="utf-8"))


def test_no_chinese_text_is_of_a_text_that_is_gone() -> None:
    own = {key.partition("\0")[0] for key in catalogue() if "\x04" not in key}
    assert own - list_texts() - {"{h} h {min} min", "{min} min {s} s", "{s} s"} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_has_a_chinese_label_and_hint_and_none_is_of_a_field_that_is_gone(
    stage: str,
) -> None:
    fields = {field.name: field for field in read_fields(stage)}
    prefix = f"field {stage}\x04"
    assert {key.removeprefix(prefix) for key in catalogue() if key.startswith(prefix)} == set(
        fields
    )
    for field in fields.values():
        label, hint = Texts("zh").field(stage, field.name, field.help)
        assert is_chinese(hint), field.name
        assert label
        assert Texts("en").field(stage, field.name, field.help)[1] == field.help
    assert is_chinese(Texts("zh").word("stage", stage))


def test_every_measure_has_a_chinese_name_and_meaning_and_none_is_of_a_measure_that_is_gone() -> (
    None
):
    prefix = "field measures\x04"
    told = {key.removeprefix(prefix) for key in catalogue() if key.startswith(prefix)}
    assert told == set(MEASURES)
    for name, meaning in MEASURES.items():
        assert is_chinese(Texts("zh").field("measures", name, meaning)[1]), name


def list_members() -> list[tuple[str, str]]:
    """List the members of every enumeration of words that pages show, each with the group its
    Chinese word belongs to."""
    package = PACKAGE.parent
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
    assert {("reason", "wrong_diagnosis"), ("reason", "no_balance")} <= set(members)
    t = Texts("zh")
    assert [f"{g}.{member}" for g, member in members if not is_chinese(t.word(g, member))] == []


def list_errors() -> set[str]:
    """List the templates of the package's errors."""
    calls = (
        node
        for path in sorted(PACKAGE.parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name)
    )
    return {
        call.args[0].value
        for call in calls
        if call.func.id in ("Said", "InputError", "StoppedError", "MedkdError", "tell")
        and isinstance(call.args[0], ast.Constant)
    }


def test_errors_of_the_whole_package_are_said_in_chinese_by_their_template() -> None:
    known = {
        k.partition("\x04")[2]: v
        for k, v in load_catalogue("zh").items()
        if k.startswith("error\x04")
    }
    templates = list_errors()
    unsaid = templates - set(known)
    assert len(templates) > 300
    assert len(unsaid) < 0.05 * len(templates), unsaid
    places = re.compile(r"{[^{}]*}")
    for template in templates & set(known):
        assert sorted(places.findall(known[template])) == sorted(places.findall(template))


def test_no_chinese_error_is_of_a_template_that_is_gone() -> None:
    """A template that is put together begins with a constant."""
    constants = {
        node.value
        for path in PACKAGE.parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    begun = tuple(constant for constant in constants if len(constant) > 7)
    known = (k.partition("\x04")[2] for k in load_catalogue("zh") if k.startswith("error\x04"))
    assert [text for text in known if text not in constants and not text.startswith(begun)] == []


def test_no_text_stands_in_two_catalogues() -> None:
    folder = PACKAGE.parent / "locale"
    every = [key for path in folder.glob("zh*.po") for key in read_po(path.read_text("utf-8"))]
    assert [key for key, n in Counter(every).items() if n > 1] == []


def test_an_error_is_said_with_its_fields_and_the_texts_within_it() -> None:
    t = Texts("zh")
    error = InputError("{}: {}; check the path", Path("a b.json"), Said("the path is too long"))
    assert str(error) == "a b.json: the path is too long; check the path"
    assert t.error(error).startswith("a b.json：")
    assert "请检查路径" in t.error(error)
    kept = Said.from_json(json.loads(json.dumps(error.said.to_json())))
    assert (kept, t.say(kept)) == (error.said, t.error(error))
    assert t.error(InputError("no {such} text")) == "no {such} text"
    back = pickle.loads(pickle.dumps(error))
    assert t.error(back) == t.error(error), "as a process of its own hands it over"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB", "en"),
        ("fr;q=0.9, zh-TW;q=0.5", "zh"),
        ("", "en"),
        (";;q=x,,", "en"),
        ("zh;q=" + "9" * 10_000, "en"),
    ],
)
def test_the_browser_chooses_its_language(accepted: str, language: str) -> None:
    assert choose_language(accepted) in (language, "zh")


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_catalogue_gives_back_what_was_written_into_it(text: str, translated: str) -> None:
    if not text or not translated:
        return
    quoted = [repr(one) for one in (text, translated)]
    assert read_po(f"msgid {quoted[0]}\nmsgstr {quoted[1]}\n") == {text: translated}


def test_one_and_many_are_told_apart_in_english_and_not_in_chinese() -> None:
    for language, one, many in (("en", "1 file", "2 files"), ("zh", "1 个文件", "2 个文件")):
        t = Texts(language)
        assert (t.n("{n} file", "{n} files", 1), t.n("{n} file", "{n} files", 2)) == (one, many)
