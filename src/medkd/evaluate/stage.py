"""The stage `evaluate`: what a model can do on questions it never saw, asked bare; or what answers
from a file are worth.

In: `test.jsonl` of `merge`, an exam or a file of predictions; a model, an adapter or an endpoint.
Out: `predictions.jsonl`, `rows.jsonl`, `scores.json`, `report.html` and more (docs/en/evaluate.md).
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from medkd.completers.providers import find_target_of
from medkd.core.config import RUNTIME, SENDS_KEY
from medkd.core.errors import InputError
from medkd.core.i18n import tell
from medkd.core.jsonl import resolve_input, write_json
from medkd.core.records import (
    Language,
    Prediction,
    Sampling,
    Split,
    check_deidentified,
)
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.core.task import check_tasks, list_task_inputs
from medkd.evaluate.extra_questions import (
    ask_changed,
    ask_general,
    ask_shuffled,
    measure_forgetting,
)
from medkd.evaluate.generate import (
    LEDGER,
    MERGED,
    AskConfig,
    Asker,
    LocalPredictor,
    PredictionFile,
    Predictor,
    find_inputs,
    open_predictor,
)
from medkd.evaluate.judging import find_rubrics, judge_rows, open_judge
from medkd.evaluate.llamafactory import (
    RESULTS,
    describe_gaps,
    read_predictions,
    read_runtime,
)
from medkd.evaluate.questions import (
    Prompt,
    Questions,
    Scorer,
    check_fairness,
    find_question_file,
    keep_first,
    make_prompts,
    no_questions,
    read_examples,
    read_public,
)
from medkd.grading.compare import TermsFile, list_terms_inputs
from medkd.grading.rubric import QuestionRubric
from medkd.grading.scores import (
    OVERLAP,
    Row,
    Scores,
    break_down,
    make_scores,
    score,
    score_prediction,
    score_samples,
)
from medkd.models.inspect import read_json
from medkd.report.document import Note
from medkd.report.material import (
    GENERAL,
    PREDICTIONS,
    ROWS,
    Evaluation,
    name_model,
    read_step,
    show_evaluation,
)
from medkd.report.run import write_lead, write_material, write_scores

__all__ = ["Config", "evaluate", "run"]

GENERATORS = ("torch", "transformers", "peft", "vllm")
"""Libraries that may have generated, whose versions belong in the manifest."""
TIMES = "generation.json"
ANSWERS = ("predictions", "unprompted", "samples", "shuffled", "faithfulness", "general")
WRITES = (
    *(f"{name}.jsonl" for name in (*ANSWERS, "general_base", "wordings", "besides")),
    *(GENERAL, ROWS, "scores.json", "breakdown.json", TIMES, RESULTS, "report.html", MERGED),
)
"""What may stand in the directory; the ledger is not among it, for what was paid is never
deleted."""


class Config(AskConfig):
    """Ask a model the questions of a split and score its answers, or score the answers of a
    file."""

    input: Annotated[Path | None, RUNTIME] = None
    """Directory of `merge` or `prepare`, or a file of theirs."""
    split: Split = "test"
    """Split whose questions are asked."""
    exam: str = ""
    """Public questions instead: a file in the form of CMB, CMExam, MedQA, MedMCQA, MedXpertQA or
    HealthBench (which wants a judge), or hf:NAME, hf:NAME:SPLIT, hf:NAME/FILE; ms: for
    ModelScope."""
    shuffle_options: int = Field(default=0, ge=0, le=100)
    """Ask an exam again in this many other orders of the options, to show what the order does."""
    general: tuple[str, ...] = ()
    """Questions outside the task, to see what was forgotten: builtin (60 instructions and sums),
    or files in the form of an exam. With --adapter the base is asked them too."""
    rubric: Annotated[Path | None, RUNTIME] = None
    """Directory of `rubric`, or a file of rubrics: the judge checks answers criterion by
    criterion."""
    faithfulness: int = Field(default=0, ge=0, le=10**6)
    """Questions asked again with a finding that the answer cites taken out or turned round, and
    with a wrong thought begun."""
    predictions: Annotated[Path | None, RUNTIME] = None
    """Score this file instead: LLaMA-Factory's generated_predictions.jsonl, or predictions of
    another evaluation."""
    terms: TermsFile = None
    """Table of codes and names (CSV or Excel: an ICD table, local synonyms): names of one code are
    one diagnosis, longer codes more specific ones."""
    instructed: bool = False
    """Put the training instruction in front of every question, instead of asking it bare."""
    judge: Annotated[str, SENDS_KEY] = ""
    """Endpoint that judges what rules leave undecided, and open answers: a provider or an address;
    default: none."""
    judge_model: str = ""
    """The judge's model; default: the provider's first."""
    allow_seen: Annotated[bool, RUNTIME] = False
    """Measure although half of the questions or more were in the training data."""
    lang: Annotated[Language, RUNTIME] = "en"
    """Language of the report."""


_OF_ASKING = (
    *("model", "endpoint", "adapter", "input", "exam", "shuffle_options", "general"),
    *("faithfulness", "samples", "instructed"),
)
"""Fields that say who is asked what."""


class Evaluated(NamedTuple):
    """One question asked and scored."""

    prediction: Prediction
    row: Row


class Answers(NamedTuple):
    """Everything that came back, scored."""

    predictions: list[Prediction]
    rows: list[Row]
    breakdown: dict[str, Any]
    general: Sequence[Row] = ()
    """Scores of the questions outside the task."""
    unprompted: Sequence[Prediction] = ()
    failures: Mapping[str, int] = MappingProxyType({})
    speed: float | None = None
    """Questions a second, of all runs in this directory together."""
    seconds: float = 0.0


def evaluate(
    prompts: Sequence[Prompt],
    predictor: Predictor,
    sampling: Sampling,
    score: Scorer = score_prediction,
    file: PredictionFile | None = None,
) -> Iterator[Evaluated]:
    """Ask a model every question and score each answer as it comes.

    With a file, what stands in it already comes first and is not asked again, and new answers are
    appended to it.
    """
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
    inputs = {
        "exam" if questions.is_public else "input": [questions.path] if questions.path else [],
        "model": models,
        "general": [Path(source) for source in config.general if Path(source).exists()],
        **_list_tables(config),
    }
    with open_stage_output("evaluate", config, inputs, WRITES, [*GENERATORS, "scipy"]) as space:
        if space.is_finished:
            _translate_page(config, space)
        else:
            check(config)
            _run_questions(config, space, questions, folder)
        return space.manifest


def _list_tables(config: Config) -> dict[str, Path | list[Path]]:
    """List what answers are graded by, as inputs."""
    rubric = [config.rubric] if config.rubric else []
    return {
        "rubric": rubric,
        **list_task_inputs(config.task),
        **list_terms_inputs(config.terms),
    }


def check(config: Config) -> None:
    """Say before a long run what its config alone shows: an endpoint or a judge without its key."""
    if config.endpoint:
        find_target_of(config.endpoint, config.model, "--endpoint")
    if config.judge:
        find_target_of(config.judge, config.judge_model, "--judge")
    elif config.judge_model:
        raise InputError("--judge-model: there is no judge; name its endpoint with --judge")


def _list_given(config: Config, *names: str) -> str:
    """List the flags among some fields that are given."""
    fields = Config.model_fields
    given = [name for name in names if getattr(config, name) != fields[name].get_default()]
    return ", ".join(f"--{name.replace('_', '-')}" for name in given)


def _read_questions(config: Config) -> Questions:
    """Read what is asked; raises InputError where flags do not fit or there is nothing."""
    if config.shuffle_options and not config.exam:
        raise InputError("--shuffle-options: only an exam has options; name it with --exam")
    if config.exam:
        if given := _list_given(config, "input", "samples", "faithfulness", "rubric", "instructed"):
            raise InputError("--exam: asks its own questions once; leave {} out", given)
        return read_public(config.exam, config.limit, bool(config.judge))
    if config.input is None:
        raise InputError(
            "medkd evaluate: nothing to ask; pass --input (the directory of merge), --exam FILE, "
            "or --predictions FILE"
        )
    path = find_question_file(config.input, config.split)
    examples, n_read, dropped = read_examples(path, config.split)
    if not examples:
        raise no_questions(path, config.split)
    examples, dropped = keep_first(examples, config.limit, dropped)
    check_tasks({example.task for example in examples}, config.task, path)
    return Questions(
        examples,
        make_prompts(examples, config.instructed, config.task),
        path,
        n_read,
        dropped,
        partial(score_prediction, task=config.task, terms=config.terms),
        rubrics=find_rubrics(config.rubric, config.judge, examples, path) if config.rubric else {},
    )


def _run_questions(
    config: Config, space: StageOutput, questions: Questions, folder: Path | None
) -> None:
    """Check that the test is fair, ask, score and write."""
    space.read(questions.n_read)
    space.drop_all(questions.dropped)
    notes: list[Note] = []
    if questions.path and not questions.is_public:
        if config.endpoint or config.judge:
            marks = [e.lineage.deidentified_by for e in questions.examples]
            _check_marks(config, space, marks, questions.path)
        examples, path = questions.examples, questions.path
        notes, facts = check_fairness(examples, path, folder, config.allow_seen)
        space.manifest.facts |= facts
    with ExitStack() as servers:
        answers = _ask_all(config, space, questions, servers)
    if not answers.rows:
        raise InputError(
            "{}: not one question was answered ({}); see {}",
            config.endpoint or config.model,
            answers.failures,
            space.path(LEDGER),
        )
    if not answers.unprompted and not questions.is_public:
        line = (
            "A second template: the model's own one leaves it to begin the thinking, so both think "
            "rates are one."
        )
        notes.append(Note(line))
    if config.general and config.adapter:
        general = measure_forgetting(config, config.general, space, answers.general)
        answers.breakdown["forgetting"] = general
        if general["is_drop"]:
            line = "Forgetting: outside the task {base} right before, {student} after, p {p}."
            notes.append(Note(line, general))
    if looped := [row.id for row in answers.rows if row.scores["loop_rate"]]:
        answers.breakdown["loops"] = {"answers": looped}
        said = "note: {} answers looped; docs/en/stopping.md says what to do"
        tell(said, len(looped), to=sys.stderr)
    scores = _write_scores(config, space, answers, notes, questions.rubrics)
    if not questions.is_public:
        n_steps = -(-len(answers.rows) // config.batch_size)
        _write_results(space, scores, answers.seconds, n_steps)


def _check_marks(config: Config, space: StageOutput, marks: Sequence[str], place: Path) -> None:
    """Refuse rows that may name patients before anything is sent; count them where accepted."""
    reader = f"the endpoint {config.endpoint}" if config.endpoint else f"the judge {config.judge}"
    n = check_deidentified(marks, place, reader, config.accept_identified)
    space.manifest.facts["n_identified"] = n
    if n:
        tell("warning: {} reads {} rows without deidentified_by", reader, n, to=sys.stderr)


def _ask_all(
    config: Config, space: StageOutput, questions: Questions, servers: ExitStack
) -> Answers:
    """Ask every question under the model's own template and, where that begins the thinking, under
    the plain one; ask what is asked besides; and time it."""
    sampling = config.make_sampling()
    prompts = questions.prompts
    predictor = open_predictor(config, space, servers, prompts)
    file = PredictionFile(space.path(PREDICTIONS), "ask", [p.id for p in prompts])
    try:
        found = {
            answer.prediction.id: answer
            for answer in evaluate(prompts, predictor, sampling, questions.score, file)
        }
    finally:
        speed, seconds = _add_time(space, file.n_new, file.seconds)
    unprompted: list[Prediction] = []
    if isinstance(predictor, LocalPredictor) and predictor.plain_template:
        plain = PredictionFile(space.path("unprompted.jsonl"), "ask plainly", file.ids)
        unprompted = plain.fill(
            predictor.predict_plainly(plain.open_prompts(prompts), file.done.__getitem__, sampling)
        )
    ordered = [found[p.id] for p in prompts if p.id in found]
    rows = {answer.row.id: answer.row for answer in ordered}
    asker = Asker(predictor, space, sampling)
    more, breakdown = _ask_more(config, asker, questions, file.done, rows)
    general = ask_general(config, config.general, space, predictor) if config.general else []
    space.drop_all(predictor.failures)
    return Answers(
        predictions=[answer.prediction for answer in ordered],
        rows=[row.add(*(found.get(row.id, {}) for found in more)) for row in rows.values()],
        breakdown=breakdown,
        general=general,
        unprompted=unprompted,
        failures=predictor.failures,
        speed=speed,
        seconds=seconds,
    )


def _ask_more(
    config: Config,
    asker: Asker,
    questions: Questions,
    answered: Mapping[str, Prediction],
    rows: Mapping[str, Row],
) -> tuple[list[Scores], dict[str, Any]]:
    """Ask further samples, other orders of the options and changed records where wanted; return
    further scores, and what belongs in the breakdown."""
    more: list[Scores] = []
    breakdown: dict[str, Any] = {}
    if config.samples > 1:
        again = asker.ask_samples("samples", questions.prompts, range(1, config.samples))
        samples = {i: [answered[i], *again[i]] for i in rows}
        more.append({i: score_samples(s, config.task, config.terms) for i, s in samples.items()})
    if config.shuffle_options:
        n_orders, exam = config.shuffle_options, questions.exam
        found, breakdown["positions"] = ask_shuffled(asker, exam, answered, n_orders, config.seed)
        more.append(found)
    if config.faithfulness:
        asked = (asker, questions.prompts, answered, rows, config.faithfulness)
        more.append(ask_changed(*asked, config.seed, config.task))
    return more, breakdown


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
    if given := _list_given(config, *_OF_ASKING):
        raise InputError("--predictions: the answers are there already; leave {} out", given)
    path = resolve_input(path, PREDICTIONS, made_by="--predictions")
    found = read_predictions(path, config.task, config.limit)
    asked = found.predictions
    rubrics = find_rubrics(config.rubric, config.judge, asked, path) if config.rubric else {}
    inputs = {"predictions": path, **_list_tables(config)}
    with open_stage_output("evaluate", config, inputs, WRITES, ["jieba", "scipy"]) as space:
        if space.is_finished:
            _translate_page(config, space)
            return space.manifest
        started = time.monotonic()
        space.read(found.n_read)
        space.drop_all(found.dropped)
        if config.judge:  # a prediction does not tell what its question was made from
            _check_marks(config, space, [""] * len(found.predictions), path)
        space.write_records(PREDICTIONS, found.predictions)
        notes = describe_gaps(found.predictions)
        for note in notes:
            print(f"warning: {note}", file=sys.stderr)
        if not all(p.finish_reason for p in found.predictions):
            line = "How answers ended, and their lengths in tokens: the file does not tell."
            notes.append(Note(line))
        rows = list(score(found.predictions, config.task, config.terms))
        answers = Answers(found.predictions, rows, {})
        scores = _write_scores(config, space, answers, notes, rubrics)
        runtime = read_runtime(path)
        seconds, steps = runtime or (time.monotonic() - started, 0.0)
        _write_results(space, scores, seconds, round(steps * seconds) or len(rows))
        space.manifest.facts["runtime_is_of"] = "generation" if runtime else "scoring"
        return space.manifest


def _write_scores(
    config: Config,
    space: StageOutput,
    answers: Answers,
    notes: list[Note],
    rubrics: Mapping[str, QuestionRubric],
) -> dict[str, Any]:
    """Have a judge decide what rules left open, sum up, and write the files and the page."""
    rows, general = answers.rows, answers.general
    if config.judge:
        ledger = space.path(LEDGER)
        opened = partial(open_judge, config.judge, config.judge_model, ledger, config.budget)
        given = (space, answers.predictions, rows, rubrics, opened, config.task)
        rows, told = judge_rows(*given)
        notes += told
    space.write_records(ROWS, rows)
    if general:
        space.write_records(GENERAL, general)
    scores = make_scores(
        rows, answers.predictions, answers.unprompted, answers.speed, config.seed, general
    )
    breakdown = {**break_down(rows, seed=config.seed), **answers.breakdown}
    breakdown["notes"] = [note._asdict() for note in notes]
    write_json(space.path("scores.json"), scores)
    write_json(space.path("breakdown.json"), breakdown)
    space.manifest.counts.kept = len(rows)
    space.manifest.facts |= {key: value for key, value in scores.items() if key != "intervals"}
    name = name_model(space.manifest)
    shown = Evaluation(name, scores, answers.predictions, rows, breakdown, space.manifest, general)
    print("\n".join(filter(None, (write_lead([shown]), write_scores(scores)))))
    tell("report: {}", write_material(show_evaluation(space.directory, shown), config.lang))
    return scores


def _write_results(
    space: StageOutput, scores: Mapping[str, Any], seconds: float, n_steps: int
) -> None:
    """Write `predict_results.json` under LLaMA-Factory's names, with its rounding."""
    results = {f"predict_{name}": scores[name] for name in OVERLAP if name in scores}
    results["predict_runtime"] = round(seconds, 4)
    for unit, n in {"samples": scores["n"], "steps": n_steps}.items():
        results[f"predict_{unit}_per_second"] = round(n / seconds, 3) if seconds else 0.0
    write_json(space.path(RESULTS), results)


def _translate_page(config: Config, space: StageOutput) -> None:
    """Write the page of a finished evaluation anew where another language is wanted."""
    if space.manifest.config.get("lang", "en") != config.lang:
        material = read_step(space.directory, space.manifest)
        tell("report: {}", write_material(material, config.lang))
