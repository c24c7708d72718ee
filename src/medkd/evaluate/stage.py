"""The stage `evaluate`: what a model can do on questions it never saw, asked bare; or what answers
from a file are worth.

In: `test.jsonl` of `merge`, an exam or a file of predictions; a model, an adapter or an endpoint.
Out: `predictions.jsonl`, `rows.jsonl`, `scores.json`, `report.html` and more (docs/evaluate.md).
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.completer import Sampling
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input, write_json
from medkd.core.privacy import check_deidentified
from medkd.core.records import Example, Prediction
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.core.task import load_task
from medkd.evaluate.config import Config
from medkd.evaluate.contamination import (
    Seen,
    find_seen,
    holds_answer,
    refuse_seen,
)
from medkd.evaluate.generate import (
    LEDGER,
    MERGED,
    LocalPredictor,
    PredictionFile,
    Predictor,
    ask_once,
    ask_samples,
    find_inputs,
    make_extra_prompts,
    make_prompts,
    open_judge,
    open_predictor,
)
from medkd.evaluate.llamafactory import (
    RESULTS,
    describe_gaps,
    read_predictions,
    read_runtime,
    write_results,
)
from medkd.evaluate.multiple_choice import read_exam, score_exam, to_examples
from medkd.evaluate.prompt_variants import make_variant_prompts, tabulate_variants
from medkd.evaluate.report import Evaluation, list_scores, write_report
from medkd.evaluate.scoring import (
    FILE_NAME,
    Row,
    judge_rows,
    score,
    score_prediction,
    score_samples,
)
from medkd.evaluate.statistics import break_down, make_scores
from medkd.models.inspect import read_json

__all__ = ["Config", "evaluate", "run"]

GENERATORS = ("torch", "transformers", "peft", "vllm")
"""Libraries that may have generated, whose versions belong in the manifest."""
TIMES = "generation.json"
WRITES = (
    *(f"{name}.jsonl" for name in ("predictions", "unprompted", "samples", "wordings", "besides")),
    FILE_NAME,
    "scores.json",
    "breakdown.json",
    TIMES,
    RESULTS,
    "report.html",
    MERGED,
)
"""What may stand in the directory; the ledger is not among it, for what was paid is never
deleted."""


class Evaluated(NamedTuple):
    """One question asked and scored."""

    prediction: Prediction
    row: Row


class Questions(NamedTuple):
    """What is asked, and how an answer to it is scored."""

    examples: list[Example]
    path: Path | None
    """The file they stand in; None for a dataset of a hub."""
    n_read: int
    dropped: dict[str, int]
    score: Callable[[Prediction], Row] = score_prediction
    is_exam: bool = False


def evaluate(
    examples: Sequence[Example],
    predictor: Predictor,
    sampling: Sampling,
    instruction: str = "",
    score: Callable[[Prediction], Row] = score_prediction,
    file: PredictionFile | None = None,
) -> Iterator[Evaluated]:
    """Ask a model every question and score each answer as it comes.

    With a file, what stands in it already comes first and is not asked again, and new answers are
    appended to it.
    """
    prompts = make_prompts(examples, instruction)
    if file is None:
        answers = predictor.predict(prompts, sampling)
    else:
        for prediction in list(file.done.values()):
            yield Evaluated(prediction, score(prediction))
        answers = file.keep(predictor.predict(file.open_prompts(prompts), sampling))
    for prediction in answers:
        yield Evaluated(prediction, score(prediction))


def run(config: Config) -> Manifest:
    """Evaluate as configured; questions answered before a kill are not asked again."""
    if config.predictions:
        return _run_file(config, config.predictions)
    questions = _read_questions(config)
    folder, models = find_inputs(config)
    role = "exam" if questions.is_exam else "input"
    inputs = {role: [questions.path] if questions.path else [], "model": models}
    libraries = [*GENERATORS, "scipy"]
    with open_stage_output("evaluate", config, inputs, WRITES, libraries) as space:
        if not space.is_finished:
            _run_questions(config, space, questions, folder)
        return space.manifest


def _read_questions(config: Config) -> Questions:
    """Read the test split of `merge`, or an exam."""
    if config.exam:
        return _read_exam(config)
    if config.input is None:
        raise InputError(
            "medkd evaluate: nothing to ask; pass --input (the directory of merge), --exam FILE, "
            "or --predictions FILE"
        )
    path = resolve_input(config.input, "test.jsonl", made_by="merge")
    reader = RecordReader(path, Example, made_by="merge")
    examples = list(reader)[: config.limit]
    if not examples:
        raise InputError(f'{path}: no questions; run "medkd merge" with a share for the test split')
    return Questions(examples, path, reader.n_read, reader.dropped())


def _read_exam(config: Config) -> Questions:
    """Read an exam: every answer is generated, its letter read, and what cannot be read is counted
    and wrong."""
    if config.input or config.samples > 1 or config.wordings or config.judge:
        raise InputError(
            "--exam: asks its own questions once and needs no judge; "
            "leave --input, --samples, --wordings and --judge out"
        )
    questions, n_broken = read_exam(config.exam, limit=config.limit)
    by_id = {question.id: question for question in questions}

    def score_choice(prediction: Prediction) -> Row:
        row = score_prediction(prediction)
        marks = score_exam(by_id[prediction.id], prediction.raw)
        return row.model_copy(update={"scores": row.scores | marks})

    return Questions(
        to_examples(questions),
        Path(config.exam) if Path(config.exam).exists() else None,
        len(questions) + n_broken,
        {"not_a_question": n_broken} if n_broken else {},
        score_choice,
        is_exam=True,
    )


def _run_questions(
    config: Config, space: StageOutput, questions: Questions, folder: Path | None
) -> None:
    """Check that the test is fair, ask, score and write."""
    space.read(questions.n_read)
    space.drop_all(questions.dropped)
    notes: list[str] = []
    if questions.path and not questions.is_exam:
        if config.endpoint or config.judge:
            marks = [e.lineage.deidentified_by for e in questions.examples]
            _check_marks(config, space, marks, questions.path)
        seen = find_seen(questions.examples, questions.path, folder)
        notes = _check_fairness(config, space, questions.examples, seen, questions.path)
    with ExitStack() as servers:
        answers = _ask_all(config, space, questions, servers)
    if not answers.rows:
        raise InputError(
            f"{config.endpoint or config.model}: not one question was answered "
            f"({answers.failures}); see {space.path(LEDGER)}"
        )
    if not answers.unprompted and not questions.is_exam:
        notes.append(
            "A second template: the model's own one leaves it to begin the thinking, so both "
            "think rates are one."
        )
    if looped := [row.id for row in answers.rows if row.scores["loop_rate"]]:
        answers.breakdown["loops"] = {"answers": looped}
        print(
            f"note: {len(looped)} answers looped; docs/stopping.md says what to do", file=sys.stderr
        )
    scores = _write_scores(config, space, answers, notes)
    if not questions.is_exam:
        n_steps = -(-len(answers.rows) // config.batch_size)
        write_results(space.path(RESULTS), scores, answers.seconds, len(answers.rows), n_steps)


def _check_marks(config: Config, space: StageOutput, marks: Sequence[str], place: Path) -> None:
    """Refuse rows that may name patients before anything is sent; count them where accepted."""
    reader = f"the endpoint {config.endpoint}" if config.endpoint else f"the judge {config.judge}"
    n = check_deidentified(marks, place, reader, config.accept_identified)
    space.manifest.facts["n_identified"] = n
    if n:
        print(f"warning: {reader} reads {n} rows without deidentified_by", file=sys.stderr)


def _check_fairness(
    config: Config, space: StageOutput, examples: Sequence[Example], seen: Seen, path: Path
) -> list[str]:
    """Refuse or warn of what makes a test unfair; return the lines that belong on the page."""
    n = len(examples)
    if not config.allow_seen:
        refuse_seen(seen, n, path)
    n_holding = sum(bool(e.reference) and holds_answer(e.input, e.reference) for e in examples)
    space.manifest.facts |= {
        "n_seen_in_training": len(seen.ids),
        "n_holding_their_answer": n_holding,
    }
    lines: list[str] = []
    if seen.ids:
        n_seen = len(seen.ids)
        lines.append(f"Unseen questions only: {n_seen} of {n} were in the training data.")
        print(
            f"warning: {n_seen} of {n} questions were in the training data; "
            "the scores count them too",
            file=sys.stderr,
        )
    if n_holding:
        lines.append(
            f"Questions without their own answer: {n_holding} of {n} name the known diagnosis; "
            "being right there means little."
        )
        print(
            f"warning: {n_holding} of {n} questions name their known diagnosis; "
            "being right there means little",
            file=sys.stderr,
        )
    if seen.training_path is None:
        lines.append(
            "Whether the model met these questions in training: no lineage leads to its training "
            "data."
        )
    return lines


class Answers(NamedTuple):
    """Everything that came back, scored."""

    predictions: list[Prediction]
    rows: list[Row]
    unprompted: list[Prediction]
    extra: list[Prediction]
    """Answers to questions without a known one."""
    failures: dict[str, int]
    speed: float | None
    """Questions a second, of all runs in this directory together."""
    seconds: float
    breakdown: dict[str, Any]


def _ask_all(
    config: Config, space: StageOutput, questions: Questions, servers: ExitStack
) -> Answers:
    """Ask every question under the model's own template and, where that begins the thinking, under
    the plain one; in samples and in other wordings where wanted; and time it."""
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=config.temperature or None,
        top_p=config.top_p,
        seed=config.seed,
    )
    instruction = load_task("diagnosis").student.instructions["zh"][0] if config.instructed else ""
    examples = questions.examples
    prompts = make_prompts(examples, instruction)
    varied = make_variant_prompts(_choose_varied(config, examples)) if config.wordings else []
    extra = make_extra_prompts(config.ask, instruction)
    predictor = open_predictor(config, space, servers, [*prompts, *varied, *extra])
    file = PredictionFile(space.path("predictions.jsonl"), "ask", [e.id for e in examples])
    try:
        found = {
            answer.prediction.id: answer
            for answer in evaluate(
                examples, predictor, sampling, instruction, questions.score, file
            )
        }
    finally:
        speed, seconds = _add_time(space, file.n_new, file.seconds)
    unprompted: list[Prediction] = []
    if isinstance(predictor, LocalPredictor) and predictor.plain_template:
        plain = PredictionFile(space.path("unprompted.jsonl"), "ask plainly", file.ids)
        unprompted = plain.fill(
            predictor.predict_plainly(plain.open_prompts(prompts), file.done.__getitem__, sampling)
        )
    if config.samples > 1:
        again = ask_samples(
            predictor, space.path("samples.jsonl"), prompts, config.samples, sampling
        )
        for i, (prediction, row) in found.items():
            votes = score_samples([prediction, *again.get(i, [])])
            scored = row.model_copy(update={"scores": row.scores | votes})
            found[i] = Evaluated(prediction, scored)
    worded = ask_once(
        predictor, space.path("wordings.jsonl"), "wordings", varied, sampling, is_plain=True
    )
    asked = ask_once(predictor, space.path("besides.jsonl"), "extra questions", extra, sampling)
    space.drop_all(predictor.failures)
    ordered = [found[e.id] for e in examples if e.id in found]
    return Answers(
        predictions=[answer.prediction for answer in ordered],
        rows=[answer.row for answer in ordered],
        unprompted=unprompted,
        extra=asked,
        failures=predictor.failures,
        speed=speed,
        seconds=seconds,
        breakdown={"wordings": tabulate_variants(worded, config.seed)} if worded else {},
    )


def _choose_varied(config: Config, examples: Sequence[Example]) -> list[Example]:
    """Choose the questions that are also put in other words, those with a known answer first."""
    n = config.wordings
    return [e for e in examples if e.reference][:n] or list(examples[:n])


def _add_time(space: StageOutput, n_asked: int, seconds: float) -> tuple[float | None, float]:
    """Add to the questions and seconds that earlier runs took; return questions a second, and
    seconds."""
    before = read_json(space.path(TIMES)) or {"questions": 0, "seconds": 0.0}
    n_questions = before["questions"] + n_asked
    total = round(before["seconds"] + seconds, 3)
    write_json(space.path(TIMES), {"questions": n_questions, "seconds": total})
    return (n_questions / total if n_questions and total else None), total


def _run_file(config: Config, path: Path) -> Manifest:
    """Score the answers of a file."""
    if config.model or config.endpoint or config.adapter:
        raise InputError(
            "--predictions: the answers are there already; "
            "leave --model, --adapter and --endpoint out"
        )
    path = resolve_input(path, "predictions.jsonl", made_by="evaluate")
    found = read_predictions(path, config.task, config.limit)
    with open_stage_output(
        "evaluate", config, {"predictions": path}, WRITES, libraries=["jieba", "scipy"]
    ) as space:
        if space.is_finished:
            return space.manifest
        started = time.monotonic()
        space.read(found.n_read)
        space.drop_all(found.dropped)
        if config.judge:  # a prediction does not tell what its question was made from
            _check_marks(config, space, [""] * len(found.predictions), path)
        space.write_records("predictions.jsonl", found.predictions)
        notes = describe_gaps(found.predictions)
        for note in notes:
            print(f"warning: {note}", file=sys.stderr)
        if not all(p.finish_reason for p in found.predictions):
            notes.append("How answers ended, and their lengths in tokens: the file does not tell.")
        n = len(found.predictions)
        rows = list(score(found.predictions))
        answers = Answers(found.predictions, rows, [], [], {}, None, 0.0, {})
        scores = _write_scores(config, space, answers, notes)
        runtime = read_runtime(path)
        seconds, steps = runtime or (time.monotonic() - started, 0.0)
        write_results(space.path(RESULTS), scores, seconds, n, round(steps * seconds) or n)
        space.manifest.facts["runtime_is_of"] = "generation" if runtime else "scoring"
        return space.manifest


def _write_scores(
    config: Config, space: StageOutput, answers: Answers, notes: list[str]
) -> dict[str, Any]:
    """Have the judge decide what rules left open, sum up, and write the files and the page."""
    rows = answers.rows
    if config.judge:
        judged = judge_rows(
            answers.predictions,
            {row.id: row for row in rows},
            lambda rubric, servers: open_judge(config, space, rubric, servers),
        )
        rows = [judged.changes.get(row.id, row) for row in rows]
        space.manifest.cost = judged.cost
        space.manifest.facts["judge_failed"] = judged.n_failed
        if judged.n_failed:
            notes.append(
                f"{judged.n_failed} judgements: the judge failed or could not be read; the rules' "
                "word stands there."
            )
    space.write_records(FILE_NAME, rows)
    scores = make_scores(rows, answers.predictions, answers.unprompted, answers.speed, config.seed)
    breakdown = {**break_down(rows, seed=config.seed), **answers.breakdown}
    write_json(space.path("scores.json"), scores)
    write_json(space.path("breakdown.json"), breakdown)
    space.manifest.counts.kept = len(rows)
    space.manifest.facts |= {key: value for key, value in scores.items() if key != "intervals"}
    shown = Evaluation(
        name_model(config),
        scores,
        answers.predictions,
        rows,
        breakdown,
        answers.extra,
        space.manifest,
    )
    page = space.path("report.html")
    write_report(page, [shown], f"Evaluation of {shown.name}", notes)
    print(f"{list_scores(scores)}\nreport: {page}")
    return scores


def name_model(config: Config) -> str:
    """Name what was evaluated, for a title."""
    if config.predictions:
        return config.predictions.name
    model = f"{config.model} at {config.endpoint}" if config.endpoint else config.model
    return f"{model} + {config.adapter}" if config.adapter else model
