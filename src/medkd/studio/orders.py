"""An order: one stage or a recipe, its fields, and what a form says of them as the words of the
command that starts it.

In: which stage or recipe was chosen, what was filled in. Out: words for `medkd`, the environment
that hands a key over, what is wrong by field. Not done here: starting (`studio.jobs`).
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.completers.providers import read_providers
from medkd.core.config import read_recipe
from medkd.core.errors import InputError, say_problem
from medkd.core.i18n import Texts
from medkd.core.task import SHIPPED
from medkd.models.load import TINY
from medkd.pipeline import RECIPES, find_recipe
from medkd.stages import STAGES
from medkd.studio.forms import (
    LISTS,
    Field,
    is_changed,
    lay_out,
    plain,
    read_fields,
    read_value,
    write_words,
)
from medkd.studio.workspace import UPLOADS, Step, Workspace

HUB_NAME = re.compile(r"(hf|ms):[\w.-]+/[\w.-]+(/[\w.-]+)*")
PRESETS = "demo.yaml"
"""The recipe whose values fit the shipped student."""
FILES = (".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".parquet")
"""Suffixes of files that a field of paths is offered."""


class Part(NamedTuple):
    """One step of a form: its fields, and the values that count as not changed for the command
    line."""

    step: str
    """Empty for a stage alone."""
    stage: str
    fields: Sequence[Field]
    given: Mapping[str, Any]
    """What the recipe gives."""

    def key(self, field: Field) -> str:
        """Name the field's box."""
        return f"v:{self.step}:{field.name}"


class Order(NamedTuple):
    """What a form says."""

    kind: str
    """A stage, or the name of a recipe's file."""
    run: str
    parts: Sequence[Part]
    values: Mapping[str, Mapping[str, Any]]
    """Step to field to value."""

    @property
    def is_recipe(self) -> bool:
        return self.kind not in STAGES


def list_recipes(workspace: Workspace) -> dict[str, Path]:
    """List the shipped recipes, and those in the data folders, by the name of their file; one of a
    data folder never stands for a shipped one."""
    given = (Path(path) for path in workspace.list_given((".yaml", ".yml")))
    shipped = sorted(RECIPES.glob("*.yaml"))
    return {path.name: path for path in (*given, *shipped)}


def list_parts(kind: str, workspace: Workspace) -> list[Part]:
    """List the steps that a form asks about: one stage, or every step of a recipe."""
    if kind in STAGES:
        return [Part("", kind, read_fields(kind), {})]
    recipe = list_recipes(workspace).get(kind)
    if recipe is None:
        raise InputError(f"{kind[:80]}: no such stage or recipe; put it into a --data folder")
    parts: list[Part] = []
    for step, given in read_recipe(recipe).items():
        stage = str(step).split("-")[0]
        if stage in STAGES and (isinstance(given, dict) or given is None):
            known = cast(Mapping[str, Any], given or {})
            plained = {key: plain(value) for key, value in known.items()}
            parts.append(Part(step, stage, read_fields(stage), plained))
    return parts


def read_order(kind: str, sent: Mapping[str, Any], workspace: Workspace, is_filled: bool) -> Order:
    """Read what a form says; with `is_filled` false, what it says when it is opened: the values of
    the address, then presets, then suggestions, then defaults."""
    run = str(sent.get("run") or "") or suggest_run(kind, workspace)
    parts = list_parts(kind, workspace)
    values: dict[str, dict[str, Any]] = {}
    for part in parts:
        of_part: dict[str, Any] = {}
        for field in part.fields:
            text = cast("str | None", sent.get(part.key(field)))
            if is_filled:
                is_shown = f"s:{part.key(field)}" in sent
                start = part.given.get(field.name, field.default)
                of_part[field.name] = read_value(field, text) if is_shown else start
            elif text is not None or str(sent.get(field.name) or ""):
                of_part[field.name] = read_value(field, text or str(sent[field.name]))
            else:
                of_part[field.name] = _start_value(part, field, workspace, run)
        values[part.step] = _preset(part, of_part, sent if is_filled else None)
    return Order(kind, run, parts, values)


