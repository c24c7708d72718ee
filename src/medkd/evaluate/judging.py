"""What a judge decides: answers that rules leave undecided, open ones, and criteria of rubrics; and
the stage `rubric`, in which a teacher writes for each question what answers are graded by.

In: predictions and rows, a judge; for the stage, `test.jsonl` of merge and a teacher. Out: the rows
with the judge's scores beside those of the rules; `rubrics.jsonl`, one rubric a question.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medkd.completers.client import LedgerClient, open_client
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.providers import find_target_of
from medkd.core.config import RUNTIME, SENDS_KEY, AcceptIdentified, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Completer, Example, Prediction, check_deidentified
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.evaluate.questions import keep_first
from medkd.grading import judge
from medkd.grading.diagnosis import GradeVerdict
from medkd.grading.rubric import (
    RUBRICS,
    QuestionRubric,
    UnusableRubricError,
    make_writer_request,
    read_criteria,
    read_rubrics,
    score_rubrics,
)
from medkd.grading.scores import Row, find_kind, find_verdict
from medkd.report.document import Note
from medkd.text.normalize import make_plain


class Config(StageConfig):
    """Have a teacher write 5 to 12 weighted criteria for each question, every one quoting the
    record or the reference."""

    input: Annotated[Path, RUNTIME]
    """Directory of `merge`, or a file of examples with references."""
    teacher: Annotated[str, SENDS_KEY]
    """Who writes the rubrics: a provider of providers.yaml, or an address."""
    model: str = ""
    """The teacher's model; default: the provider's first."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Write rubrics for the first questions only."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0, le=10**9)] = None
    """Upper limit of the money on this directory's ledger; a hard stop."""
    accept_identified: AcceptIdentified = False
    """Send the teacher also rows without deidentified_by."""


def run(config: Config) -> Manifest:
    """Write rubrics as configured; what a teacher wrote before a kill is not paid again."""
    path = resolve_input(config.input, "test.jsonl", made_by="merge")
    target = find_target_of(config.teacher, config.model, "--teacher")
    reader = RecordReader(path, Example, made_by="merge")
    examples = [e for e in reader if e.reference or e.answer]
    examples, dropped = keep_first(examples, config.limit, reader.dropped())
    if not examples:
        raise InputError("{}: no question has a known answer; merge one with references", path)
    marks = [example.lineage.deidentified_by for example in examples]
    n_identified = check_deidentified(marks, path, "the teacher", config.accept_identified)
    with open_stage_output("rubric", config, {"input": path}, [RUBRICS]) as space:
        if space.is_finished:
            return space.manifest
        space.read(reader.n_read)
        space.drop_all(dropped)
        space.manifest.facts["n_identified"] = n_identified
        requests = [make_writer_request(e.input, find_reference(e)) for e in examples]
        with open_client(
            target, space.path(LEDGER), "rubric", _find_fault, config.budget
        ) as teacher:
            completions = teacher.complete(requests)
            space.manifest.cost = teacher.tell_cost()
        source = f"{target.name} {target.model}"
        texts = [c.text if c.complete else None for c in completions]
        _write(space, examples, texts, source)
        return space.manifest


def check(config: Config) -> None:
    """Say before a long run what its config alone shows: an unknown teacher, a missing key."""
    find_target_of(config.teacher, config.model, "--teacher")


def find_reference(example: Example) -> str:
    """Return what a right answer to a question says."""
    return example.reference or example.answer


def _find_fault(_reasoning: str, text: str) -> str:
    """Say why a reply is no list of criteria; whether its quotes stand in the record is checked
    when it is written."""
    try:
        read_criteria(text, text, "")
    except UnusableRubricError as error:
        return str(error)
    return ""


