"""The sentences that the program's code says to its users: errors, findings, repairs, each with its
places filled by a number."""

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import medkd

PACKAGE = Path(medkd.__file__).parent
ERRORS = {
    "InputError",
    "StoppedError",
    "ProofError",
    "HumanActionRequiredError",
    "MedkdError",
    "ValueError",
}
FINDING_PARTS = ("says", "fix", "repair", "message", "advice")
"""Names under which the code keeps a clause of an error or a finding before it is said."""
NOT_OF_A_FORM = (
    "demo",
    "chat/session.py",
    "cli/detached.py",
    "evaluate/looped.py",
    "grading",
    "deidentify/rules.py",
    "studio/command.py",
)
"""Places whose sentences no form of the studio leads to."""
FILLED = "7"


def fill(node: ast.expr, known: dict[str, str]) -> Iterator[str]:
    """Give the texts that an expression may stand for; what is only known when it runs is a
    number."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            for texts in product(
                *(
                    [str(part.value)]
                    if isinstance(part, ast.Constant)
                    else _fill_place(part, known)
                    for part in parts
                )
            ):
                yield "".join(texts)
        case ast.IfExp(body=one, orelse=other):
            yield from fill(one, known)
            yield from fill(other, known)
        case ast.Tuple(elts=several):
            for one in several:
                yield from fill(one, known)
        case _:
            pass


def _fill_place(place: ast.expr, known: dict[str, str]) -> list[str]:
    assert isinstance(place, ast.FormattedValue)
    name = ast.unparse(place.value)
    if name.startswith("did_you_mean("):
        return ["; did you mean '7'?"]
    if isinstance(place.value, ast.IfExp):
        return [
            text
            for choice in (place.value.body, place.value.orelse)
            for text in fill(choice, known)
        ] or [FILLED]
    return [known.get(name, FILLED)]


def list_constants(trees: dict[Path, ast.Module]) -> dict[str, str]:
    """List the texts that modules keep under a name."""
    found: dict[str, str] = {}
    for tree in trees.values():
        for line in tree.body:
            if isinstance(line, ast.Assign) and isinstance(
                line.value, ast.Constant | ast.JoinedStr
            ):
                found[ast.unparse(line.targets[0])] = next(fill(line.value, {}), FILLED)
    return found


def read_code() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
    }


def list_said() -> list[tuple[str, str]]:
    """List what the code says in errors and findings, with the file that says it."""
    trees = read_code()
    constants = list_constants(trees)
    found: list[tuple[str, str]] = []
    for path, tree in trees.items():
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(NOT_OF_A_FORM):
            found += [
                (place, text)
                for node in ast.walk(tree)
                for text in _listen(node, constants)
                if len(text) > 1
            ]
    return found


def _listen(node: ast.AST, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
        for text in node.args[:1]:
            yield from fill(text, constants)
    elif (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
    ):
        for text in node.args[1:3]:
            yield from fill(text, constants)
    elif isinstance(node, ast.Assign) and any(
        name in FINDING_PARTS for name in ast.unparse(node.targets[0]).strip("()").split(", ")
    ):
        yield from fill(node.value, constants)


def list_texts() -> list[str]:
    """List every text of the code, whatever it is for."""
    trees = read_code()
    constants = list_constants(trees)
    return [
        text
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.expr)
        for text in fill(node, constants)
    ]
