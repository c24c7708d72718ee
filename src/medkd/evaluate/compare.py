"""The stage `compare`: several evaluations of the same questions, paired.

In: directories of `evaluate`, the one to compare the others with first. Out: `comparison.json` and
`report.html`. Only questions that all were asked count.
Not done here: measuring; each score was written by the evaluation that measured it.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from medkd.core.config import POSITIONAL, RUNTIME, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input, write_json
from medkd.core.records import Language, Prediction
from medkd.core.stage_output import Manifest, open_stage_output, read_manifest
from medkd.core.statistics import (
    MIN_QUESTIONS,
    Difference,
    compare_paired,
    compare_undecided,
    find_significant,
)
from medkd.evaluate.report import (
    Evaluation,
    Note,
    make_lead,
    write_lead,
    write_number,
    write_report,
)
from medkd.evaluate.scoring import (
    ACCURACY,
    FILE_NAME,
    GENERAL,
    Row,
    break_down,
    find_bounds,
    find_verdict,
    summarise,
    to_columns,
)
from medkd.models.inspect import read_json

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
    "bleu-4",
    "rouge-1",
    "rouge-2",
    "rouge-l",
    "judge_score",
)
AGREEMENT = "agreement.json"
"""What people said of a sample of the answers (`evaluate.review`)."""
CONDITIONS = ("generator", "dtype", "temperature", "top_p", "max_tokens")
"""Facts and settings that move scores without any difference between the models."""


class Config(StageConfig):
    """Compare evaluations of the same questions."""

    input: Annotated[list[Path], RUNTIME, POSITIONAL]
    """Directories of evaluate, the base first: the others are compared with it."""
    names: list[str] = Field(default_factory=list)
    """Names of the models on the page, in the same order; default: those of the directories."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the bootstrap and of the sign flips."""
    lang: Annotated[Language, RUNTIME] = "en"
    """Language of the report."""

    @field_validator("input")
    @classmethod
    def _hold_several(cls, value: list[Path]) -> list[Path]:
        if len(value) < 2:
            raise ValueError("nothing to compare with; name two directories of evaluate, or more")
        return value


def run(config: Config) -> Manifest:
    """Compare as configured."""
    files = [resolve_input(path, FILE_NAME, made_by="evaluate") for path in config.input]
    names = _choose_names(config)
    with open_stage_output(
        "compare",
        config,
        {"input": [path.parent / "scores.json" for path in files]},
        ["comparison.json", "report.html"],
        names={"input": names},
        libraries=["scipy"],
    ) as space:
        if space.is_finished:
            return space.manifest
        loaded = [load(path.parent, name) for path, name in zip(files, names, strict=True)]
        shared = find_shared(loaded, config.input)
        evaluations = compare([keep_shared(e, shared, config.seed) for e in loaded], config.seed)
        differences = hold_against_first(evaluations, config.seed)
        space.read(sum(len(e.rows) for e in loaded))
        space.manifest.counts.kept = len(shared)
        n_asked = len({row.id for e in loaded for row in e.rows})
        space.drop("not_asked_of_all", n_asked - len(shared))
        comparison = {
            "first": names[0],
            "n": len(shared),
            "scores": {e.name: e.scores for e in evaluations},
            "against_first": {
                model: {score: found._asdict() for score, found in group.items()}
                for model, group in differences.items()
            },
        }
        write_json(space.path("comparison.json"), comparison)
        missing = warn_of_conditions(evaluations)
        if n_asked > len(shared):
            line = "Questions that not all models were asked: {n}."
            missing.insert(0, Note(line, {"n": n_asked - len(shared)}))
        page = space.path("report.html")
        tests = show_tests(differences)
        write_report(page, evaluations, _make_title(names), missing, tests, language=config.lang)
        print_table(evaluations, differences)
        print(f"report: {page}")
        return space.manifest


def _make_title(names: Sequence[str]) -> Note:
    if len(names) == 2:
        return Note("{other} against {first}", {"first": names[0], "other": names[1]})
    return Note("{n} evaluations against {first}", {"first": names[0], "n": len(names) - 1})


def _choose_names(config: Config) -> list[str]:
    """Take the given names, else those of the directories, with their parents' where needed."""
    if config.names and len(config.names) != len(config.input):
        raise InputError(
            "--names: {} names for {} evaluations; pass one for each",
            len(config.names),
            len(config.input),
        )
    folders = [(path if path.is_dir() else path.parent).resolve() for path in config.input]
    names = config.names or [folder.name for folder in folders]
    if len(set(names)) != len(names):
        names = [f"{folder.parent.name}/{n}" for folder, n in zip(folders, names, strict=True)]
    if len(set(names)) != len(names):
        raise InputError(
            "--names: two evaluations are both called {}; pass a name for each",
            max(names, key=names.count),
        )
    return names


def load(directory: Path, name: str) -> Evaluation:
    """Read an evaluation from its directory."""
    rows_path = resolve_input(directory / FILE_NAME, FILE_NAME, made_by="evaluate")
    answers_path = resolve_input(directory / "predictions.jsonl", "", made_by="evaluate")
    rows = list(RecordReader(rows_path, Row, made_by="evaluate"))
    predictions = list(RecordReader(answers_path, Prediction, made_by="evaluate"))
    files = [directory / "scores.json", directory / "breakdown.json"]
    scores, breakdown = map(_read_mapping, files)
    _check_rows(directory, rows, predictions, scores)
    return Evaluation(
        name,
        scores,
        predictions,
        rows,
        breakdown,
        read_manifest(directory),
        _read_if_there(directory / GENERAL),
        read_json(directory / AGREEMENT),
    )


