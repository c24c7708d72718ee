"""The stage `verify`: keep the rationales that deserve to be learnt from, and say why others fell.

In: `rationales.jsonl`. Out: `verified.jsonl`, `rejected.jsonl` and `undecided.jsonl` of `Checked`
records, between which lines may be moved by hand; `ledger.sqlite` where a model was asked.
Not done here: the checks (`grading.checks`), asking (`verify.llm_checks`), duplicates (`merge`).
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target, check_budget, find_target
from medkd.core.config import RUNTIME, SENDS_KEY, AcceptIdentified, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input, write_atomically
from medkd.core.parallel import map_in_order
from medkd.core.progress import track
from medkd.core.records import Checked, Cost, Rationale, Verdict, check_deidentified
from medkd.core.stage_output import Manifest, StageOutput, is_finished, open_stage_output
from medkd.core.task import (
    CheckName,
    Task,
    TaskFile,
    VerifyPart,
    find_task,
    load_task,
    name_task,
)
from medkd.grading import checks
from medkd.grading.terms import TermsFile, list_terms_inputs
from medkd.verify.llm_checks import (
    IdentifiedRationale,
    LlmChecker,
    find_written_language,
    make_answer_check,
    make_blind_check,
    make_judge_check,
)

Share = Annotated[float, Field(ge=0, le=1)]
LEDGER = "ledger.sqlite"
WRITES = ("verified.jsonl", "rejected.jsonl", "undecided.jsonl")
_AGAIN = "ask again with medkd distill --overwrite (its ledger stays)"
_READ = "read rejected.jsonl"
_MISSED = "distill with --mode rationalize, or --mode solve --fallback rationalize"
NEXT_STEPS: dict[checks.Reason, str] = dict.fromkeys(checks.Reason, _READ) | {
    checks.Reason.INCOMPLETE: f"{_AGAIN} and more --max-tokens",
    checks.Reason.NO_REASONING: f"{_AGAIN} and another --model",
    checks.Reason.NO_ANSWER: f"{_AGAIN} and more --max-tokens",
    checks.Reason.TOO_SHORT: f"{_READ}, or lower --min-reasoning",
    checks.Reason.TOO_LONG: f"{_READ}, or raise --max-reasoning",
    checks.Reason.LANGUAGE_SWITCH: "the teacher does not write in the language of its questions; "
    "set the task's language, or ask another --model",
    checks.Reason.LONG_ANSWER: f"{_READ}, or raise --max-answer",
    checks.Reason.WRONG_DIAGNOSIS: f"the teacher misses the known diagnosis; {_MISSED}",
    checks.Reason.WRONG_ANSWER: f"the teacher misses the known answer; {_MISSED}",
    checks.Reason.UNDECIDED: "rules cannot tell whether these answers are the known ones; they are "
    "in undecided.jsonl: review them in medkd studio, have them judged (--judge), or take them "
    "(--min-f1 0)",
    checks.Reason.HINT_LEAK: "the teacher says that it was told the answer; distill with --mode "
    "solve, or ask another --model",
    checks.Reason.UNGROUNDED: f"{_READ}, or lower --min-grounded",
    checks.Reason.COPY: f"{_READ}, or raise --max-copied",
    checks.Reason.FILLER: f"{_READ}, or raise --max-filler",
}
"""What to do where many rationales fall for a reason."""


class Config(StageConfig):
    """Keep sound rationales."""

    input: Annotated[Path, RUNTIME]
    """Rationales: the directory of distill, or a JSON Lines file."""
    task: TaskFile = ""
    """Task file, where the rationales are of a task of your own."""
    min_f1: Share | None = None
    """Soft F1 from which an answer passes that rules cannot tell right or wrong: 0 takes them all,
    1 keeps them apart in undecided.jsonl. This and the bounds below are the task's where not
    given."""
    terms: TermsFile = None
    """Table of codes and names (CSV or Excel: an ICD table, local synonyms): names of one code are
    one diagnosis, longer codes more specific ones."""
    min_grounded: Share | None = None
    """Share of the numbers, values and denied findings in a reasoning that must stand in the
    question."""
    max_copied: Share | None = None
    """Share of a reasoning that may be copied from the question word for word."""
    max_filler: Share | None = None
    """Share of a reasoning that may be phrases which stand for thinking and say nothing."""
    min_reasoning: int | None = Field(default=None, ge=0)
    """Characters of the shortest reasoning."""
    max_reasoning: int | None = Field(default=None, ge=1)
    """Characters of the longest reasoning."""
    max_answer: int | None = Field(default=None, ge=1)
    """Characters of the longest answer; twice the known one where that is longer."""
    blind: bool = False
    """Ask a model again without the answer, and keep what it reaches too; costs money."""
    judge: bool = False
    """Have a model judge undecided answers, and each rationale by a rubric; costs money."""
    min_score: Share = 0.5
    """Score of the judge from which a rationale passes."""
    teacher: str = "deepseek"
    """The provider that is asked: one of providers.yaml, or `custom` with --base-url and --model
    (key in MEDKD_API_KEY)."""
    model: str = ""
    """The model that is asked; the provider's first where none is given."""
    base_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """Address of the endpoint; the provider's own where none is given."""
    concurrency: Annotated[int, RUNTIME, Field(ge=1)] = 32
    """Requests under way at once, within the provider's cap."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0)] = None
    """Most money this directory's ledger may come to, in the provider's currency; a hard stop."""
    accept_identified: AcceptIdentified = False
    """Let --blind and --judge send rows without deidentified_by."""

    def fingerprint_fields(self) -> dict[str, Any]:
        """Take a bound that is not given for that of a diagnosis, as version 0.1 wrote it down."""
        bounds = load_task("diagnosis").verify
        fields = super().fingerprint_fields()
        return {k: getattr(bounds, k, v) if v is None else v for k, v in fields.items()}

    def find_bounds(self, task: Task) -> VerifyPart:
        """Return the checks of a task with the bounds that are given here."""
        names = set(VerifyPart.model_fields) & set(type(self).model_fields)
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return task.verify.model_copy(update=given)

    @property
    def uses_llm(self) -> bool:
        """Whether a model is asked, which costs money."""
        return self.blind or self.judge


def verify(
    rationales: Iterable[Rationale], config: Config, llm_checkers: Sequence[LlmChecker] = ()
) -> Iterator[Checked]:
    """Check rationales by rules, many of them on several cores; then have the models asked, one
    after another."""
    checked = map_in_order(partial(_check, config=config), rationales)
    for llm_checker in llm_checkers:
        checked = llm_checker.check(checked)
    return checked


def _check(rationale: Rationale, config: Config) -> Checked:
    return Checked(rationale=rationale, verdicts=tuple(check_rationale(rationale, config)))


def check_rationale(rationale: Rationale, config: Config) -> list[Verdict]:
    """Make every check by rules that a rationale's task asks for, the plainest first; without a
    whole text there is nothing more to check.

    A question without a known answer is spared the checks of an answer and of findings.
    """
    form = checks.check_form(rationale.reasoning, rationale.answer, rationale.complete)
    if not rationale.reasoning.strip() or not rationale.answer.strip():
        return [form]
    task = find_task(rationale.question.task, config.task)
    bounds = config.find_bounds(task)
    has_reference = bool(rationale.question.reference.strip())
    made = _list_checks(rationale, task, bounds, config.terms)
    return [
        form,
        *(
            made[name]()
            for name in get_args(CheckName)
            if name in bounds.checks and (has_reference or name not in _OF_REFERENCE)
        ),
    ]


_OF_REFERENCE = frozenset({"brevity", "answer", "filler", "grounding"})


def _list_checks(
    rationale: Rationale, task: Task, bounds: VerifyPart, terms_path: Path | None
) -> dict[CheckName, Callable[[], Verdict]]:
    question, reasoning, answer = rationale.question, rationale.reasoning, rationale.answer
    asked, reference, kind = question.input, question.reference, task.answer.kind
    language = find_written_language(question)
    named = reference if kind == "diagnosis" else ""
    return {
        "refusal": lambda: checks.check_refusal(reasoning, answer),
        "length": lambda: checks.check_length(
            reasoning, bounds.min_reasoning, bounds.max_reasoning
        ),
        "language": lambda: checks.check_language(reasoning, asked, language),
        "loop": lambda: checks.check_loop(f"{reasoning}\n{answer}"),
        "brevity": lambda: checks.check_brevity(answer, reference, bounds.max_answer),
        "answer": lambda: checks.check_answer(
            answer, reference, bounds.min_f1, kind, question.known, terms_path
        ),
        "hint": lambda: checks.check_hint(reasoning, named, asked, rationale.mode == "correct"),
        "identifiers": lambda: checks.check_identifiers(reasoning, answer),
        "copy": lambda: checks.check_copy(reasoning, asked, bounds.max_copied),
        "filler": lambda: checks.check_filler(reasoning, asked, bounds.max_filler),
        "grounding": lambda: checks.check_grounding(reasoning, asked, bounds.min_grounded),
        "script": lambda: checks.check_script(reasoning, answer, asked),
    }


def find_failure(checked: Checked) -> Verdict | None:
    """Find the first failed verdict, the reason a row falls for; one that is only undecided comes
    last."""
    failed = [verdict for verdict in checked.verdicts if not verdict.passed]
    return min(failed, key=lambda one: one.reason == checks.Reason.UNDECIDED, default=None)


def run(config: Config) -> Manifest:
    """Check a file of rationales."""
    path = resolve_input(config.input, "rationales.jsonl", made_by="distill")
    target = None
    if config.uses_llm and (config.overwrite or not is_finished(config.out)):
        target = find_target(config.teacher, config.model, config.base_url)
        check_budget(target, config.budget, "now")
        reader_name = f"the model {target.model} at {target.base_url}"
        check_deidentified(_read_marks(path), path, reader_name, config.accept_identified)
    accepts = config.uses_llm and config.accept_identified
    reader = RecordReader(path, IdentifiedRationale if accepts else Rationale, made_by="distill")
    names = name_task(config.task, "answer", "verify", "student", "teacher")
    inputs = {"input": path, **list_terms_inputs(config.terms)}
    with open_stage_output("verify", config, inputs, WRITES, names=names) as space:
        if space.is_finished:
            return space.manifest
        with _open_llm_checkers(config, target, space) as llm_checkers:
            rationales = track(reader, "verify", unit="rationales")
            tally = _sort(verify(rationales, config, llm_checkers), space)
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        space.drop_all(tally.reasons)
        space.manifest.facts = tally.facts()
        space.next_steps = NEXT_STEPS
        space.manifest.counts.kept = tally.n_kept
        if not tally.n_kept:
            reasons = ", ".join(f"{reason} {n}" for reason, n in tally.failures.most_common())
            main = max(tally.failures, key=tally.failures.__getitem__, default="")
            step = next((step for reason, step in NEXT_STEPS.items() if reason == main), _READ)
            raise InputError("{}: no rationale is sound ({}); {}", path, reasons, step)
    return space.manifest


def _read_marks(path: Path) -> Iterator[str]:
    """Read the `deidentified_by` of every row; lines that are no rows have none to tell."""
    with path.open("rb") as file:
        for line in file:
            try:
                question = json.loads(line)["question"]
                yield str(question.get("deidentified_by") or "").strip()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue


class _Tally:
    """What was kept and what fell, in numbers."""

    def __init__(self) -> None:
        self.reasons, self.failures = Counter[str](), Counter[str]()
        self.kept_by_split, self.rejected_by_split = Counter[str](), Counter[str]()
        self.n_kept, self._n_rates, self._rates = 0, 0, 0.0

    def count(self, checked: Checked, failure: Verdict | None) -> None:
        question = checked.rationale.question
        self.failures.update(verdict.reason for verdict in checked.verdicts if not verdict.passed)
        if failure is not None:
            self.reasons[failure.reason] += 1
            self.rejected_by_split[question.split] += 1
            return
        self.n_kept += 1
        self.kept_by_split[question.split] += 1
        rates = map(checks.read_grounded_rate, checked.verdicts)
        rate = next((rate for rate in rates if rate is not None), None)
        if rate is not None:
            self._n_rates, self._rates = self._n_rates + 1, self._rates + rate

    def facts(self) -> dict[str, Any]:
        """Report all failures, rejections by split, and how much of the kept is grounded.

        What is left of the test split is easier than the whole.
        """
        return {
            "failures": dict(self.failures.most_common()),
            "kept_by_split": dict(self.kept_by_split),
            "rejected_by_split": dict(self.rejected_by_split),
            "grounded_rate": round(self._rates / self._n_rates, 4) if self._n_rates else None,
        }


def _sort(checked: Iterable[Checked], space: StageOutput) -> _Tally:
    """Write sound rows, rejected ones and undecided ones to a file each."""
    tally = _Tally()
    with ExitStack() as stack:
        verified, rejected, undecided = (
            stack.enter_context(write_atomically(space.path(name))) for name in WRITES
        )
        for row in checked:
            failure = find_failure(row)
            tally.count(row, failure)
            file = rejected if failure else verified
            if failure and failure.reason == checks.Reason.UNDECIDED:
                file = undecided
            file.write(row.model_dump_json() + "\n")
    return tally


@contextmanager
def _open_llm_checkers(
    config: Config, target: Target | None, space: StageOutput
) -> Generator[list[LlmChecker], None, None]:
    """Open the ledger and the endpoint where a model is asked; note the cost however it ends."""
    if target is None:
        yield []
        return
    find = partial(find_task, given=config.task)
    rounds = [
        [make_answer_check(find)] if config.judge else [],
        [
            *([make_blind_check(config.min_f1, find, config.terms)] if config.blind else []),
            *([make_judge_check(config.min_score, find)] if config.judge else []),
        ],
    ]
    with Ledger(space.path(LEDGER)) as ledger:
        try:
            yield [
                LlmChecker(made, target, ledger, config.out, config.concurrency, config.budget)
                for made in rounds
                if made
            ]
        finally:
            space.manifest.cost = Cost(
                amount=round(ledger.spent(), 6), currency=target.provider.currency
            )
