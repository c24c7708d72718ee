"""The composition root: which stages there are, how a recipe wires them, and running one or all.

In: a recipe and overrides. Out: one folder a step in the run directory, then the run's report. A
finished, unchanged step is skipped; a killed run, started again, goes on. Not done here: what a
stage does, and the command line.
"""

import importlib
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from medkd.core.config import StageConfig, did_you_mean, make_config, read_recipe
from medkd.core.errors import InputError, ProofError
from medkd.core.stage_output import Manifest


class Stage(NamedTuple):
    """A stage: where its `Config` and `run` live, what it does, and which earlier stage feeds each
    of its paths."""

    module: str
    summary: str
    feeds: Mapping[str, str]

    def load(self) -> ModuleType:
        return importlib.import_module(self.module)


STAGES: dict[str, Stage] = {
    "collect": Stage(
        "medkd.collect.stage", "Collect patient cases from a case site or from files.", {}
    ),
    "deidentify": Stage(
        "medkd.deidentify.stage",
        "Find identifiers in cases and replace them.",
        {"input": "collect"},
    ),
    "prepare": Stage(
        "medkd.prepare.stage",
        "Turn cases into questions that do not hold their own answer.",
        {"input": "deidentify"},
    ),
    "distill": Stage(
        "medkd.distill.stage",
        "Have a teacher write the reasoning to each known diagnosis.",
        {"input": "prepare"},
    ),
    "verify": Stage(
        "medkd.verify", "Keep sound rationales and say why the rest fell.", {"input": "distill"}
    ),
    "merge": Stage(
        "medkd.merge.stage",
        "Merge rationales and open datasets into train, val and test.",
        {"input": "verify"},
    ),
    "train": Stage(
        "medkd.train.stage", "LoRA-tune a student on the merged dataset.", {"input": "merge"}
    ),
    "reinforce": Stage(
        "medkd.train.reinforce",
        "Reinforce a student for right, grounded, finished answers.",
        {"input": "merge", "adapter": "train"},
    ),
    "evaluate": Stage(
        "medkd.evaluate.stage",
        "Ask a model unseen questions and score its answers.",
        {"input": "merge"},
    ),
    "compare": Stage(
        "medkd.evaluate.compare", "Set evaluations side by side, on the same questions.", {}
    ),
    "export": Stage(
        "medkd.export.stage",
        "Merge an adapter into a model folder that proves itself.",
        {"adapter": "train", "evaluation": "evaluate"},
    ),
}
REFERENCES = ("input", "adapter", "model", "evaluation")
"""Fields in which the name of an earlier step stands for its folder."""


class Rehearsal(BaseModel):
    """The rehearsal world of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    cases: int = Field(default=720, ge=1)
    """Cases on the site."""
    seed: int = 7
    """Seed of the cases."""
    faults: float = Field(default=0.0, ge=0, lt=1)
    """Share of the teacher's answers that go wrong."""


class Step(NamedTuple):
    """One section of a recipe, ready to run."""

    name: str
    stage: str
    config: StageConfig


class Plan(NamedTuple):
    """A whole recipe, validated before anything starts."""

    out: Path
    steps: list[Step]
    report: dict[str, str]
    """Name of a model in the report to the step that evaluated it."""


def plan(
    content: Mapping[str, Any], place: str, out: Path | None, overwrite: bool, servers: ExitStack
) -> Plan:
    """Validate every section of a recipe, start the rehearsal world where one is asked for, and
    wire the steps.

    Raises InputError naming the section, the key and the nearest valid one.
    """
    sections = dict(content)
    run_dir = out or Path(str(sections.pop("out", f"runs/{Path(place).stem}")))
    sections.pop("out", None)
    report = {
        str(k): str(v)
        for k, v in _take_section(sections.pop("report", {}), "report", place).items()
    }
    rehearsal = make_config(
        Rehearsal,
        _take_section(sections.pop("rehearsal", {}), "rehearsal", place),
        f"{place}: rehearsal",
    )
    known = list(STAGES)
    done: list[str] = []
    drafts: list[tuple[str, str, dict[str, Any]]] = []
    for name, given in sections.items():
        stage = str(name).split("-")[0]
        if stage not in STAGES:
            raise InputError(
                f"{place}: unknown section {name!r}{did_you_mean(stage, [*known, 'rehearsal', 'report', 'out'])}"
            )
        drafts.append(
            (
                name,
                stage,
                _wire(name, stage, _take_section(given, name, place), run_dir, done, overwrite),
            )
        )
        done.append(name)
    for name, step in report.items():
        if step not in done:
            raise InputError(f"{place}: report: {name}: no step {step!r}{did_you_mean(step, done)}")
    _check(drafts, place)
    _start_rehearsal(drafts, rehearsal, servers)
    return Plan(run_dir, [_make_step(draft, place) for draft in drafts], report)


