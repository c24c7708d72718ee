"""Every text of a report is there in Chinese, and none of a text that is gone."""

import ast
from pathlib import Path

import medkd.report
from medkd.core.i18n import load_catalogue
from medkd.report import sections


def list_texts() -> set[str]:
    """List the texts that a report says: those passed to `say`, and those of its tables."""
    found: set[str] = set()
    tree = ast.parse((Path(medkd.report.__file__).with_name("sections.py")).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "say":
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
        names = [ast.unparse(t) for t in node.targets] if isinstance(node, ast.Assign) else []
        if {"told", "rejected", "head"} & {*names}:
            inner = ast.walk(node.value)  # pyright: ignore
            found |= {
                n.value for n in inner if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if "mode" in keys or "rows" in keys:
                found |= {*keys}
    named = [sections.SETTINGS, sections.FACTS]
    found |= {told for table in named for told in table}
    found |= {*sections.ABSENT.values(), *sections.METHODS.values(), *sections.AXES.values()}
    for kinds in sections.CURVES.values():
        found |= {*kinds} | {told for lines in kinds.values() for told in lines.values()}
    return (found | {"gained", "lost", "right", "wrong", "undecided"}) - {"en", "zh"}


def test_every_text_is_there_in_chinese_and_none_of_a_text_that_is_gone():
    prefix = "report\x04"
    own = {key.removeprefix(prefix) for key in load_catalogue("zh") if key.startswith(prefix)}
    assert own == list_texts()
