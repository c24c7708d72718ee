"""The stage `evaluate`: what a model can do on questions it never saw, asked bare; or what answers
from a file are worth.

In: `test.jsonl` of `merge` and a model, an adapter of `train`, or an endpoint; or a file of
predictions, LLaMA-Factory's too.
Out: `predictions.jsonl`, `unprompted.jsonl` (the same under the plain template, where that is
another one), `rows.jsonl` (scores of each question), `scores.json`, `breakdown.json`,
`predict_results.json`, `report.html`. Not done here: comparing several (`evaluate.compare`).
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from medkd.core.config import RUNTIME, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input, write_json
from medkd.core.privacy import AcceptIdentified, check_deidentified
from medkd.core.records import Cost, Example, Prediction
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.evaluate.foreign import RESULTS, Task, read_predictions, read_runtime, write_results
from medkd.models.load import Device, Dtype, Hub

if TYPE_CHECKING:
    from medkd.evaluate.asking import Asked
    from medkd.evaluate.looped import Traced

LEDGER = "ledger.sqlite"
WRITES = (
    *(f"{name}.jsonl" for name in ("predictions", "unprompted", "samples", "wordings", "besides")),
    "rows.jsonl",
    "scores.json",
    "breakdown.json",
    "generation.json",
    "predict_results.json",
    "report.html",
    "merged-for-vllm",
)
GENERATORS = ("torch", "transformers", "peft", "ctranslate2", "vllm")
"""Libraries that may have generated, whose versions belong in the manifest."""


class Config(StageConfig):
    """Ask a model the questions of `test.jsonl` and score its answers, or score the answers of a
    file."""

    model: str = ""
    """Model: medkd:tiny, a folder, a name on a hub; with --endpoint, its name there."""
    adapter: Annotated[Path | None, RUNTIME] = None
    """Directory of `train`, or an adapter folder; its tokenizer and template are used."""
    input: Annotated[Path | None, RUNTIME] = None
    """Directory of `merge`, or a file of examples."""
    exam: str = ""
    """Multiple choice instead: a file in the form of CMB, CMExam, MedQA or MedMCQA, or hf:NAME,
    ms:NAME, hf:NAME:SPLIT."""
    endpoint: str = ""
    """Ask an OpenAI-compatible endpoint instead: a provider of providers.yaml, or an address."""
    predictions: Annotated[Path | None, RUNTIME] = None
    """Score this file instead: LLaMA-Factory's generated_predictions.jsonl, or predictions of
    another evaluation."""
    task: Task = "auto"
    """What the labels of --predictions are: lists of diagnoses, or open answers, which get no
    diagnosis score."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Where a model that is only named is fetched from."""
    trust_remote_code: Annotated[bool, RUNTIME] = False
    """Let a model run code that came with it."""
    max_tokens: int = Field(default=1024, ge=1, le=10**6)
    """Longest answer in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """0 takes the likeliest token; R1 models are often sampled at 0.6."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Share of probability to sample from; 0.95 goes with a temperature of 0.6."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides what is drawn, and the bootstrap."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Ask only the first questions."""
    instructed: bool = False
    """Put the training instruction in front of every question, instead of asking it bare."""
    ask: tuple[str, ...] = ()
    """Further questions without a known answer: shown on the page, not scored."""
    samples: int = Field(default=1, ge=1, le=1000)
    """Answers a question, for the vote and pass@k; needs a temperature."""
    wordings: int = Field(default=0, ge=0, le=10**6)
    """Questions that are also asked under an instruction, in unseen words and in English."""
    judge: str = ""
    """Endpoint that judges what rules cannot tell and open answers: a provider, or an address; none
    unless given."""
    judge_model: str = ""
    """The judge's model; the provider's first where none is given."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0, le=10**9)] = None
    """Most money this directory's ledger may come to; a hard stop."""
    accept_identified: AcceptIdentified = False
    """Let an endpoint or a judge read rows that no de-identification marked."""
    allow_seen: Annotated[bool, RUNTIME] = False
    """Measure on questions that were in the training data all the same."""
    batch_size: Annotated[int, RUNTIME] = Field(default=64, ge=1, le=10**5)
    """Questions at a time; halved where memory runs out."""
    dtype: Dtype = "auto"
    """Number format; auto takes float32 for a small model on a processor, else bfloat16 where it
    computes in that."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Where to compute."""


