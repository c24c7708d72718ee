"""Every text of a report is there in Chinese, and none of a text that is gone."""

import ast
import string
from pathlib import Path

import medkd
from medkd.core.i18n import load_catalogue
from medkd.grading.scores import SAMPLED
from medkd.report import lineage, results

PREFIX = "report\x04"
OWN = {
    key.removeprefix(PREFIX): said
    for key, said in load_catalogue("zh").items()
    if key.startswith(PREFIX)
}
TABLES = (
    *(lineage.METHODS, dict.fromkeys((*lineage.SETTINGS, *lineage.FACTS, *lineage.CURVES), "")),
    results.AXES,
)


def list_constants() -> tuple[set[str], set[str]]:
    """List the texts that are said (passed to `say`, `Note`, or assigned to be), and all texts."""
    said: set[str] = set()
    every: set[str] = set()
    for room in ("report", "evaluate", "grading"):
        for path in Path(medkd.__file__).with_name(room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    every.add(node.value)
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("say", "Note"):
                    said |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
                    "line",
                    "told",
                ):
                    said |= {node.value.value} if isinstance(node.value, ast.Constant) else set()
    tables = {text for table in TABLES for text in table.values() if text}
    names = {*lineage.SETTINGS, *lineage.FACTS, *lineage.CURVES, *results.FILTERS, SAMPLED}
    names |= {name for kinds in lineage.CURVES.values() for name in kinds.values()}
    return said | tables | names, every


def test_every_text_is_there_in_chinese():
    said, _ = list_constants()
    assert said - OWN.keys() == set()


def test_none_is_of_a_text_that_is_gone():
    _, every = list_constants()
    words = {word.replace("_", " ") for word in every} | every
    assert {text for text in OWN if text not in words and not is_of_a_file(text)} == set()


def is_of_a_file(text: str) -> bool:
    """Tell whether a text is one that files hold: relations, verdicts of the base, kinds of
    questions, findings about raters."""
    held = {"same", "more general", "more specific", "other stage", "part", "unclear", "near miss"}
    held |= {"different", "arithmetic", "instructions", "short", "middle", "long", "unknown", "all"}
    return text in held or text.startswith("base was ")


def test_every_translation_keeps_its_placeholders():
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert [text for text, said in OWN.items() if fields(text) != fields(said)] == []
