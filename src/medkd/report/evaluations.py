"""Finished evaluations, read from their directories and held against the first of them.

In: directories of `evaluate`. Out: accuracies between their bounds; the questions that several
evaluations share, and paired tests on them. Not done here: measuring (`evaluate`), pages.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Prediction, Record
from medkd.core.stage_output import Manifest, read_manifest
from medkd.core.statistics import (
    MIN_QUESTIONS,
    Difference,
    compare_paired,
    compare_undecided,
    find_significant,
    interval,
)
from medkd.grading.diagnosis import GradeVerdict
from medkd.models.inspect import read_json

ROWS = "rows.jsonl"
PREDICTIONS = "predictions.jsonl"
GENERAL = "general_rows.jsonl"
"""Scores of the questions outside the task."""
AGREEMENT = "agreement.json"
"""What people said of a sample of the answers (`evaluate.review`)."""
ACCURACY, DECIDED, HIGH = "_accuracy", "_decided", "_accuracy_high"
"""Ends of names: right if every undecided answer is wrong; share decided; right if every undecided
answer is right."""
PREFIXES = ("diagnosis", "exam", "text", "number")
"""What the scores of the kinds of answers begin with: `exam_accuracy`, `exam_decided`."""
OVERLAP = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
LARGEST: Mapping[str, float | None] = {**dict.fromkeys(OVERLAP, 100.0), "mean_tokens": None}
"""The largest value of a score that may be above 1; None for one without a bound."""
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
SEED = 0
"""Seed of the bootstrap and of the sign flips, where no setting names one."""
Columns = dict[str, list[float]]
"""Name of a score to its value for each question it applies to."""


class Note(NamedTuple):
    """A line of a report, and the values of its placeholders."""

    text: str
    values: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self.text.format(**self.values)


class Row(Record):
    """The scores of one question: a line of `rows.jsonl`."""

    id: str
    department: tuple[str, ...] = ()
    n_known: int = 0
    """Known diagnoses."""
    n_characters: int = 0
    """Length of the question."""
    scores: dict[str, float]
    """Only those that apply: an open question has no diagnosis score."""
    relation: str = ""
    """How the nearest stated diagnosis stands to the known one."""
    judged: str = ""
    """What a judge said where rules could not tell."""

    def add(self, *more: Mapping[str, float], judged: str = "") -> "Row":
        """Return the row with further scores, and with what a judge said."""
        scores = dict(self.scores)
        for found in more:
            scores |= found
        return self.model_copy(update={"scores": scores, "judged": judged or self.judged})


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


# Scores of one question, and over all


def find_verdict(scores: Mapping[str, float], first: str = "") -> GradeVerdict | None:
    """Read the verdict out of a row's scores; None for a question without a known answer.

    `first` names a score to read before those of the rules: `judged`.
    """
    for prefix in filter(None, (first, *PREFIXES)):
        if prefix + ACCURACY in scores:
            if scores.get(prefix + DECIDED, 1) == 0:
                return "undecided"
            return "right" if scores[prefix + ACCURACY] == 1 else "wrong"
    return None


def find_bounds(scores: Mapping[str, float], name: str) -> tuple[float, float]:
    """Return the lowest and the highest that a score of one question may be.

    >>> find_bounds({"exam_accuracy": 0.0, "exam_decided": 0.0}, "exam_accuracy")
    (0.0, 1.0)
    """
    value = scores[name]
    is_open = (
        name.endswith(ACCURACY) and scores.get(name.removesuffix(ACCURACY) + DECIDED, 1.0) == 0
    )
    return value, 1.0 if is_open else value


def to_columns(rows: Iterable[Row]) -> Columns:
    """Turn rows into columns; a score holds the questions it applies to. Beside each accuracy
    stands what it would be if every undecided answer were right."""
    columns: Columns = {}
    for row in rows:
        for name, value in row.scores.items():
            columns.setdefault(name, []).append(value)
            if name.endswith(ACCURACY):
                high = find_bounds(row.scores, name)[1]
                columns.setdefault(name.removesuffix(ACCURACY) + HIGH, []).append(high)
    return columns


def summarise(
    columns: Columns, seed: int = SEED
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the mean of every column, and its 95 % interval where one can be told."""
    filled = {name: values for name, values in columns.items() if values}
    means = {name: round(sum(values) / len(values), 6) for name, values in filled.items()}
    intervals = {n: interval(v, seed, LARGEST.get(n, 1.0)) for n, v in filled.items()}
    return means, {name: ends for name, ends in intervals.items() if ends}


class AccuracyRange(NamedTuple):
    """An accuracy with undecided answers."""

    low: float
    """Share right if every undecided answer is wrong."""
    high: float
    """Share right if every undecided answer is right."""
    interval: tuple[float, float]
    """From the low end of the one's 95 % interval to the high end of the other's."""
    decided: float
    """Share of the answers that were decided."""


def list_accuracies(scores: Mapping[str, Any]) -> list[str]:
    """List the accuracies among scores, the judged one behind that of the rules."""
    found = [n for n in scores if n.endswith(ACCURACY) and not n.startswith("n_")]
    return sorted(found, key=lambda name: name.startswith("judged"))


def find_range(scores: Mapping[str, Any], name: str) -> AccuracyRange:
    """Read an accuracy out of `scores.json`; one without undecided answers is a single number."""
    low, intervals = scores[name], scores["intervals"]
    top = name.removesuffix(ACCURACY) + HIGH
    ends = intervals.get(name, (low, low))
    return AccuracyRange(
        low,
        scores.get(top, low),
        (ends[0], intervals.get(top, ends)[1]),
        scores.get(name.removesuffix(ACCURACY) + DECIDED, 1.0),
    )


def break_down(
    rows: Sequence[Row], before: Mapping[str, str] | None = None, seed: int = SEED
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the accuracy by department, length of the question, number of known answers, and by
    another model's verdicts."""
    bounds: dict[str, tuple[float, float]] = {}
    for row in rows:
        if name := next((name for name in row.scores if name.endswith(ACCURACY)), ""):
            bounds[row.id] = find_bounds(row.scores, name)
    graded = [row for row in rows if row.id in bounds]
    edges = sorted(row.n_characters for row in graded) or [0]
    short, long = edges[len(edges) // 3], edges[2 * len(edges) // 3]

    def name_length(n: int) -> str:
        return f"short (< {short})" if n < short else f"long (> {long})" if n > long else "middle"

    axes: dict[str, Callable[[Row], str]] = {
        "department": lambda row: row.department[-1] if row.department else "unknown",
        "length": lambda row: name_length(row.n_characters),
        "diagnoses": lambda row: str(row.n_known) if row.n_known < 4 else "4 or more",
    }
    if before:
        axes["base"] = lambda row: f"base was {before.get(row.id, 'not asked')}"
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for axis, name_group in axes.items():
        groups: dict[str, list[tuple[float, float]]] = {}
        for row in graded:
            groups.setdefault(name_group(row), []).append(bounds[row.id])
        if groups:
            found[axis] = {name: _sum_up(values, seed) for name, values in sorted(groups.items())}
    return found


def _sum_up(bounds: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    """Sum up a group; its first key is called so whatever the kind of answer, as in version 0.1."""
    low, high = ([pair[end] for pair in bounds] for end in (0, 1))
    n = len(bounds)
    (bottom, _), (_, top) = interval(low, seed), interval(high, seed)
    summed = {"n": n, "diagnosis_accuracy": round(sum(low) / n, 6)}
    return {**summed, "high": round(sum(high) / n, 6), "interval": [bottom, top]}


# Reading


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
