"""The composition root: how a recipe wires the stages, and running them.

In: a recipe and overrides. Out: one folder a step in the run directory, then the run's report. A
finished, unchanged step is skipped; a killed run is continued. Not done here: what a stage does.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import Field

from medkd.core.config import (
    RECIPES,
    SENDS_KEY,
    ConsentField,
    Options,
    Seed,
    StageConfig,
    did_you_mean,
    find_recipe,
    make_config,
    read_recipe,
)
from medkd.core.errors import InputError, ProofError, Said, StoppedError
from medkd.core.i18n import tell
from medkd.core.records import Language
from medkd.core.stage_output import Manifest, is_finished
from medkd.core.statistics import MIN_QUESTIONS
from medkd.models.load import SHIPPED_STUDENTS, resolve_model
from medkd.report.lineage import is_play_money
from medkd.report.run import write_run_report
from medkd.rounds import RoundKeeper, Rounds, expand
from medkd.stages import STAGES
from medkd.text.tables import is_hub_name

OF_ALL = ("task", "student")
"""Keys at the top of a recipe whose value goes to every step that has such a field."""
OF_STUDENT = ("select", "train", "reinforce", "evaluate")
"""Stages whose `model` is the student; an adapter that is exported names its own."""
OF_TRAINER = ("select", "train", "reinforce")
"""Stages that cannot begin without the packages of training."""
REFERENCES = ("input", "adapter", "model", "evaluation", "from", "pairs")
"""Fields in which the name of an earlier step means its folder."""


ENGLISH: dict[str, dict[str, Any]] = {
    "merge": {"near": 1, "contained": 1},  # a few moulds, of many characters
}
"""What invented cases in English take of a stage."""
REHEARSAL = "rehearsal"
"""What a recipe names where the demo's own site, teacher or rows are meant."""


class Rehearsal(Options):
    """The mock case site and teacher of a run."""

    cases: int = Field(default=720, ge=1)
    """Number of cases on the site."""
    seed: Seed = 7
    """Seed of the cases."""
    faults: float = Field(default=0.0, ge=0, lt=1)
    """Share of the teacher's answers that fail."""
    language: Language = "zh"
    """Language of the cases and questions."""


class Step(NamedTuple):
    """One section of a recipe, ready to run."""

    name: str
    stage: str
    config: StageConfig
    round: int = 0
    """Number of the round it is of; 0 outside of rounds."""


class Plan(NamedTuple):
    """A whole recipe, validated before anything starts."""

    out: Path
    steps: list[Step]
    report: dict[str, str]
    """Name of a model in the report to the step that evaluated it."""
    rounds: Rounds | None = None