def _start_value(part: Part, field: Field, workspace: Workspace, run: str) -> Any:
    if field.name in part.given or part.step:
        return part.given.get(field.name, field.default)
    is_asked = part.stage == "evaluate" and field.name in ("model", "adapter")
    if is_asked and (step := _find_trained(workspace, run)):
        return step.manifest.config.get("model") if field.name == "model" else str(step.path)
    is_fed = field.name in STAGES[part.stage].feeds
    if field.default is None and (field.is_required or is_fed):
        found = suggest(workspace, part.stage, field, run)[:1]
        return found if field.kind in LISTS else next(iter(found), None)
    return field.default


def _find_trained(workspace: Workspace, run: str) -> Step | None:
    """Find what was trained in a run, the last one; variants such as `train-answers` come last."""
    steps = workspace.list_steps(run, stage="train")
    return max(
        steps, key=lambda step: (step.path.name == "train", step.manifest.started_at), default=None
    )


def _preset(part: Part, values: dict[str, Any], sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fill in what fits the chosen model, where nobody changed it: the shipped student trains as in
    the demo. A form that was sent says which model its values were for."""
    before = None if sent is None else str(sent.get(f"m:{part.step}") or "")
    now = str(values.get("model") or "")
    if part.step or before == now:
        return values
    for field in part.fields:
        old = presets(part.stage, before or "").get(field.name, field.default)
        new = presets(part.stage, now).get(field.name, field.default)
        if field.name != "model" and not _differs(field, values.get(field.name), old):
            values[field.name] = new
    return values


def _differs(field: Field, value: Any, other: Any) -> bool:
    try:
        return is_changed(field, value, other)
    except InputError:  # not a number yet: somebody is typing
        return True


@cache
def presets(stage: str, model: str) -> Mapping[str, Any]:
    """Return the values that fit a model: the demo's own for the shipped student."""
    if model != TINY:
        return {}
    section = cast(dict[str, Any], read_recipe(find_recipe(PRESETS)).get(stage) or {})
    names = {field.name for field in read_fields(stage)} - {"model", "input", "adapter"}
    return {name: plain(value) for name, value in section.items() if name in names}


def write_command(order: Order, workspace: Workspace) -> list[str]:
    """Write the words that start what the form says; raises InputError for a name or a path that is
    not allowed."""
    run = check_run(order.run)
    words: list[str] = []
    for part in order.parts:
        values = order.values[part.step]
        shown = lay_out(part.stage, part.fields, values)
        meant = [*shown.first, *(field for listed in shown.groups.values() for field in listed)]
        for field in meant:
            check_value(field, values.get(field.name), part.given.get(field.name), workspace)
        words += write_words(meant, values, part.given, part.step)
    if order.is_recipe:
        recipe = list_recipes(workspace)[order.kind]
        return ["run", str(recipe), f"--out={workspace.resolve(workspace.runs / run)}", *words]
    folder = workspace.runs / run
    out = workspace.resolve(folder / find_name(order.kind, folder))
    return [order.kind, *words, f"--out={out}"]


def show_command(words: Sequence[str]) -> str:
    """Write a command as a person copies it; a shipped recipe goes by its name."""
    shown = list(words)
    if shown[0] == "run" and Path(shown[1]).parent == RECIPES:
        shown[1] = Path(shown[1]).stem
    return f"medkd {shlex.join(shown)}"


def check_run(name: str) -> str:
    """Check the name of a run; raises InputError where it could lead elsewhere."""
    name = name.strip().strip("/")
    parts = Path(name).parts
    is_allowed = name.isprintable() and len(name) <= 80 and len(parts) <= 2
    if not parts or not is_allowed or any(part.startswith((".", "-", "~")) for part in parts):
        raise InputError("name the run: letters, digits, - and /")
    if parts[0] == UPLOADS:
        raise InputError(f"{UPLOADS} holds what was uploaded; name the run otherwise")
    return name


def find_problems(order: Order, t: Texts) -> dict[str, str]:
    """Find what is wrong with each field, by the name of its box, in the reader's language."""
    problems: dict[str, str] = {}
    for part in order.parts:
        values = {
            field.name: _for_config(field, order.values[part.step].get(field.name))
            for field in part.fields
            if order.values[part.step].get(field.name) not in (None, "", [])
        }
        boxes = {field.name: part.key(field) for field in part.fields}
        try:
            STAGES[part.stage].load().Config.model_validate({**values, "out": "out"})
        except ValidationError as error:
            for problem in error.errors():
                name = str(problem["loc"][0]) if problem["loc"] else ""
                is_fed = part.step and problem["type"] == "missing"
                if not is_fed:
                    problems[boxes.get(name, "")] = _say(problem, t)
    return problems


def _say(problem: Any, t: Texts) -> str:
    found = t.word("problem", problem["type"])
    if found == problem["type"].replace("_", " "):
        return say_problem(problem)
    return found.format_map({"expected": "", **(problem.get("ctx") or {})})


def _for_config(field: Field, value: Any) -> Any:
    if field.kind == "mapping" and isinstance(value, str):
        pairs = (line.partition(":") for line in value.splitlines() if line.strip())
        return {key.strip(): item.strip() for key, _, item in pairs}
    return value


def suggest_run(kind: str, workspace: Workspace) -> str:
    """Name the run that an order most likely is for: a new one for a recipe, the newest one for a
    stage."""
    if kind not in STAGES:
        return find_name(Path(kind).stem, workspace.runs)
    return next(iter(workspace.list_runs()), "first")


def find_name(stage: str, run: Path) -> str:
    """Name a new folder after what makes it, numbered where there is one already."""
    taken = (f"{stage}-{number}" for number in range(2, 1000))
    if not (run / stage).exists():
        return stage
    return next(name for name in taken if not (run / name).exists())


def check_value(field: Field, value: Any, given: Any, workspace: Workspace) -> None:
    """Refuse a path that lies outside the workspace; what a recipe itself names is its author's.

    Every text may be a path to whatever reads it, so each is checked by what it holds: a field that
    takes a path always, another one where the text is written as a path or a file is there.
    """
    if value in (None, "", []) or value == given:
        return
    is_path = field.kind in ("path", "paths")
    if field.kind not in ("path", "paths", "text", "texts", "mapping"):
        return
    for text in _list_texts(value):
        if (is_path and not HUB_NAME.fullmatch(text)) or is_like_a_path(text):
            workspace.resolve(_make_absolute(text))


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


def is_like_a_path(text: str) -> bool:
    """Tell whether whatever reads a text may take it for a file."""
    if text.startswith(("/", ".", "~")) or ".." in Path(text).parts:
        return True
    if text.casefold().startswith("file:"):
        return True
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return True


def suggest(workspace: Workspace, stage: str, field: Field, run: str) -> list[str]:
    """Suggest values for a field: what the feeding stage made, first of this run; models; teachers;
    files of cases."""
    feeder = STAGES[stage].feeds.get(field.name) or ("train" if field.name == "adapter" else "")
    if feeder:
        steps = sorted(
            workspace.list_steps(stage=feeder),
            key=lambda step: (step.run == run, step.manifest.started_at),
            reverse=True,
        )
        return [str(step.path) for step in steps]
    if field.name == "model" and stage in ("train", "reinforce", "evaluate", "export"):
        return [TINY, *(str(step.path) for step in workspace.list_steps(stage="export"))]
    if field.name == "task" and stage != "evaluate":
        return list(SHIPPED)
    if field.name == "teacher":
        return list(read_providers())
    if stage == "compare" and field.name == "input":
        return [str(step.path) for step in workspace.list_steps(run or None, stage="evaluate")]
    return workspace.list_given(FILES) if field.kind in ("path", "paths") else []


def hand_over(words: Sequence[str], secret: str) -> dict[str, str]:
    """Return the environment that hands a key to the teacher whom a command asks, or its recipe."""
    if not secret.strip():
        return {}
    recipe = read_recipe(Path(words[1])) if words[0] == "run" else {}
    sections = (section for section in recipe.values() if isinstance(section, dict))
    named = [str(section["teacher"]) for section in sections if "teacher" in section]
    candidates = [*(word.rpartition("=")[2] for word in words), *named]
    usual = next(str(f.default) for f in read_fields("distill") if f.name == "teacher")
    teacher = next((name for name in candidates if name in read_providers()), usual)
    return {read_providers()[teacher].key_variable: secret.strip()}
