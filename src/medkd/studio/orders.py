"""An order: one stage or a recipe, its fields, and what a form says of them as the words of the
command that starts it.

In: which stage or recipe was chosen, what was filled in. Out: words for `medkd`, the environment
that hands a key over, what is wrong by field. Not done here: starting (`studio.jobs`).
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from medkd.completers.providers import Provider, read_providers
from medkd.core.config import RECIPES, find_recipe, read_recipe
from medkd.core.errors import InputError, MedkdError, say_problem
from medkd.core.i18n import LANGUAGES, Texts
from medkd.core.task import SHIPPED, load_task
from medkd.models.load import SHIPPED_STUDENTS, is_shipped
from medkd.pipeline import REHEARSAL, fill_in, fit_english, override
from medkd.stages import STAGES
from medkd.studio.forms import (
    Field,
    Layout,
    lay_out,
    read_fields,
    read_text,
    to_text,
    to_value,
    write_words,
)
from medkd.studio.road import count_taken, read_epochs
from medkd.studio.workspace import UPLOADS, Step, Workspace

KNOWN = "known.txt"
"""What people said of words in a run's cases: `deidentify --known` takes it."""
PAYING = ("prepare", "distill", "verify", "evaluate", "reinforce", "rubric")
"""Stages that may ask somebody who wants a key and money."""
ASKING = ("judge", "endpoint", "check_leaks", "blind")
"""Fields by which a stage asks somebody that does not otherwise."""
N_OFFERED = 30
"""Steps that a box is offered, the newest ones."""
N_LOOKED_AT = 100
"""Earlier trainings that are looked at for one of the same model."""
PRESETS = "demo.yaml"
"""The recipe whose values fit the shipped student."""
YAML = (".yaml", ".yml")
"""Suffixes of recipes and of tasks."""
FILES = (".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".parquet")
"""Suffixes of files that a field of paths is offered."""


class Part(NamedTuple):
    """One step of a form, its fields and what they hold."""

    step: str
    """Empty for a stage alone."""
    stage: str
    fields: Sequence[Field]
    given: Mapping[str, str]
    """What the recipe gives: it counts as not changed for the command line."""
    values: dict[str, str]

    def key(self, field: Field) -> str:
        """Name the field's box."""
        return f"v:{self.step}:{field.name}"

    @property
    def layout(self) -> Layout:
        found = lay_out(self.stage, self.fields, self.values)
        return found if self.step == self.stage else found._replace(main=[])


class Order(NamedTuple):
    """What a form says."""

    kind: str
    """A stage, or the name of a recipe's file."""
    run: str
    parts: Sequence[Part]
    language: str = ""
    """Of the invented cases; empty for a recipe that invents none."""

    @property
    def is_recipe(self) -> bool:
        return self.kind not in STAGES


def list_tasks(workspace: Workspace) -> dict[str, str]:
    """List the tasks that a form offers: the shipped ones, and the files of one's own among the
    uploads and in the data folders; what a `Config` takes to the task's name."""
    own = {path: _name_task(Path(path)) for path in workspace.list_given(YAML)}
    return {name: name for name in SHIPPED} | {path: name for path, name in own.items() if name}


def _name_task(path: Path) -> str:
    return _read_task_name(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read_task_name(path: Path, changed_at: int) -> str:
    """Read the name of a task file; empty for a recipe, and for what is no task."""
    try:
        return load_task(path).name
    except MedkdError:
        return ""


def list_recipes(workspace: Workspace) -> dict[str, Path]:
    """List the shipped recipes, and those in the data folders, by the name of their file; one of a
    data folder never stands for a shipped one."""
    given = (path for path in map(Path, workspace.list_given(YAML)) if not _name_task(path))
    return {path.name: path for path in (*given, *sorted(RECIPES.glob("*.yaml")))}


def list_parts(kind: str, workspace: Workspace, language: str = "") -> list[Part]:
    """List the steps that a form asks about: one stage, or every step of a recipe, as it is for
    invented cases in a language."""
    if kind in STAGES:
        return [Part("", kind, read_fields(kind), {}, {})]
    parts: list[Part] = []
    content = _read_kind(kind, workspace)
    said = {REHEARSAL: {"language": language}} if language else {}
    override(content, fit_english(content, said, kind), kind)
    for step, section in content.items():
        stage = str(step).split("-")[0]
        if stage in STAGES and (isinstance(section, dict) or section is None):
            known = fill_in(stage, dict(cast(Mapping[str, Any], section or {})), content)
            given = {key: to_text(value) for key, value in known.items()}
            parts.append(Part(step, stage, read_fields(stage), given, {}))
    return parts


def _read_kind(kind: str, workspace: Workspace) -> dict[str, Any]:
    recipe = list_recipes(workspace).get(kind)
    if recipe is None:
        raise InputError("{}: no such stage or recipe; put it into a --data folder", kind[:80])
    return read_recipe(recipe)


def read_order(kind: str, sent: Mapping[str, Any], workspace: Workspace, is_filled: bool) -> Order:
    """Read what a form says; with `is_filled` false, what it says when it is opened: the values of
    the address, then presets, then suggestions, then defaults. An address with `m:` says it all."""
    run = str(sent.get("run") or "") or suggest_run(kind, workspace)
    own, language = find_language(kind, workspace), str(sent.get("language"))
    language = language if own and language in LANGUAGES else own
    parts = list_parts(kind, workspace, language)
    drawn = list_parts(kind, workspace, str(sent.get("l:") or language))
    for part, before in zip(parts, drawn, strict=True):
        for field in part.fields:
            box = part.key(field)
            text = sent.get(box) if is_filled else sent.get(box) or sent.get(field.name)
            if f"s:{box}" in sent or (text and not is_filled):
                said, usual = read_text(field, text), before.given.get(field.name, field.default)
                now = part.given.get(field.name, field.default)
                part.values[field.name] = now if said == usual else said
            elif is_filled or part.step or "m:" in sent:
                part.values[field.name] = part.given.get(field.name, field.default)
            else:
                part.values[field.name] = _suggest_one(part, field, workspace, run)
        if not part.step:
            _preset(part, str(sent.get("m:") or ""))
    return Order(kind, run, parts, language)


def find_language(kind: str, workspace: Workspace) -> str:
    """Return the language of the cases that a recipe invents; empty where it invents none."""
    content = {} if kind in STAGES else _read_kind(kind, workspace)
    section = content.get(REHEARSAL)
    return str(section.get("language", LANGUAGES[0])) if isinstance(section, dict) else ""


def _suggest_one(part: Part, field: Field, workspace: Workspace, run: str) -> str:
    """Return what a box of a stage alone holds when it is opened; of what other stages have made,
    that of this run alone."""
    if part.stage == "evaluate" and field.name in ("model", "adapter"):
        trained = [step for step in list_fed(workspace, "train", run) if step.run == run]
        if trained:
            of_model = to_text(trained[0].manifest.config.get("model"))
            return of_model if field.name == "model" else str(trained[0].path)
    if field.name == "task" and part.stage != "prepare":
        return _find_own_task(workspace, run)
    is_fed = field.name in STAGES[part.stage].feeds or field.name == "known"
    if not field.default and (field.is_required or is_fed):
        found, own = suggest(workspace, part.stage, field, run), workspace.runs / run
        return next((one for one in found if not is_fed or Path(one).parent == own), "")
    return field.default


def _find_own_task(workspace: Workspace, run: str) -> str:
    """Return the task file that the questions of a run were made by; empty for a shipped task."""
    steps = (step for step in workspace.list_steps(stage="prepare") if step.run == run)
    used = [to_text(step.manifest.config.get("task")) for step in steps]
    return used[-1] if used and used[-1] not in SHIPPED else ""


def _preset(part: Part, before: str) -> None:
    """Fill in what fits the chosen model, where nobody changed it: the shipped student trains as in
    the demo. `before` is the model that the values were for."""
    now = part.values.get("model", "")
    for field in part.fields if before != now else ():
        old = presets(part.stage, before).get(field.name, field.default)
        if field.name != "model" and part.values[field.name] == old:
            part.values[field.name] = presets(part.stage, now).get(field.name, field.default)


@cache
def presets(stage: str, model: str) -> Mapping[str, str]:
    """Return the values that fit a model: the demo's own for a shipped student."""
    if not is_shipped(model):
        return {}
    section = cast(dict[str, Any], read_recipe(find_recipe(PRESETS)).get(stage) or {})
    names = {field.name for field in read_fields(stage)} - {"model", "input", "adapter"}
    return {name: to_text(value) for name, value in section.items() if name in names}


def write_command(order: Order, workspace: Workspace) -> list[str]:
    """Write the words that start what the form says; raises InputError for a name or a path that is
    not allowed."""
    run = check_run(order.run)
    words: list[str] = []
    for part in order.parts:
        fields = part.layout.fields
        for field in fields:
            if part.values[field.name] != part.given.get(field.name):
                check_field(field, part.values[field.name], workspace)
        words += write_words(fields, part.values, part.given, part.step)
    if order.is_recipe:
        asked = (part.values["task"] for part in order.parts if part.stage == "prepare")
        # Every step has to know a task of one's own; a shipped one goes with the rows.
        words += [f"--task={task}" for task in asked if task not in (*SHIPPED, "")][:1]
        recipe = list_recipes(workspace)[order.kind]
        if order.language != find_language(order.kind, workspace):
            words.append(f"--rehearsal.language={order.language}")
        return ["run", str(recipe), f"--out={workspace.resolve(workspace.runs / run)}", *words]
    folder = workspace.runs / run
    out = workspace.resolve(folder / find_name(order.kind, folder))
    return [order.kind, *words, f"--out={out}"]


def check_field(field: Field, text: str, workspace: Workspace) -> None:
    """Raise InputError for a text that whatever reads it may take for a path outside; what a recipe
    itself names is its author's."""
    if field.kind in ("path", "paths", "texts", "mapping", "text"):
        is_one = field.kind in ("path", "text")
        for line in (text.strip(),) if is_one else map(str.strip, text.splitlines()):
            workspace.check(line, is_path=field.kind in ("path", "paths"))
            for mark in (mark for mark in (": ", "=") if mark in line):
                workspace.check(line.partition(mark)[2].strip(" \"'"))


def show_command(words: Sequence[str]) -> str:
    """Write a command as a person copies it; a shipped recipe goes by its name."""
    shown = list(words)
    if shown[0] == "run" and Path(shown[1]).parent == RECIPES:
        shown[1] = Path(shown[1]).stem
    return shlex.join(["medkd", *shown])


def check_run(name: str) -> str:
    """Check the name of a run; raises InputError where it could lead elsewhere."""
    name = name.strip().strip("/")
    parts = Path(name).parts
    is_allowed = name.isprintable() and len(name) <= 80 and len(parts) <= 2
    if not parts or not is_allowed or any(part.startswith((".", "-", "~")) for part in parts):
        raise InputError("name the run: letters, digits, - and /")
    if parts[0] == UPLOADS:
        raise InputError("{} holds what was uploaded; name the run otherwise", UPLOADS)
    return name


def read_values(part: Part, t: Texts) -> tuple[dict[str, Any], dict[str, str]]:
    """Read what the boxes of a step hold, for its `Config`; also returns what cannot be read, by
    the name of its box, in the reader's language."""
    values: dict[str, Any] = {"out": "out"}
    problems: dict[str, str] = {}
    for field in part.fields:
        text = part.values[field.name]
        is_emptied = field.kind in ("whole", "number") and text != field.default
        if text or (is_emptied and not field.is_optional):
            try:
                values[field.name] = to_value(field, text)
            except InputError as error:
                problems[part.key(field)] = t.error(error)
    return values, problems


def find_problems(order: Order, t: Texts) -> dict[str, str]:
    """Find what is wrong with each field, by the name of its box, in the reader's language."""
    problems: dict[str, str] = {}
    for part in order.parts:
        values, unread = read_values(part, t)
        problems |= unread
        boxes = {field.name: part.key(field) for field in part.fields}
        try:
            STAGES[part.stage].load().Config.model_validate(values)
        except ValidationError as error:
            for problem in error.errors():
                if not (part.step and problem["type"] == "missing"):  # an earlier step feeds it
                    name = str(problem["loc"][0]) if problem["loc"] else ""
                    problems.setdefault(boxes.get(name, ""), t.say(say_problem(problem)))
    return problems


def suggest_run(kind: str, workspace: Workspace) -> str:
    """Name the run that an order most likely is for: a new one for a recipe, the newest one for a
    stage."""
    if kind not in STAGES:
        return find_name(Path(kind).stem, workspace.runs)
    return next(iter(workspace.list_runs()), "first")


def find_name(name: str, folder: Path) -> str:
    """Return a name that nothing in a folder has yet, numbered where it is taken."""
    tries = (name if n == 1 else f"{name}-{n}" for n in range(1, 10_000))
    return next(one for one in tries if not (folder / one).exists())


def list_fed(workspace: Workspace, feeder: str, run: str) -> list[Step]:
    """List the steps of a stage that another may work on, the likeliest first: of this run; no
    variant such as `train-answers`; for an evaluation, of what was trained; the newest."""

    def rank(step: Step) -> tuple[bool, bool, bool, str]:
        is_tuned = feeder == "evaluate" and bool(step.manifest.config.get("adapter"))
        return step.run == run, step.is_plain, is_tuned, step.manifest.started_at

    steps = workspace.list_steps(stage=feeder)
    return sorted((s for s in steps if s.manifest.state == "finished"), key=rank, reverse=True)


def suggest(workspace: Workspace, stage: str, field: Field, run: str) -> list[str]:
    """Suggest values for a field: what the feeding stage made, first of this run; models; teachers;
    files of cases."""
    feeder = STAGES[stage].feeds.get(field.name) or ("train" if field.name == "adapter" else "")
    if feeder:
        return [str(step.path) for step in list_fed(workspace, feeder, run)[:N_OFFERED]]
    if stage == "deidentify" and field.name == "known":
        return [str(path) for path in [workspace.runs / run / KNOWN] if path.exists()]
    if field.name == "model" and stage in ("train", "reinforce", "evaluate", "export"):
        made = (str(step.path) for step in workspace.list_steps(stage="export"))
        return [*list_students(workspace, run), *made]
    if field.name == "task":
        own = [name for name in list_tasks(workspace) if name not in SHIPPED]
        return [*SHIPPED, *own] if stage == "prepare" else own
    if field.name == "teacher":
        return list(read_providers())
    if stage == "compare" and field.name == "input":
        return [str(step.path) for step in workspace.list_steps(run or None, stage="evaluate")]
    return workspace.list_given(FILES) if field.kind in ("path", "paths") else []


def list_students(workspace: Workspace, run: str) -> list[str]:
    """List the shipped students, first the one that reads most questions of a run."""
    prepared = (step for step in workspace.list_steps(stage="prepare") if step.run == run)
    read = ([step.facts.languages for step in prepared] or [{}])[-1]
    ordered = sorted(SHIPPED_STUDENTS, key=lambda language: -read.get(language, 0))
    return [SHIPPED_STUDENTS[language] for language in ordered]


def asks_key(part: Part) -> bool:
    """Tell whether a step asks somebody who may want a key."""
    teacher = read_providers().get(part.values.get("teacher", ""))
    chosen = (part.values.get(name, "") for name in ASKING)
    asks = part.stage in ("distill", "rubric") or any(text not in ("", "false") for text in chosen)
    return asks and (teacher is None or teacher.key_needed)


def find_teacher(words: Sequence[str], cwd: Path) -> Provider | None:
    """Find the teacher whom a command asks, or its recipe; None where it names none and has no
    usual one. `cwd` is where the command is given."""
    recipe: dict[str, Any] = {words[0]: {}}
    if words[0] == "run":
        recipe = read_recipe(words[1], cwd)
    sections = (section for section in recipe.values() if isinstance(section, dict))
    named = [str(section["teacher"]) for section in sections if "teacher" in section]
    asks = any(str(step).split("-")[0] in ("distill", "rubric") for step in recipe)
    usual = [field.default for field in read_fields("distill") if asks and field.name == "teacher"]
    candidates = [*(word.rpartition("=")[2] for word in words), *named, *usual]
    return next((read_providers()[name] for name in candidates if name in read_providers()), None)


def lacks_key(words: Sequence[str], cwd: Path) -> bool:
    """Tell whether a command asks a teacher whose key is in no variable of the studio's own: it was
    typed in, and is kept nowhere."""
    try:
        teacher = find_teacher(words, cwd)
    except MedkdError:  # the recipe is gone
        return False
    return bool(teacher and teacher.key_needed and not os.environ.get(teacher.key_variable))


def hand_over(words: Sequence[str], secret: str, cwd: Path) -> dict[str, str]:
    """Return the environment that hands a key to the teacher whom a command asks."""
    teacher = find_teacher(words, cwd) if secret.strip() else None
    return {teacher.key_variable: secret.strip()} if teacher else {}


def count_input(part: Part, workspace: Workspace) -> int:
    """Count the records that are worked on, of the first of several files; 0 where it is not
    known."""
    name, limit = part.values.get("input", "").split("\n")[0], part.values.get("limit", "")
    if not name:
        return 0
    n_rows = count_taken(workspace.resolve(Path(name).absolute()), part.stage)
    return min(n_rows, int(limit)) if limit.isdecimal() else n_rows


def estimate_time(n_rows: int, values: Mapping[str, str], workspace: Workspace) -> float | None:
    """Estimate the seconds of a training by the longest earlier one of the same model on this
    machine, of which the start is the least part; None where there was none."""
    found: list[tuple[float, float]] = []
    for manifest in (s.manifest for s in workspace.list_steps(stage="train")[-N_LOOKED_AT:]):
        known, n_seen = manifest.config, manifest.counts.kept
        same = all(to_text(known.get(name)) == values[name] for name in ("model", "method"))
        if manifest.state == "finished" and same and n_seen and (epochs := read_epochs(known)):
            found.append((n_seen * epochs, manifest.seconds))
    if not found:
        return None
    n_before, seconds = max(found)
    return seconds / n_before * n_rows * float(values["epochs"] or 1)
