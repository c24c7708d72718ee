"""What a report is made of: finished evaluations, held against the first of them, the steps of a
run, and wording.

In: the directory of a run or of one step. Out: `Material`; the questions that several evaluations
share, and paired tests on them. Not done here: measuring, which the steps did; sections.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medkd.core.errors import InputError
from medkd.core.jsonl import MANIFEST, RecordReader, resolve_input
from medkd.core.records import Prediction
from medkd.core.stage_output import Manifest, read_manifest
from medkd.core.statistics import (
    MIN_QUESTIONS,
    Difference,
    compare_paired,
    compare_undecided,
    find_significant,
)
from medkd.grading.scores import (
    ACCURACY,
    LARGEST,
    OVERLAP,
    SEED,
    Row,
    break_down,
    find_bounds,
    find_verdict,
    summarise,
    to_columns,
)
from medkd.models.inspect import read_json
from medkd.report.document import Note, Plot

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

REHEARSAL = "rehearsal"
ROWS = "rows.jsonl"
PREDICTIONS = "predictions.jsonl"
GENERAL = "general_rows.jsonl"
"""Scores of the questions outside the task."""
SUMMARY = "summary.json"
"""What a run leaves besides its pages: scores by model, and the step of each."""
AGREEMENT = "agreement.json"
"""What people said of a sample of the answers (`evaluate.review`)."""
TESTED = (
    "diagnosis_accuracy",
    "exam_accuracy",
    "text_accuracy",
    "number_accuracy",
    "judged_accuracy",
    "rubric_score",
    "general_accuracy",
    "diagnosis_f1",
    "think_format_rate",
    "loop_rate",
    "stop_rate",
    *OVERLAP,
    "judge_score",
)
CONDITIONS = ("generator", "dtype", "temperature", "top_p", "max_tokens")
"""Facts and settings that move scores without any difference between the models."""


class Evaluation(NamedTuple):
    """One evaluation, ready to be shown."""

    name: str
    scores: Mapping[str, Any]
    predictions: Sequence[Prediction]
    rows: Sequence[Row]
    breakdown: Mapping[str, Any]
    manifest: Manifest
    general: Sequence[Row] = ()
    """Scores of the questions outside the task."""
    people: Mapping[str, Any] | None = None
    """What people said of a sample (`agreement.json`)."""


def name_model(manifest: Manifest) -> str:
    """Name what was evaluated."""
    config = manifest.config
    if config.get("predictions"):
        return Path(config["predictions"]).name
    model = " at ".join(filter(None, (config.get("model"), config.get("endpoint"))))
    return f"{model} + {config['adapter']}" if config.get("adapter") else model


def read_evaluation(
    directory: Path, name: str = "", manifest: Manifest | None = None
) -> Evaluation:
    """Read an evaluation from its directory; raises InputError where its files are not of one."""
    rows_path = resolve_input(directory / ROWS, ROWS, made_by="evaluate")
    answers_path = resolve_input(directory / PREDICTIONS, "", made_by="evaluate")
    rows = list(RecordReader(rows_path, Row, made_by="evaluate"))
    predictions = list(RecordReader(answers_path, Prediction, made_by="evaluate"))
    scores, breakdown = (_read_mapping(directory / f"{n}.json") for n in ("scores", "breakdown"))
    _check_rows(directory, rows, predictions, scores)
    manifest = manifest or read_manifest(directory)
    general: list[Row] = []
    if (path := directory / GENERAL).exists() and path.stat().st_size:
        general = list(RecordReader(path, Row, made_by="evaluate"))
    return Evaluation(
        name or name_model(manifest),
        scores,
        predictions,
        rows,
        breakdown,
        manifest,
        general,
        read_json(directory / AGREEMENT),
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if content is None:
        raise InputError('{}: no such file, or no mapping; run "medkd evaluate" again', path)
    return content


def _check_rows(
    directory: Path,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    scores: Mapping[str, Any],
) -> None:
    """Refuse files of one directory that are not of one evaluation: a question without its answer,
    twice the same question, or other scores than the rows come to."""
    lengths = {p.id: len(p.question or p.prompt) for p in predictions}
    unlike = [row.id for row in rows if lengths.get(row.id) != row.n_characters]
    problem = ""
    if unlike:
        n = f"{len(unlike)} of {len(rows)}"
        problem = f"{n} rows have no answer in predictions.jsonl (first: {unlike[0]})"
    elif len({row.id for row in rows}) < len(rows) or len(rows) != scores.get("n"):
        problem = f"{len(rows)} rows, but scores.json counts {scores.get('n')} questions"
    else:
        means = {name: sum(column) / len(column) for name, column in to_columns(rows).items()}
        changed = [n for n, mean in means.items() if abs(mean - scores.get(n, mean)) > 1e-5]
        if changed:
            problem = f"{changed[0]} of the rows is not what scores.json says"
    if problem:
        raise InputError(
            "{}: {}; run this evaluation again with --overwrite", directory / ROWS, problem
        )


# Several evaluations


class Comparison(NamedTuple):
    """Evaluations on the questions that all were asked, the others held against the first."""

    evaluations: list[Evaluation]
    differences: Mapping[str, Mapping[str, Difference]]
    """Model to score to how it differs from the first."""
    tests: list[dict[str, Any]]
    """The same as lines of a table, Holm's correction over all of them."""
    notes: list[Note]
    n_asked: int
    """Questions that any model was asked."""