def run(config: Config) -> Manifest:
    """Evaluate as configured; questions answered before a kill are not asked again."""
    return _run_file(config, config.predictions) if config.predictions else _run_model(config)


def _run_file(config: Config, path: Path) -> Manifest:
    if config.model or config.endpoint or config.adapter:
        raise InputError(
            "--predictions: the answers are there already; leave --model, --adapter and --endpoint out"
        )
    path = resolve_input(path, "predictions.jsonl", made_by="evaluate")
    with open_stage_output(
        "evaluate", config, {"predictions": path}, WRITES, libraries=["jieba", "scipy"]
    ) as space:
        if space.is_finished:
            return space.manifest
        started = time.monotonic()
        found = read_predictions(path, config.task, config.limit)
        space.read(found.n_read)
        space.drop_all(found.dropped)
        if config.judge:  # a prediction does not tell what its question was made from
            _check_marks(config, space, [""] * len(found.predictions), path)
        space.write_records("predictions.jsonl", found.predictions)
        if found.n_unlabelled:
            print(
                f"warning: {found.n_unlabelled} of {found.n_read} answers have no label: only their form is measured",
                file=sys.stderr,
            )
        missing = (
            [
                f"Overlap of {found.n_unlabelled} of {len(found.predictions)} predictions: they have no label."
            ]
            if found.n_unlabelled
            else []
        )
        if n_empty := sum(
            p.teacher is not None and not p.teacher.strip() for p in found.predictions
        ):
            missing.append(
                f"{n_empty} of {len(found.predictions)} labels are empty: as in LLaMA-Factory, their overlap counts as 0."
            )
            print(f"warning: {missing[-1]}", file=sys.stderr)
        if not all(p.finish_reason for p in found.predictions):
            missing.append(
                "How answers ended, and their lengths in tokens: the file does not tell."
            )
        scores = _write_scores(config, space, found.predictions, [], None, missing)
        runtime = read_runtime(path)
        seconds, steps = runtime or (time.monotonic() - started, 0.0)
        write_results(
            space.path(RESULTS),
            scores,
            seconds,
            len(found.predictions),
            round(steps * seconds) or len(found.predictions),
        )
        space.manifest.facts["runtime_is_of"] = "generation" if runtime else "scoring"
        return space.manifest


def _check_marks(config: Config, space: StageOutput, marks: Sequence[str], place: Path) -> None:
    """Refuse rows that may name patients before anything is sent; count them where accepted."""
    reader = f"the endpoint {config.endpoint}" if config.endpoint else f"the judge {config.judge}"
    n = check_deidentified(marks, place, reader, config.accept_identified)
    space.manifest.facts["n_identified"] = n
    if n:
        print(f"warning: {reader} reads {n} rows without deidentified_by", file=sys.stderr)