def _write(
    space: StageOutput, examples: Sequence[Example], texts: Sequence[str | None], source: str
) -> None:
    """Write the rubrics that hold, and count the others by reason."""
    rubrics: list[QuestionRubric] = []
    reasons = Counter[str]()
    for example, text in zip(examples, texts, strict=True):
        reference = find_reference(example)
        try:
            if text is None:
                raise UnusableRubricError("unanswered", "no answer")
            criteria = read_criteria(text, example.input, reference)
        except UnusableRubricError as error:
            reasons[error.reason] += 1
            continue
        rubrics.append(
            QuestionRubric(
                id=example.id,
                criteria=criteria,
                question=example.input,
                reference=reference,
                source=source,
                deidentified_by=example.lineage.deidentified_by,
            )
        )
    space.drop_all(reasons)
    space.manifest.counts.kept = space.write_records(RUBRICS, rubrics)
    n = sum(len(rubric.criteria) for rubric in rubrics)
    space.manifest.facts["n_criteria"] = n
    n_faults = sum(c.points < 0 for rubric in rubrics for c in rubric.criteria)
    print(f"rubric: {n} criteria of {len(rubrics)} questions, {n_faults} of them faults")


def show_rubric(rubric: QuestionRubric) -> str:
    """Write a rubric for a person to read."""
    lines = [f"{c.points:+g}  {c.text}\n      「{c.quote}」" for c in rubric.criteria]
    return "\n".join([rubric.question, f"reference: {rubric.reference}", *lines])


def find_rubrics(
    given: Path, judge: str, asked: Sequence[Example | Prediction], place: Path
) -> dict[str, QuestionRubric]:
    """Find the rubrics of what is asked, which stands in `place`, by its ids; those of another
    tool's predictions are told by the text of their question. Raises InputError without a judge,
    or where no rubric is of these questions."""
    if not judge:
        raise InputError("--rubric: criteria are checked by a judge; name one with --judge")
    rubrics = read_rubrics(given)
    by_text = {make_plain(one.question): one for one in rubrics.values() if one.question}
    found: dict[str, QuestionRubric] = {}
    for one in asked:
        text = one.input if isinstance(one, Example) else one.question or one.prompt
        if rubric := rubrics.get(one.id) or by_text.get(make_plain(text)):
            found[one.id] = rubric
    if not found:
        raise InputError("{}: no rubric is of a question of {}; check --rubric", given, place)
    if len(found) < len(asked):
        told = f"{len(found)} of {len(asked)} questions have a rubric; rubric_score is of these"
        print(f"warning: {told}", file=sys.stderr)
    return found


def score_by_rubric(
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    rubrics: Mapping[str, QuestionRubric],
    session: Completer,
) -> tuple[list[Row], int]:
    """Add the scores of their rubrics to the rows that have one; return all rows, and the number of
    criteria on which the judge could not be read."""
    asked = [p for p in predictions if p.id in rubrics]
    held = score_rubrics(
        [(p.question or p.prompt, p.answer, rubrics[p.id]) for p in asked], session
    )
    found = {p.id: score for p, score in zip(asked, held, strict=True)}
    scored: list[Row] = []
    for row in rows:
        if score := found.get(row.id):
            marks = {
                "rubric_score": score.low,
                "rubric_score_high": score.high,
                "rubric_unreadable": score.unreadable,
            }
            said = _write_met(rubrics[row.id], score.met)
            row = row.add(marks, judged="\n".join(filter(None, [row.judged, said])))
        scored.append(row)
    return scored, sum(met is None for score in held for met in score.met)


def _write_met(rubric: QuestionRubric, met: Sequence[bool | None]) -> str:
    """Write what a judge said of each criterion, one a line."""
    said = {None: "unread", True: "met", False: "not met"}
    pairs = zip(rubric.criteria, met, strict=True)
    return "\n".join(f"{said[is_met]} ({c.points:+g}): {c.text}" for c, is_met in pairs)


# A judge beside the rules

OpenJudge = Callable[[judge.RubricName], AbstractContextManager[LedgerClient]]