def compare(evaluations: Sequence[Evaluation], places: Sequence[Path]) -> Comparison:
    """Hold evaluations against the first; raises InputError where they share no question, or
    questions of one id differ."""
    evaluations = [evaluations[0], *(match_ids(evaluations[0], e) for e in evaluations[1:])]
    shared = find_shared(evaluations, places)
    kept = [keep_shared(evaluation, shared) for evaluation in evaluations]
    verdicts = {row.id: find_verdict(row.scores) for row in kept[0].rows}
    before = {i: verdict for i, verdict in verdicts.items() if verdict is not None}
    kept = [e._replace(breakdown={**e.breakdown, **break_down(e.rows, before)}) for e in kept]
    differences = hold_against_first(kept)
    n_asked = len({row.id for e in evaluations for row in e.rows})
    notes = find_unlike(kept)
    if n_asked > len(shared):
        line = "Questions that not all models were asked: {n} of {total}; the others are compared."
        notes.insert(0, Note(line, {"n": n_asked - len(shared), "total": n_asked}))
    return Comparison(kept, differences, show_tests(differences), notes, n_asked)


def match_ids(first: Evaluation, other: Evaluation) -> Evaluation:
    """Give the questions of an evaluation the ids of another one where none is in both: a file of
    predictions numbers its rows. They are told by their text; one that stands twice keeps its
    id."""
    if {row.id for row in first.rows} & {row.id for row in other.rows}:
        return other
    known, asked = ({p.id: _digest(p) for p in e.predictions} for e in (first, other))
    by_text = {text: i for i, text in known.items()}
    n_known, n_asked = Counter(known.values()), Counter(asked.values())
    new = {i: by_text[t] for i, t in asked.items() if n_known[t] == n_asked[t] == 1}
    return other._replace(
        rows=[row.model_copy(update={"id": new.get(row.id, row.id)}) for row in other.rows],
        predictions=[p.model_copy(update={"id": new.get(p.id, p.id)}) for p in other.predictions],
    )


def _digest(prediction: Prediction) -> str:
    return "".join((prediction.question or prediction.prompt).split())


def find_shared(evaluations: Sequence[Evaluation], places: Sequence[Path]) -> list[str]:
    """List the questions that every model was asked, in the order of the first; raise InputError
    where they differ or there is none."""
    texts = [{p.id: (p.question, p.reference) for p in e.predictions} for e in evaluations]
    shared = [row.id for row in evaluations[0].rows if all(row.id in found for found in texts)]
    if not shared:
        raise InputError(
            "{} and {}: not one question in common; evaluate all models on the same test file",
            places[0],
            places[-1],
        )
    for found, place in zip(texts[1:], places[1:], strict=True):
        differing = [i for i in shared if not _is_same(found[i], texts[0][i])]
        if differing:
            raise InputError(
                "{}: {} of {} questions are others than in {} (first: {}); evaluate all "
                "models on the same test file",
                place,
                len(differing),
                len(shared),
                places[0],
                differing[0],
            )
    return shared