def _read_if_there(path: Path) -> list[Row]:
    if not (path.exists() and path.stat().st_size):
        return []
    return list(RecordReader(path, Row, made_by="evaluate"))


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
            "{}: {}; run this evaluation again with --overwrite", directory / FILE_NAME, problem
        )


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
    most = max(len(e.rows) for e in evaluations)
    if len(shared) < most:
        print(
            f"warning: {len(shared)} of {most} questions were asked of all models; "
            "only these are compared",
            file=sys.stderr,
        )
    return shared


def _is_same(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Compare question and known diagnosis; a file that does not separate the question from its
    template has none."""
    return one[1] == other[1] and (one[0] == other[0] or not one[0] or not other[0])


def warn_of_conditions(evaluations: Sequence[Evaluation]) -> list[Note]:
    """Warn of evaluations whose answers were made in other ways; return the lines for the page."""
    found: list[str] = []
    for name in CONDITIONS:
        values = [(e.manifest.config | e.manifest.facts).get(name, "unknown") for e in evaluations]
        if len(set(map(str, values))) > 1:
            named = zip(evaluations, values, strict=True)
            found.append(f"{name} differs ({', '.join(f'{e.name} {value}' for e, value in named)})")
    if not found:
        return []
    print(f"warning: the answers were not made alike: {'; '.join(found)}", file=sys.stderr)
    line = "The models alone, for the answers were not made alike: {found}."
    return [Note(line, {"found": "; ".join(found)})]


def keep_shared(evaluation: Evaluation, shared: Sequence[str], seed: int) -> Evaluation:
    """Keep the shared questions of one evaluation; with fewer, sum up its scores anew."""
    rows = {row.id: row for row in evaluation.rows}
    answers = {p.id: p for p in evaluation.predictions}
    chosen = {"rows": [rows[i] for i in shared], "predictions": [answers[i] for i in shared]}
    kept = evaluation._replace(**chosen)
    if len(shared) == len(rows):
        return kept
    means, intervals = summarise(to_columns([*kept.rows, *kept.general]), seed)
    return kept._replace(scores={"n": len(shared), **means, "intervals": intervals})


def compare(evaluations: Sequence[Evaluation], seed: int) -> list[Evaluation]:
    """Break the accuracy of every model down, also by what the first model answered."""
    verdicts = {row.id: find_verdict(row.scores) for row in evaluations[0].rows}
    before = {i: verdict for i, verdict in verdicts.items() if verdict is not None}
    broken = [{**e.breakdown, **break_down(e.rows, before, seed)} for e in evaluations]
    return [e._replace(breakdown=found) for e, found in zip(evaluations, broken, strict=True)]


def hold_against_first(
    evaluations: Sequence[Evaluation], seed: int
) -> dict[str, dict[str, Difference]]:
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
            found.setdefault(other.name, {})[name] = (
                compare_undecided(one, two)
                if name.endswith(ACCURACY)
                else compare_paired([low for low, _ in one], [low for low, _ in two], seed)
            )
    return found


def show_tests(differences: Mapping[str, Mapping[str, Difference]]) -> list[dict[str, Any]]:
    """Make the lines of the page's table of tests, Holm's correction over all of them."""
    lines = [(model, name, d) for model, group in differences.items() for name, d in group.items()]
    significant = find_significant([d for *_, d in lines])
    return [
        {
            "model": model,
            "score": name,
            "n": d.n,
            "difference": _write_difference(d),
            "interval": f"{d.low:+.3f} – {d.high:+.3f}",
            "p": write_p(d.p),
            "test": Note(
                "McNemar, {gained} gained, {lost} lost",
                {"gained": d.n_second_only, "lost": d.n_first_only},
            )
            if d.is_yes_or_no
            else Note("sign flips"),
            "finding": find_finding(d, at in significant),
            "is_significant": at in significant,
        }
        for at, (model, name, d) in enumerate(lines)
    ]


def _write_difference(d: Difference) -> str:
    most = "" if d.most is None else f" – {d.most:+.3f}"
    return f"{d.difference:+.3f}{most}"


def find_finding(d: Difference, is_significant: bool) -> Note:
    """Say what a difference shows; on few questions it shows nothing."""
    if d.n < MIN_QUESTIONS:
        return Note("fewer than {n} questions", {"n": MIN_QUESTIONS})
    return Note("significant" if is_significant else "not significant")


def write_p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def print_table(
    evaluations: Sequence[Evaluation], differences: Mapping[str, Mapping[str, Difference]]
) -> None:
    """Print what is right, and the differences to the first model."""
    first = evaluations[0]
    tests = show_tests(differences)
    print(write_lead(make_lead(evaluations, tests)))
    by_name = {e.name: e for e in evaluations}
    for model in differences:
        print(f"{model} against {first.name}, {len(first.rows)} questions")
        if len(first.rows) < MIN_QUESTIONS:
            print(f"  fewer than {MIN_QUESTIONS} questions: no difference counts as significant")
        for test in [test for test in tests if test["model"] == model]:
            before, after = (e.scores[test["score"]] for e in (first, by_name[model]))
            print(
                f"  {test['score']:<20}{write_number(before):>8} -> {write_number(after):>7}  "
                f"{test['difference']:>8} [{test['interval']}]  p {test['p']}  {test['finding']}"
            )
    if drop := find_drop(tests):
        print(f"warning: {drop}", file=sys.stderr)


def find_drop(tests: Sequence[Mapping[str, Any]]) -> str:
    """Say which models have significantly forgotten what lies outside the task."""
    lost = [
        f"{t['model']} {t['difference']}"
        for t in tests
        if t["score"] == "general_accuracy" and t["is_significant"] and t["difference"][0] == "-"
    ]
    return f"forgetting: general_accuracy fell significantly ({', '.join(lost)})" if lost else ""