def judge_rows(
    space: StageOutput,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    rubrics: Mapping[str, QuestionRubric],
    open_judge: OpenJudge,
    task: str = "",
) -> tuple[list[Row], list[Note]]:
    """Have what the rules left undecided judged, answers to open questions scored against the
    teacher's, and those with a rubric criterion by criterion; return all rows, and what the page
    says of it.

    The rules' figures stay; `judged_accuracy` and `judged_decided` hold the rules' verdict where
    there is one and the judge's elsewhere. An answer on which the judge's two orders disagree stays
    undecided.
    """
    verdicts: dict[str, GradeVerdict | None] = {row.id: find_verdict(row.scores) for row in rows}
    undecided = [p for p in predictions if verdicts[p.id] == "undecided"]
    opened = [p for p in predictions if not p.reference and p.teacher]
    opinions: dict[str, judge.Opinion] = {}
    scored: dict[str, judge.Judgement] = {}
    if undecided:
        with open_judge("diagnosis") as session:
            said = judge.judge_answers([to_judge(p, task) for p in undecided], session)
            space.manifest.cost = session.tell_cost()
        opinions = {p.id: opinion for p, opinion in zip(undecided, said, strict=True)}
    if opened:
        texts = [
            judge.open_texts(p.question or p.prompt, p.answer, p.teacher or "") for p in opened
        ]
        with open_judge("open") as session:
            judged = judge.judge(texts, judge.load_rubric("open"), session)
            space.manifest.cost = session.tell_cost()
        read = ((p.id, result.judgement) for p, result in zip(opened, judged, strict=True))
        scored = {i: judgement for i, judgement in read if judgement}
    found = [
        _add_judgement(row, verdicts[row.id], opinions.get(row.id), scored.get(row.id))
        for row in rows
    ]
    n_failed = len(opened) - len(scored) + sum(not o.label for o in opinions.values())
    if rubrics:
        with open_judge("criterion") as session:
            found, n_unread = score_by_rubric(predictions, found, rubrics, session)
            space.manifest.cost = session.tell_cost()
        n_failed += n_unread
    n_split = sum(opinion.is_split for opinion in opinions.values())
    n_asked = len(undecided) + len(opened)
    facts = {"judge_asked": n_asked, "judge_failed": n_failed, "judge_split": n_split}
    space.manifest.facts |= facts
    return found, _describe_failures(n_failed, n_split)


def _describe_failures(n_failed: int, n_split: int) -> list[Note]:
    """Say how many judgements came to nothing."""
    notes: list[Note] = []
    if n_failed:
        line = "{n} judgements: the judge failed or could not be read; these stay undecided."
        notes.append(Note(line, {"n": n_failed}))
        print(f"warning: {notes[-1]}", file=sys.stderr)
    if n_split:
        line = (
            "{n} answers on which the judge changed its mind with the order; these stay undecided."
        )
        notes.append(Note(line, {"n": n_split}))
    return notes


def to_judge(prediction: Prediction, task: str = "") -> judge.AnswerToJudge:
    """Make what a judge is shown of a prediction."""
    question = prediction.question or prediction.prompt
    kind = find_kind(prediction, task)
    return judge.AnswerToJudge(kind, question, prediction.answer, prediction.reference)


def _add_judgement(
    row: Row,
    verdict: GradeVerdict | None,
    opinion: judge.Opinion | None,
    judgement: judge.Judgement | None,
) -> Row:
    if judgement:
        return row.add({"judge_score": judgement.score}, judged=judgement.why)
    if verdict is None:
        return row
    judged = ""
    if opinion is not None and opinion.verdict:
        verdict, judged = opinion.verdict, f"{opinion.verdict}: {opinion.why}"
    marks = {
        "judged_accuracy": float(verdict == "right"),
        "judged_decided": float(verdict != "undecided"),
    }
    return row.add(marks, judged=judged)


def open_judge(
    endpoint: str, model: str, ledger: Path, budget: float | None, rubric: judge.RubricName
) -> AbstractContextManager[LedgerClient]:
    """Open the judge of one rubric."""
    target = find_target_of(endpoint, model, "--judge")
    find_fault = judge.make_fault_finder(judge.load_rubric(rubric))
    return open_client(target, ledger, "judge", find_fault, budget)