def check_consent(recipe: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError where a recipe that is not shipped would run a command, load code, or send
    a key to another host."""
    if recipe.resolve().is_relative_to(RECIPES.resolve()):
        return
    for section, given in content.items():
        stage = str(section).split("-")[0]
        if stage not in STAGES or not isinstance(given, dict):
            continue
        for name, field in STAGES[stage].load().Config.model_fields.items():
            value = cast(dict[str, Any], given).get(name)
            for mark in field.metadata:
                if isinstance(mark, ConsentField) and not _is_harmless(mark, value, field.default):
                    raise InputError(
                        "{}: {}: {}: {!r} {}; read the recipe, then allow it with --trust-recipe",
                        recipe,
                        section,
                        name,
                        value,
                        mark.risk,
                    )


def _is_harmless(mark: ConsentField, value: object, default: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_harmless(mark, one, default) for one in cast("list[object]", value))
    if value in (None, False, "", default):
        return True
    if mark is not SENDS_KEY:
        return False
    from medkd.completers.providers import is_loopback

    try:
        addresses = str(value).split(",")
        return all("://" not in one or is_loopback(one.strip()) for one in addresses)
    except ValueError:  # no address at all; whoever takes it says so
        return False


class Draft(NamedTuple):
    """A section of a recipe that is wired and not yet checked."""

    name: str
    stage: str
    fields: dict[str, Any]
    round: int = 0


def plan(
    content: Mapping[str, Any], place: str, out: Path | None, overwrite: bool, servers: ExitStack
) -> Plan:
    """Validate every section of a recipe, start the mock servers that it names, and wire the steps.

    Raises InputError naming the section, the key and the nearest valid one.
    """
    sections = dict(content)
    named = sections.pop("out", f"runs/{Path(place).stem}")
    run_dir = out or Path(str(named))
    listed = _take_section(sections.pop("report", {}), "report", place)
    report = {str(model): str(step) for model, step in listed.items()}
    given = _take_section(sections.pop("rehearsal", {}), "rehearsal", place)
    rehearsal = make_config(Rehearsal, given, f"{place}: rehearsal")
    of_all = {key: sections.pop(key, None) for key in OF_ALL}
    listed = _take_section(sections.pop("rounds", {}), "rounds", place)
    rounds = make_config(Rounds, listed, f"{place}: rounds") if listed else None
    drafts: list[Draft] = []
    done: list[str] = []

    def draft(name: str, section: str, fields: Any, number: int = 0) -> None:
        stage = str(section).split("-")[0]
        if stage not in STAGES:
            known = [*STAGES, "rehearsal", "report", "rounds", "out", *OF_ALL]
            raise InputError("{}: unknown section {!r}{}", place, name, did_you_mean(stage, known))
        taken = fill_in(stage, _take_section(fields, name, place), of_all)
        wired = _wire(name, stage, taken, run_dir, done, overwrite, number)
        drafts.append(Draft(name, stage, wired, number))
        done.append(name)

    for name, fields in sections.items():
        draft(name, name, fields)
    for step in expand(rounds, run_dir, place, list(done)) if rounds else ():
        draft(step.name, step.section, step.fields, int(step.name.rpartition("-")[2]))
    for name, step in report.items():
        if step not in done:
            raise InputError(
                "{}: report: {}: no step {!r}{}", place, name, step, did_you_mean(step, done)
            )
    for one in drafts:
        _make_step(one, place)  # what is wrong is said before a server is started
    _rehearse(drafts, rehearsal, servers, run_dir / "rehearsal", str(of_all["task"] or ""))
    return Plan(run_dir, [_make_step(one, place) for one in drafts], report, rounds)


def fill_in(stage: str, fields: dict[str, Any], of_all: Mapping[str, Any]) -> dict[str, Any]:
    """Put the task and the student of a whole recipe into a step that has such a field and does
    not say its own."""
    filled = dict(fields)
    task, student = of_all.get("task"), of_all.get("student")
    field = STAGES[stage].load().Config.model_fields.get("task")
    if task and field is not None and field.annotation is str:
        filled.setdefault("task", task)
    is_elsewhere = filled.get("endpoint") or filled.get("predictions")
    if student and stage in OF_STUDENT and not is_elsewhere:
        filled.setdefault("model", student)
    return filled


def _take_section(given: Any, name: str, place: str) -> dict[str, Any]:
    """Copy a section's fields; an empty one has none."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError("{}: section {!r} must be a mapping of fields", place, name)
    fields = cast(dict[Any, Any], given)
    if wrong := next((key for key in fields if not isinstance(key, str)), None):
        raise InputError(
            "{}: section {!r}: the key {!r} must be text; quote it", place, name, wrong
        )
    return dict(fields)


def _wire(
    name: str,
    stage: str,
    fields: dict[str, Any],
    run_dir: Path,
    done: list[str],
    overwrite: bool,
    number: int = 0,
) -> dict[str, Any]:
    """Fill in `out` and the paths that earlier steps feed, those of the same round first; a step's
    name means its folder."""
    fields.setdefault("out", run_dir / name)
    if overwrite:
        fields["overwrite"] = True
    for field, feeder in STAGES[stage].feeds.items():
        for fed in (f"{feeder}-{number}", feeder):
            if fed in done:
                fields.setdefault(field, fed)
    for field in REFERENCES:
        if isinstance(fields.get(field), str) and fields[field].split("/")[0] in done:
            folder = run_dir / fields[field]
            fields[field] = str(folder / "adapter" if field == "adapter" else folder)
    for field in ("input", "pairs"):
        if isinstance(fields.get(field), list):
            fields[field] = [run_dir / item if item in done else item for item in fields[field]]
    return fields


def _make_step(draft: Draft, place: str) -> Step:
    config = make_config(STAGES[draft.stage].load().Config, draft.fields, f"{place}: {draft.name}")
    return Step(draft.name, draft.stage, config, draft.round)


def _rehearse(
    drafts: list[Draft], rehearsal: Rehearsal, servers: ExitStack, folder: Path, task: str
) -> None:
    """Put the mock case site and teacher, on free local ports, and made files of rows in the place
    of `rehearsal`."""
    from medkd.demo.mock_site import serve_site
    from medkd.demo.synthetic_cases import generate_cases, write_open_datasets, write_pairs
    from medkd.demo.teacher import serve_teacher

    n, seed, language = rehearsal.cases, rehearsal.seed, rehearsal.language
    for _, stage, fields, _ in drafts:
        if stage == "collect" and fields.get("input") == REHEARSAL:
            fields["input"] = write_pairs(folder, n, seed, task, language)
        elif stage == "collect" and fields.get("base_url") == REHEARSAL:
            cases = generate_cases(n, seed, language)
            fields["base_url"] = servers.enter_context(serve_site(cases)).base_url
        if stage == "prepare" and fields.get("check_leaks") == REHEARSAL:
            fields.setdefault("check_base_url", servers.enter_context(serve_teacher()).base_url)
        given = fields.get("input")
        merged = cast("list[Any]", given) if isinstance(given, list) else [given]
        if stage == "merge" and REHEARSAL in merged:
            made = write_open_datasets(folder, n, seed, language)
            fields["input"] = [item for item in merged if item != REHEARSAL] + made
        if stage == "distill" and fields.get("teacher") == REHEARSAL and "base_url" not in fields:
            teacher = serve_teacher(faults=rehearsal.faults, seed=seed)
            fields["base_url"] = servers.enter_context(teacher).base_url
            fields.setdefault("accept_identified", True)  # the mock teacher is this very process


def override(content: dict[str, Any], overrides: Mapping[str, Any], place: str) -> None:
    """Replace fields of a recipe by those of the command line; a stage that has only variants
    means all of them."""
    for given, fields in overrides.items():
        if given in OF_ALL:
            content[given] = fields
            continue
        variants = [name for name in content if str(name).split("-")[0] == given]
        for name in [given] if given in content or not variants else variants:
            content[name] = _take_section(content.get(name), name, place) | dict(fields)


def fit_english(
    content: Mapping[str, Any], overrides: Mapping[str, Any], place: str
) -> dict[str, Any]:
    """Return what the steps of a recipe take where its cases are invented and in English."""
    said = [_take_section(one.get(REHEARSAL), REHEARSAL, place) for one in (content, overrides)]
    if "collect" not in content or (said[0] | said[1]).get("language") != "en":
        return {}
    stages = {str(name): str(name).split("-")[0] for name in content}
    fit = {
        name: ENGLISH[stage] | _take_section(content[name], name, place)
        for name, stage in stages.items()
        if stage in ENGLISH
    }
    is_tiny = content.get("student") == SHIPPED_STUDENTS["zh"]
    return fit | ({"student": SHIPPED_STUDENTS["en"]} if is_tiny else {})


def plan_recipe(
    path: Path,
    out: Path | None,
    overrides: Mapping[str, Any] | None,
    overwrite: bool,
    trust_recipe: bool,
    lang: Language | None,
    servers: ExitStack,
) -> Plan:
    """Plan a recipe; raise InputError for whatever can be told before its first step."""
    path = find_recipe(path)
    content = read_recipe(path)
    if not trust_recipe:
        check_consent(path, content)
    override(content, fit_english(content, overrides or {}, str(path)), str(path))
    override(content, overrides or {}, str(path))
    for name in [n for n in content if lang and str(n).split("-")[0] in ("evaluate", "compare")]:
        content[name] = {**_take_section(content[name], name, str(path)), "lang": lang}
    planned = plan(content, str(path), out, overwrite, servers)
    _check_ahead(planned.steps)
    return planned


def run_recipe(
    path: Path,
    out: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    trust_recipe: bool = False,
    lang: Language | None = None,
    say_next: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Run every step of a recipe and write the run's report; returns the run directory, which
    `say_next` is told at the end, proven model or not.

    Raises what a step raises; ProofError only after that.
    """
    with ExitStack() as servers:
        planned = plan_recipe(path, out, overrides, overwrite, trust_recipe, lang, servers)
        unproven: ProofError | None = None
        n_steps = len(planned.steps)
        for number, step in enumerate(planned.steps, start=1):
            if step.round:
                continue
            try:
                manifest = _run_step(step, f"[{number}/{n_steps}]")
            except ProofError as error:
                unproven = error
                continue
            if step.stage == "prepare":
                _check_splits(manifest, step, planned)
        report = planned.report
        if planned.rounds:
            report |= _run_rounds(planned, planned.rounds)
    if report:
        write_run_report(planned.out, report, lang or "en")
    say_next(planned.out)
    if unproven:
        raise unproven
    return planned.out


def _check_ahead(steps: Sequence[Step]) -> None:
    """Raise InputError before the first step for what a later one would be refused for: a stage's
    `check` tells what its config alone shows, as a missing key."""
    for step in (one for one in steps if not is_finished(one.config.out)):
        given = getattr(step.config, "input", None)
        if step.stage == "collect" and given and not (is_hub_name(given) or given.exists()):
            raise InputError("{}: no such file; check {}", given, f"--{step.name}.input")
        model = getattr(step.config, "model", "") if step.stage in ("train", "reinforce") else ""
        if model and "/" not in model and Path(model) not in {one.config.out for one in steps}:
            resolve_model(model)  # no name on a hub: nothing is fetched
        check = getattr(STAGES[step.stage].load(), "check", None)
        if check:
            check(step.config)
    learning = next((step.name for step in steps if step.stage in OF_TRAINER), "")
    if learning and not find_spec("trl"):
        tell(
            "note: {} and what follows need more packages: pip install 'medkd[train]'; the steps "
            "before it are done without",
            learning,
            to=sys.stderr,
        )


def _check_splits(prepared: Manifest, step: Step, planned: Plan) -> None:
    """Raise InputError before anything is paid for where a later step would read a split that got
    no question; rows that merge takes from elsewhere may fill it."""
    n_of: dict[str, int] = prepared.facts.get("splits", {})
    for later in planned.steps[planned.steps.index(step) :]:
        given: Any = getattr(later.config, "input", None)
        read = [Path(str(item)) for item in (given if isinstance(given, list | tuple) else [given])]
        if later.stage == "merge" and any(path.parent != planned.out for path in read):
            return
        split = "train" if later.stage == "train" else getattr(later.config, "split", "")
        wanted = split == "train" or getattr(step.config, f"{split}_share", 0)
        if given and split and wanted and not n_of.get(split):
            raise InputError(
                "{}: {} questions, and none of them in the split {} that the step {} reads; bring "
                "more cases (30 or more), or pass another --{}.seed",
                step.config.out,
                sum(n_of.values()),
                split,
                later.name,
                step.name,
            )
    n_kept = n_of.get("val", 0)
    if n_kept < MIN_QUESTIONS and any(one.stage == "export" for one in planned.steps):
        tell(
            "warning: {} questions are kept for validation and a proof takes {}, so the export "
            "will be UNPROVEN; bring more cases, or raise --{}.val-share",
            n_kept,
            MIN_QUESTIONS,
            step.name,
            to=sys.stderr,
        )


def _run_rounds(planned: Plan, rounds: Rounds) -> dict[str, str]:
    """Run rounds until one gains no more, the budget is spent or nothing is left to buy; returns
    their evaluations by the names they have in the report."""
    keeper = RoundKeeper(rounds, planned.out)
    report: dict[str, str] = {}
    why = ""
    for number in range(1, rounds.most + 1):
        for step in (one for one in planned.steps if one.round == number):
            try:
                _run_step(step, f"[round {number}]")
            except StoppedError as error:
                if step.stage != "distill" or not str(error).startswith("--budget"):
                    raise
                keeper.note_budget()
            if why := keeper.find_reason_to_skip(step.name, number):
                break
        if why:
            tell("rounds: {}", why, to=sys.stderr)
            break
        report[f"round_{number}"] = f"{rounds.watch}-{number}"
        why = keeper.close(number)
        tell("rounds: {}", keeper.describe(why), to=sys.stderr)
        if why:
            break
    keeper.write()
    return report


def _run_step(step: Step, counter: str) -> Manifest:
    """Run one step and say on one line what came out."""
    began = time.monotonic()
    print(f"{counter} {step.name}", file=sys.stderr, flush=True)
    manifest: Manifest = STAGES[step.stage].load().run(step.config)
    cost = manifest.cost
    paid: str = ""
    if cost.amount:
        said = ", cost {:.4f} {} of play money" if is_play_money(manifest) else ", cost {:.4f} {}"
        paid = Said(said, cost.amount, cost.currency)
    took = time.monotonic() - began
    is_skipped = took < 1 and manifest.seconds > 2 * took + 1
    how = Said("already done") if is_skipped else Said("{:.1f} s", took)
    counts = manifest.describe_counts()
    tell("{} {}: {}; {}{}", counter, step.name, how, counts, paid, to=sys.stderr)
    return manifest