def _is_same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Compare question and known diagnosis; a file that does not separate the question from its
    template has none."""
    return one[1] == other[1] and (one[0] == other[0] or not one[0] or not other[0])


def keep_shared(evaluation: Evaluation, shared: Sequence[str]) -> Evaluation:
    """Keep the shared questions of one evaluation; with fewer, sum up its scores anew."""
    rows = {row.id: row for row in evaluation.rows}
    answers = {p.id: p for p in evaluation.predictions}
    chosen = {"rows": [rows[i] for i in shared], "predictions": [answers[i] for i in shared]}
    kept = evaluation._replace(**chosen)
    if len(shared) == len(rows):
        return kept
    means, intervals = summarise(to_columns([*kept.rows, *kept.general]))
    return kept._replace(scores={"n": len(shared), **means, "intervals": intervals})


def find_unlike(evaluations: Sequence[Evaluation]) -> list[Note]:
    """Name what makes the answers of some evaluations unlike each other, beside the models."""
    found: list[str] = []
    for name in CONDITIONS:
        values = [(e.manifest.config | e.manifest.facts).get(name, "unknown") for e in evaluations]
        if len(set(map(str, values))) > 1:
            named = zip(evaluations, values, strict=True)
            found.append(f"{name} differs ({', '.join(f'{e.name} {value}' for e, value in named)})")
    line = "The models alone, for the answers were not made alike: {found}."
    return [Note(line, {"found": "; ".join(found)})] if found else []


def hold_against_first(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, Difference]]:
    """Test every other model against the first, score by score, on the questions where both have
    the score."""
    first, *others = evaluations
    before = {row.id: row.scores for row in (*first.rows, *first.general)}
    found: dict[str, dict[str, Difference]] = {}
    for other in others:
        for name in TESTED:
            pairs = [
                (find_bounds(before[row.id], name), find_bounds(row.scores, name))
                for row in (*other.rows, *other.general)
                if name in row.scores and name in before.get(row.id, ())
            ]
            if not pairs:
                continue
            one, two = ([pair[at] for pair in pairs] for at in (0, 1))
            top = LARGEST.get(name) or 1.0
            found.setdefault(other.name, {})[name] = (
                compare_undecided(one, two)
                if name.endswith(ACCURACY)
                else compare_paired([low for low, _ in one], [low for low, _ in two], SEED, top)
            )
    return found


def show_tests(differences: Mapping[str, Mapping[str, Difference]]) -> list[dict[str, Any]]:
    """Make the lines of a table of tests, Holm's correction over all of them."""
    lines = [(model, name, d) for model, group in differences.items() for name, d in group.items()]
    significant = find_significant([d for *_, d in lines])
    return [
        {
            "model": model,
            "score": name,
            "n": d.n,
            "difference": f"{d.difference:+.3f}" + ("" if d.most is None else f" – {d.most:+.3f}"),
            "interval": f"{d.low:+.3f} – {d.high:+.3f}",
            "p": "< 0.0001" if d.p < 1e-4 else f"{d.p:.4f}",
            "test": Note(
                "McNemar, {gained} gained, {lost} lost",
                {"gained": d.n_second_only, "lost": d.n_first_only},
            )
            if d.is_yes_or_no
            else Note("sign flips"),
            "finding": _find_finding(d, at in significant),
            "is_significant": at in significant,
        }
        for at, (model, name, d) in enumerate(lines)
    ]


def _find_finding(d: Difference, is_significant: bool) -> Note:
    """Say what a difference shows; on few questions it shows nothing."""
    if d.n < MIN_QUESTIONS:
        return Note("fewer than {n} questions", {"n": MIN_QUESTIONS})
    return Note("significant" if is_significant else "not significant")


def find_drop(tests: Sequence[Mapping[str, Any]]) -> str:
    """Say which models have significantly forgotten what lies outside the task."""
    lost = [
        f"{t['model']} {t['difference']}"
        for t in tests
        if t["score"] == "general_accuracy" and t["is_significant"] and t["difference"][0] == "-"
    ]
    return f"forgetting: general_accuracy fell significantly ({', '.join(lost)})" if lost else ""


# What a report is made of


class Material(NamedTuple):
    """What a report is made of."""

    folder: Path
    steps: Mapping[str, Manifest]
    """Name of each step to its manifest, in order of time."""
    evaluations: Sequence[Evaluation] = ()
    """The base first."""
    tests: Sequence[Mapping[str, Any]] = ()
    """How the other models differ from the first, on the same questions."""
    notes: Sequence[Note] = ()
    """What the evaluations could not measure, or what makes them unlike each other."""
    title: Note | None = None
    """Title where the report is of one step."""
    lengths: Mapping[str, Sequence[int]] = {}
    """Lengths in tokens of the rows of a training that has just been done."""

    def of(self, *stages: str) -> dict[str, Manifest]:
        """Return the steps of some stages."""
        return {name: step for name, step in self.steps.items() if step.stage in stages}

    def find_folder(self, step: str) -> Path:
        """Find the directory of a step."""
        return self.folder / step if (self.folder / step / MANIFEST).exists() else self.folder

    @property
    def are_cases_invented(self) -> bool:
        """Whether the cases are invented: those of the demo's own site, or its rows."""
        return any(
            (step.stage == "collect" and "//127.0.0.1" in str(step.config.get("base_url")))
            or any(REHEARSAL in Path(path).parts for path in step.inputs)
            for step in self.steps.values()
        )

    @property
    def is_teacher_rehearsal(self) -> bool:
        """Whether the reasoning is that of the rehearsal teacher, be the cases invented or not."""
        return any(step.config.get("teacher") == REHEARSAL for step in self.steps.values())