def _run_model(config: Config) -> Manifest:
    from medkd.evaluate.asking import ask_all, find_inputs
    from medkd.evaluate.looped import has_looped
    from medkd.evaluate.seen import find_seen, holds_answer, refuse_seen

    if config.exam:
        return _run_exam(config)
    if config.input is None:
        raise InputError(
            "medkd evaluate: nothing to ask; give --input (the directory of merge), --exam FILE, or --predictions FILE"
        )
    test_path = resolve_input(config.input, "test.jsonl", made_by="merge")
    folder, inputs = find_inputs(config)
    with open_stage_output(
        "evaluate",
        config,
        {"input": test_path, "model": inputs},
        WRITES,
        libraries=[*GENERATORS, "scipy"],
    ) as space:
        if space.is_finished:
            return space.manifest
        reader = RecordReader(test_path, Example, made_by="merge")
        examples = list(reader)[: config.limit]
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        if not examples:
            raise InputError(
                f'{test_path}: no questions; give "medkd merge" a share for the test split'
            )
        if config.endpoint or config.judge:
            _check_marks(config, space, [e.lineage.deidentified_by for e in examples], test_path)
        seen = find_seen(examples, test_path, folder)
        if not config.allow_seen:
            refuse_seen(seen, len(examples), test_path)
        n_holding = sum(bool(e.reference) and holds_answer(e.input, e.reference) for e in examples)
        missing = _warn(
            len(seen.ids), n_holding, len(examples), lineage_known=seen.training_path is not None
        )
        space.manifest.facts |= {
            "n_seen_in_training": len(seen.ids),
            "n_holding_their_answer": n_holding,
        }
        asked = ask_all(config, space, examples)
        space.drop_all(asked.failures)
        if not asked.predictions:
            raise InputError(
                f"{config.endpoint or config.model}: not one question was answered ({asked.failures}); see {space.path(LEDGER)}"
            )
        if not asked.unprompted:
            missing.append(
                "A second template: the model's own one leaves it to begin the thinking, so both think rates are one."
            )
        if looped := [p for p in asked.predictions if has_looped(p)]:
            asked = asked._replace(loops=_trace_loops(config, looped, seen.training_path, folder))
        scores = _write_scores(
            config, space, asked.predictions, asked.unprompted, asked.speed, missing, asked
        )
        write_results(
            space.path(RESULTS),
            scores,
            asked.seconds,
            len(asked.predictions),
            -(-len(asked.predictions) // config.batch_size),
        )
        return space.manifest


def _trace_loops(
    config: Config, looped: Sequence[Prediction], training_path: Path | None, folder: Path | None
) -> "Traced":
    """Look for what taught the student to loop: in its training rows, where a lineage leads to
    them, and in its stop tokens."""
    from medkd.evaluate.looped import Traced, tell_stops, trace
    from medkd.models.load import resolve_model

    if training_path is None:
        traced = Traced(
            answers=(),
            lines=(
                f"{len(looped)} answers looped; no lineage leads to the rows that may have taught it.",
            ),
        )
    else:
        traced = trace(looped, training_path)
    stops = (
        tell_stops(folder, resolve_model(config.model, config.hub, config.trust_remote_code))
        if folder
        else []
    )
    traced = traced.model_copy(update={"lines": (*traced.lines, *stops)})
    print("\n".join(f"loops: {line}" for line in traced.lines), file=sys.stderr)
    return traced


def _run_exam(config: Config) -> Manifest:
    """Ask an exam: every answer is generated, its letter read, and what cannot be read is counted
    and wrong."""
    from medkd.evaluate.asking import ask_all, find_inputs
    from medkd.evaluate.exams import read_exam, score_exam, to_examples

    if config.input or config.samples > 1 or config.wordings or config.judge:
        raise InputError(
            "--exam: asks its own questions once and needs no judge; leave --input, --samples, --wordings and --judge out"
        )
    questions, n_broken = read_exam(config.exam, limit=config.limit)
    _, models = find_inputs(config)
    files = [Path(config.exam)] if Path(config.exam).is_file() else []
    inputs = {"exam": files, "model": models}
    with open_stage_output("evaluate", config, inputs, WRITES, libraries=GENERATORS) as space:
        if space.is_finished:
            return space.manifest
        space.read(len(questions) + n_broken)
        space.drop("not_a_question", n_broken)
        asked = ask_all(config, space, to_examples(questions))
        space.drop_all(asked.failures)
        by_id = {q.id: q for q in questions}
        marks = {
            p.id: score_exam(by_id[p.id].answer, p.raw, by_id[p.id].options)
            for p in asked.predictions
        }
        _write_scores(
            config,
            space,
            asked.predictions,
            asked.unprompted,
            asked.speed,
            [],
            asked._replace(sampled=marks),
        )
        return space.manifest


def _warn(n_seen: int, n_holding: int, n: int, lineage_known: bool) -> list[str]:
    """Warn of what makes a test unfair; give the lines that belong on the page."""
    lines: list[str] = []
    if n_seen:
        lines.append(f"Unseen questions only: {n_seen} of {n} were in the training data.")
        print(
            f"warning: {n_seen} of {n} questions were in the training data; the scores count them too",
            file=sys.stderr,
        )
    if n_holding:
        lines.append(
            f"Questions without their own answer: {n_holding} of {n} name the known diagnosis; being right there means little."
        )
        print(
            f"warning: {n_holding} of {n} questions name their known diagnosis; being right there means little",
            file=sys.stderr,
        )
    if not lineage_known:
        lines.append(
            "Whether the model met these questions in training: no lineage leads to its training data."
        )
    return lines


def _write_scores(
    config: Config,
    space: StageOutput,
    predictions: Sequence[Prediction],
    unprompted: Sequence[Prediction],
    speed: float | None,
    missing: Sequence[str],
    asked: "Asked | None" = None,
) -> dict[str, Any]:
    from medkd.evaluate.asking import open_judge
    from medkd.evaluate.judging import judge_all
    from medkd.evaluate.report import Evaluation, write_report
    from medkd.evaluate.scoring import FILE_NAME, grade_all, score
    from medkd.evaluate.statistics import break_down, make_scores

    grades, said, open_scores, notes = (
        grade_all(predictions),
        dict[str, str](),
        dict[str, float](),
        list(missing),
    )
    if config.judge:
        judged = judge_all(
            predictions, grades, lambda rubric, servers: open_judge(config, space, rubric, servers)
        )
        grades, said, open_scores = judged.grades, judged.said, judged.open_scores
        space.manifest.cost = Cost(amount=round(judged.amount, 6), currency=judged.currency)
        space.manifest.facts["judge_failed"] = judged.n_failed
        if judged.n_failed:
            notes.append(
                f"{judged.n_failed} judgements: the judge failed or could not be read; the rules' word stands there."
            )
    rows = score(predictions, grades, said)
    for row in rows:
        row.scores.update(asked.sampled.get(row.id, {}) if asked else {})
        if row.id in open_scores:
            row.scores["judge_score"] = open_scores[row.id]
    space.write_records(FILE_NAME, rows)
    scores = make_scores(rows, predictions, unprompted, speed, config.seed)
    breakdown: dict[str, Any] = {**break_down(rows, seed=config.seed)}
    if asked and asked.worded:
        breakdown["wordings"] = asked.worded
    if asked and asked.loops:
        breakdown["loops"] = asked.loops.model_dump(mode="json")
    write_json(space.path("scores.json"), scores)
    write_json(space.path("breakdown.json"), breakdown)
    space.manifest.counts.kept = len(predictions)
    space.manifest.facts |= {key: value for key, value in scores.items() if key != "intervals"}
    shown = Evaluation(
        _name(config),
        scores,
        predictions,
        rows,
        breakdown,
        asked.besides if asked else (),
        space.manifest,
    )
    write_report(space.path("report.html"), [shown], f"Evaluation of {_name(config)}", notes)
    print(f"{list_scores(scores)}\nreport: {space.path('report.html')}")
    return scores


def list_scores(scores: dict[str, Any]) -> str:
    """Write the scores that a person looks for first, each with its interval."""
    from medkd.evaluate.report import DESCRIPTIONS, MORE, write_number

    lines: list[str] = []
    for name in [name for name in {**MORE, **DESCRIPTIONS} if name in scores and "_p" not in name]:
        interval = scores["intervals"].get(name)
        doubt = f"  [{write_number(interval[0])}, {write_number(interval[1])}]" if interval else ""
        lines.append(f"  {name:<24}{write_number(scores[name]):>8}{doubt}")
    return "\n".join(lines)


def _name(config: Config) -> str:
    if config.predictions:
        return config.predictions.name
    model = f"{config.model} at {config.endpoint}" if config.endpoint else config.model
    return f"{model} + {config.adapter}" if config.adapter else model