def _take_section(given: Any, name: str, place: str) -> dict[str, Any]:
    """Copy a section's fields; an empty one has none."""
    if not isinstance(given or {}, dict):
        raise InputError(f"{place}: section {name!r} must be a mapping of fields")
    return dict(given or {})


def _wire(
    name: str, stage: str, fields: dict[str, Any], run_dir: Path, done: list[str], overwrite: bool
) -> dict[str, Any]:
    """Fill in `out` and the paths that earlier steps feed; a step's name stands for its folder."""
    fields.setdefault("out", run_dir / name)
    if overwrite:
        fields["overwrite"] = True
    for field, feeder in STAGES[stage].feeds.items():
        if feeder in done:
            fields.setdefault(field, feeder)
    for field in REFERENCES:
        if isinstance(fields.get(field), str) and fields[field] in done:
            folder = run_dir / fields[field]
            fields[field] = str(folder / "adapter" if field == "adapter" else folder)
    if isinstance(fields.get("input"), list):
        fields["input"] = [run_dir / item if item in done else item for item in fields["input"]]
    return fields


def _check(drafts: list[tuple[str, str, dict[str, Any]]], place: str) -> None:
    for draft in drafts:
        _make_step(draft, place)


def _make_step(draft: tuple[str, str, dict[str, Any]], place: str) -> Step:
    name, stage, fields = draft
    return Step(name, stage, make_config(STAGES[stage].load().Config, fields, f"{place}: {name}"))


def _start_rehearsal(
    drafts: list[tuple[str, str, dict[str, Any]]], rehearsal: Rehearsal, servers: ExitStack
) -> None:
    """Start the case site and the teacher for the steps that name them, on free loopback ports."""
    from medkd.demo.mock_site import serve_site
    from medkd.demo.synthetic_cases import generate_cases
    from medkd.demo.teacher import serve_teacher

    for _, stage, fields in drafts:
        if stage == "collect" and fields.get("base_url") == "rehearsal":
            site = servers.enter_context(
                serve_site(generate_cases(rehearsal.cases, rehearsal.seed))
            )
            fields["base_url"] = site.base_url
        if stage == "distill" and fields.get("teacher") == "rehearsal" and "base_url" not in fields:
            teacher = servers.enter_context(
                serve_teacher(faults=rehearsal.faults, seed=rehearsal.seed)
            )
            fields["base_url"] = teacher.base_url


def override(
    content: dict[str, Any], overrides: Mapping[str, Mapping[str, Any]], place: str
) -> None:
    """Put fields of the command line in the place of the recipe's; a stage that has variants only
    means all of them."""
    for given, fields in overrides.items():
        variants = [name for name in content if name.split("-")[0] == given]
        for name in [given] if given in content or not variants else variants:
            content[name] = _take_section(content.get(name), name, place) | dict(fields)


def run_recipe(
    path: Path,
    out: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> Path:
    """Run every step of a recipe and write the run's report; returns the run directory.

    Raises what a step raises; ProofError only after the report is written.
    """
    content = read_recipe(path)
    override(content, overrides or {}, str(path))
    collect = _take_section(content.get("collect"), "collect", str(path))
    is_rehearsal = collect.get("base_url") == "rehearsal"
    with ExitStack() as servers:
        planned = plan(content, str(path), out, overwrite, servers)
        unproven: ProofError | None = None
        started = time.monotonic()
        for number, step in enumerate(planned.steps, start=1):
            try:
                _run_step(step, f"[{number}/{len(planned.steps)}]")
            except ProofError as error:
                unproven = error
    seconds = time.monotonic() - started
    if planned.report:
        from medkd.report import write_report

        write_report(planned.out, planned.report, seconds, is_rehearsal)
    if unproven:
        raise unproven
    return planned.out


def _run_step(step: Step, counter: str) -> Manifest:
    """Run one step and say on one line what came out."""
    began = time.monotonic()
    print(f"{counter} {step.name}", file=sys.stderr, flush=True)
    manifest: Manifest = STAGES[step.stage].load().run(step.config)
    counts = manifest.counts
    dropped = "".join(f", {n} {reason}" for reason, n in counts.dropped.items())
    cost = (
        f", cost {manifest.cost.amount:.4f} {manifest.cost.currency}"
        if manifest.cost.amount
        else ""
    )
    took = time.monotonic() - began
    is_skipped = took < 1 and manifest.seconds > 2 * took + 1
    how = "already done" if is_skipped else f"{took:.1f} s"
    print(
        f"{counter} {step.name}: {how}; {counts.read} in, {counts.kept} kept{dropped}{cost}",
        file=sys.stderr,
        flush=True,
    )
    return manifest