def read_run(folder: Path, models: Mapping[str, str] | None = None) -> Material:
    """Read a run; `models` maps names to the steps that evaluated them, the base first. Raises
    InputError where nothing is finished there."""
    paths = folder.glob(f"*/{MANIFEST}")
    found = {path.parent.name: read_manifest(path.parent) for path in paths}
    steps = _order(found)
    if not any(step.state == "finished" for step in steps.values()):
        raise InputError(
            "{}: no finished step in it; name a run directory, or that of one step", folder
        )
    places = {name: folder / step for name, step in (models or _name(folder, steps)).items()}
    evaluations = [read_evaluation(place, name) for name, place in places.items()]
    material = Material(folder, steps, evaluations)
    if len(evaluations) < 2:
        return material
    try:
        return _hold_together(material, list(places.values()))
    except InputError as error:  # evaluated on other questions: each stands for itself
        line = "The models against each other: {why}."
        return material._replace(notes=[Note(line, {"why": str(error)})])


def _order(found: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Order steps as they were begun, but each before those that read it: it may be run anew."""
    ordered: dict[str, Manifest] = {}

    def place(name: str) -> None:
        if name not in ordered and name in waiting:
            waiting.remove(name)
            for path in found[name].inputs:
                place(Path(path).parent.name)
            ordered[name] = found[name]

    waiting = sorted(found, key=lambda name: found[name].started_at)
    for name in list(waiting):
        place(name)
    return ordered


def _name(folder: Path, steps: Mapping[str, Manifest]) -> dict[str, str]:
    """Name the evaluations as the run's own report did, then the others, models without an adapter
    first, as they were made."""
    done = [n for n, s in steps.items() if s.stage == "evaluate" and s.state == "finished"]
    ordered = sorted(done, key=lambda name: bool(steps[name].config.get("adapter")))
    told = (read_json(folder / SUMMARY) or {}).items()
    said = {name: one.get("step") for name, one in told if isinstance(one, dict)}
    named = {name: step for name, step in said.items() if step in done}
    return named | {name: name for name in ordered if name not in named.values()}


def _hold_together(material: Material, places: Sequence[Path]) -> Material:
    found = compare(material.evaluations, places)
    most = max(len(e.rows) for e in material.evaluations)
    whole = len(found.evaluations[0].rows) == most
    return material._replace(
        evaluations=found.evaluations if whole else material.evaluations,
        tests=found.tests,
        notes=found.notes,
    )


def read_step(folder: Path, manifest: Manifest | None = None) -> Material:
    """Read one step; its own manifest may not be written yet."""
    manifest = manifest or read_manifest(folder)
    if manifest.stage == "evaluate" and (folder / PREDICTIONS).exists():
        return show_evaluation(folder, read_evaluation(folder, manifest=manifest))
    if manifest.stage == "compare":
        names, places = manifest.names["input"], [Path(p).parent for p in manifest.roles["input"]]
        read = [read_evaluation(place, name) for place, name in zip(places, names, strict=True)]
        return show_comparison(folder, manifest, compare(read, places))
    material = Material(folder, {folder.resolve().name: manifest})
    if manifest.stage in ("train", "reinforce"):
        named = {"name": manifest.config.get("model")}
        if manifest.stage == "train":
            return material._replace(title=Note("Training of {name}", named))
        return material._replace(title=Note("Reinforcement of {name}", named))
    return material


def show_evaluation(folder: Path, evaluation: Evaluation) -> Material:
    """Make the material of one evaluation."""
    title = Note("Evaluation of {name}", {"name": evaluation.name})
    notes = [Note(**note) for note in evaluation.breakdown.get("notes", ())]
    steps = {folder.resolve().name: evaluation.manifest}
    return Material(folder, steps, [evaluation], notes=notes, title=title)


def show_comparison(folder: Path, manifest: Manifest, found: Comparison) -> Material:
    """Make the material of a comparison."""
    first, *others = [e.name for e in found.evaluations]
    title = Note("{n} evaluations against {first}", {"first": first, "n": len(others)})
    if len(others) == 1:
        title = Note("{other} against {first}", {"first": first, "other": others[0]})
    steps = {folder.resolve().name: manifest}
    return Material(folder, steps, found.evaluations, found.tests, found.notes, title)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that a kill may have torn, without the lines that cannot be read."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def plot(name: str, title: str, draw: "Callable[[], Figure]") -> list[Plot]:
    """Draw a figure; none where matplotlib is not installed, as on the data side alone."""
    return [Plot(name, title, draw())] if find_spec("matplotlib") else []
