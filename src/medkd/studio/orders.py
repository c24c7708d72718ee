"""An order: one stage or a recipe, its fields, and what a form says of them as the words of the
command that starts it.

In: which stage or recipe was chosen, what was filled in. Out: words for `medkd`, the environment
that hands a key over.
Not done here: drawing the form (`studio.starts`), starting (`studio.jobs`).
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, cast

from medkd.completers.providers import read_providers
from medkd.core.config import read_recipe
from medkd.core.errors import InputError
from medkd.stages import STAGES
from medkd.studio.forms import Field, list_fields, plain, write_words
from medkd.studio.places import Places
from medkd.studio.texts import Texts

RECIPE = "recipe "
HUB_NAME = re.compile(r"(hf|ms):[\w.-]+/[\w.-]+(/[\w.-]+)*")
OWN_SECTIONS = ("out", "report", "rehearsal")


class Part(NamedTuple):
    """One step of a form: its fields, and the values that count as not changed for the command
    line."""

    step: str
    """Empty for a stage alone."""
    stage: str
    fields: list[Field]
    given: dict[str, Any]
    """What the recipe gives."""


def list_recipes(places: Places) -> list[str]:
    """List the shipped recipes, and those in the data folders."""
    shipped = sorted(
        str(path) for path in Path(str(files("medkd").joinpath("recipes"))).glob("*.yaml")
    )
    return [*shipped, *places.list_given((".yaml", ".yml"))]


def list_parts(chosen: str, places: Places, t: Texts) -> list[Part]:
    """List the steps that a form asks about: one stage, or every step of a recipe."""
    if not chosen.startswith(RECIPE):
        return [Part("", chosen, read_form(chosen, t), {})]
    path = chosen.removeprefix(RECIPE)
    if path not in list_recipes(places):
        raise InputError(f"{path}: no such recipe; put it into a --data folder")
    parts: list[Part] = []
    for step, given in read_recipe(Path(path)).items():
        stage = step.split("-")[0]
        if step not in OWN_SECTIONS and stage in STAGES:
            known = {
                key: plain(value) for key, value in cast(Mapping[str, Any], given or {}).items()
            }
            parts.append(Part(step, stage, read_form(stage, t), known))
    return parts


def read_form(stage: str, t: Texts) -> list[Field]:
    """List the fields of a stage, their docs in the reader's language."""
    fields = list_fields(STAGES[stage].load().Config)
    return [field._replace(help=t.label(stage, field.name, field.help)[1]) for field in fields]


def write_command(
    chosen: str, run: str | None, parts: Sequence[Part], values: Sequence[Any], places: Places
) -> list[str]:
    """Write the words that start what the form says; raises InputError for a name or a path that is
    not allowed."""
    name = (run or "").strip().strip("/")
    if (
        not name
        or not name.isprintable()
        or any(part.startswith((".", "-")) for part in Path(name).parts)
    ):
        raise InputError("name the run: letters, digits, - and /")
    words: list[str] = []
    at = 0
    for part in parts:
        given = list(values[at : at + len(part.fields)])
        at += len(part.fields)
        for field, value in zip(part.fields, given, strict=True):
            check_value(field, value, part.given.get(field.name), places)
        words += write_words(
            part.fields,
            given,
            {f.name: part.given.get(f.name, f.default) for f in part.fields},
            part.step,
        )
    if chosen.startswith(RECIPE):
        return [
            "run",
            chosen.removeprefix(RECIPE),
            f"--out={places.resolve(places.runs / name)}",
            *words,
        ]
    return [
        chosen,
        *words,
        f"--out={places.resolve(places.runs / name / find_name(chosen, places.runs / name))}",
    ]


def suggest_run(chosen: str, places: Places) -> str:
    """Name the run that an order most likely is for: a new one for a recipe, the newest one for a
    stage."""
    if chosen.startswith(RECIPE):
        return find_name(Path(chosen.removeprefix(RECIPE)).stem, places.runs)
    return next(iter(places.list_runs()), "first")


def find_name(stage: str, run: Path) -> str:
    """Name a new folder after what makes it, numbered where there is one already."""
    taken = (f"{stage}-{number}" for number in range(2, 1000))
    return (
        stage
        if not (run / stage).exists()
        else next(name for name in taken if not (run / name).exists())
    )


def check_value(field: Field, value: Any, given: Any, places: Places) -> None:
    """Refuse a path that lies outside every place; what a recipe itself names is its author's.

    Every text may be a path to whatever reads it, so each is checked by what it holds: a field that
    takes a path always, another one where the text is written as a path or a file is there.
    """
    if value in (None, "", []) or value == given:
        return
    is_path = field.kind in ("path", "paths")
    if field.kind not in ("path", "paths", "text", "texts", "mapping"):
        return
    for text in _list_texts(value):
        if (is_path and not HUB_NAME.fullmatch(text)) or _is_like_a_path(text):
            places.resolve(_make_absolute(text))


def _make_absolute(text: str) -> str:
    """Name the file that a command finds under a text; it reads relative ones from where it is."""
    try:
        return str(Path(text).expanduser().absolute())
    except (RuntimeError, ValueError):  # a user that is not there; a NUL
        return text


def _list_texts(value: Any) -> list[str]:
    """List the texts of a field: of its lines too, and what stands behind each `key:` and `NAME=`
    in them."""
    items = cast(list[Any], value) if isinstance(value, list) else [value]
    texts: list[str] = []
    for line in (line.strip() for item in items for line in str(item).splitlines()):
        texts.append(line)
        texts += [line.partition(mark)[2].strip(" \"'") for mark in (": ", "=") if mark in line]
    return texts


def _is_like_a_path(text: str) -> bool:
    if text.startswith(("/", ".", "~")) or ".." in Path(text).parts:
        return True
    if text.casefold().startswith("file:"):
        return True
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return True


def hand_over(words: Sequence[str], secret: str) -> dict[str, str]:
    """Give the environment that hands a key to the teacher whom a command asks, or its recipe."""
    if not secret.strip():
        return {}
    recipe = read_recipe(Path(words[1])) if words[0] == "run" else {}
    named = [
        str(section["teacher"])
        for section in recipe.values()
        if isinstance(section, dict) and "teacher" in section
    ]
    candidates = [*(word.rpartition("=")[2] for word in words), *named]
    default = list_fields(STAGES["distill"].load().Config)
    usual = next(str(field.default) for field in default if field.name == "teacher")
    teacher = next((name for name in candidates if name in read_providers()), usual)
    return {read_providers()[teacher].key_variable: secret.strip()}
