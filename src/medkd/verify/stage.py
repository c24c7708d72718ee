"""The stage `verify`: keep the rationales that deserve to be learnt from, and say why others fell.

In: `rationales.jsonl`. Out: `verified.jsonl`, `rejected.jsonl` and `undecided.jsonl` of `Checked`
records, between which lines may be moved by hand; `ledger.sqlite` where a model was asked.
Not done here: the checks (`grading.checks`), asking (`verify.llm_checks`), duplicates (`merge`).
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target, check_budget, find_target
from medkd.completers.scheduler import RunOptions
from medkd.core.config import RUNTIME, SENDS_KEY, AcceptIdentified, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, ShardRows, count_lines, read_lines, resolve_input
from medkd.core.parallel import DoneWork, Engine, map_in_order
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
from medkd.grading.compare import TermsFile, list_terms_inputs
from medkd.verify.llm_checks import (
    IdentifiedRationale,
    LlmChecker,
    find_written_language,
    make_answer_check,
    make_blind_check,
    make_judge_check,
)

Share = Annotated[float, Field(ge=0, le=1)]
WRITES = ("verified.jsonl", "rejected.jsonl", "undecided.jsonl")
_AGAIN = "ask again with medkd distill --overwrite (its ledger stays)"
_READ = "read rejected.jsonl"
_BOUND = f"{_READ}, or move the bound under verify in a task file (medkd tasks copy, --task)"
_MISSED = "distill with --mode rationalize, or --mode solve --fallback rationalize"
NEXT_STEPS: dict[checks.Reason, str] = {
    **dict.fromkeys(checks.Reason, _READ),
    **dict.fromkeys(checks.BOUNDED, _BOUND),
    checks.Reason.INCOMPLETE: f"{_AGAIN} and more --max-tokens",
    checks.Reason.NO_REASONING: f"{_AGAIN} and another --model",
    checks.Reason.NO_ANSWER: f"{_AGAIN} and more --max-tokens",
    checks.Reason.LANGUAGE_SWITCH: "the teacher does not write in the language of its questions; "
    "set the task's language, or ask another --model",
    checks.Reason.WRONG_DIAGNOSIS: f"the teacher misses the known diagnosis; {_MISSED}",
    checks.Reason.WRONG_ANSWER: f"the teacher misses the known answer; {_MISSED}",
    checks.Reason.UNDECIDED: "rules cannot tell whether these answers are the known ones; they are "
    "in undecided.jsonl: review them in medkd studio, have them judged (--judge), or take them "
    "(--min-f1 0)",
    checks.Reason.HINT_LEAK: "the teacher says that it was told the answer; distill with --mode "
    "solve, or ask another --model",
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
    1 keeps them apart in undecided.jsonl. This and the next bound are the task's where not given,
    as are all others."""
    terms: TermsFile = None
    """Table of codes and names (CSV or Excel: an ICD table, local synonyms): names of one code are
    one diagnosis, longer codes more specific ones."""
    min_grounded: Share | None = None
    """Share of the numbers, values and denied findings in a reasoning that must stand in the
    question."""
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
    engine: Engine = "local"
    """Where the rules are checked: on this machine's processors, or on a Ray cluster."""
    shard_rows: ShardRows = 0
    """Write the records as a folder of packed parts of so many rows (part-00000.jsonl.zst); 0: one
    plain file."""
    accept_identified: AcceptIdentified = False
    """Let --blind and --judge send rows without deidentified_by."""

    def fingerprint_fields(self) -> dict[str, Any]:
        """Take a bound that is not given for that of a diagnosis, as version 0.1 wrote it down."""
        return super().fingerprint_fields() | self._bounds(load_task("diagnosis"))

    def _bounds(self, task: Task) -> dict[str, float]:
        given = {"min_f1": self.min_f1, "min_grounded": self.min_grounded}
        return {k: getattr(task.verify, k) if v is None else v for k, v in given.items()}

    def find_bounds(self, task: Task) -> VerifyPart:
        """Return the checks of a task with the bounds that are given here."""
        return task.verify.model_copy(update=self._bounds(task))

    @property
    def uses_llm(self) -> bool:
        """Whether a model is asked, which costs money."""
        return self.blind or self.judge


def verify(
    rationales: Iterable[Rationale],
    config: Config,
    llm_checkers: Sequence[LlmChecker] = (),
    done: DoneWork | None = None,
    n_rationales: int | None = None,
) -> Iterator[Checked]:
    """Check rationales by rules, many of them on several cores; then have the models asked, one
    after another. `n_rationales` is for the bar."""
    check = partial(_check, config=config)
    checked = map_in_order(check, rationales, engine=config.engine, done=done)
    checked = track(checked, "verify", n_rationales, "rationales")
    for llm_checker in llm_checkers:
        checked = llm_checker.check(checked)
    return checked


def _check(rationale: Rationale, config: Config) -> Checked:
    return Checked(rationale=rationale, verdicts=tuple(check_rationale(rationale, config)))


_OF_REFERENCE = frozenset({"brevity", "answer", "filler", "grounding"})
"""Checks that a question without a known answer is spared."""


def check_rationale(rationale: Rationale, config: Config) -> list[Verdict]:
    """Make every check by rules that a rationale's task asks for, the plainest first; without a
    whole text there is nothing more to check."""
    question, reasoning, answer = rationale.question, rationale.reasoning, rationale.answer
    form = checks.check_form(reasoning, answer, rationale.complete)
    if not reasoning.strip() or not answer.strip():
        return [form]
    task = find_task(question.task, config.task)
    bounds = config.find_bounds(task)
    asked, reference, kind = question.input, question.reference, task.answer.kind
    named = reference if kind == "diagnosis" else ""
    made: dict[CheckName, Callable[[], Verdict]] = {
        "refusal": lambda: checks.check_refusal(reasoning, answer),
        "length": lambda: checks.check_length(
            reasoning, bounds.min_reasoning, bounds.max_reasoning
        ),
        "language": lambda: checks.check_language(
            reasoning, asked, find_written_language(question)
        ),
        "loop": lambda: checks.check_loop(f"{reasoning}\n{answer}"),
        "brevity": lambda: checks.check_brevity(answer, reference, bounds.max_answer),
        "answer": lambda: checks.check_answer(
            answer, reference, bounds.min_f1, kind, question.known, config.terms
        ),
        "hint": lambda: checks.check_hint(reasoning, named, asked, rationale.mode == "correct"),
        "identifiers": lambda: checks.check_identifiers(reasoning, answer),
        "copy": lambda: checks.check_copy(reasoning, asked, bounds.max_copied),
        "filler": lambda: checks.check_filler(reasoning, asked, bounds.max_filler),
        "grounding": lambda: checks.check_grounding(reasoning, asked, bounds.min_grounded),
        "script": lambda: checks.check_script(reasoning, answer, asked),
    }
    spared = frozenset[str]() if reference.strip() else _OF_REFERENCE
    return [form, *(made[name]() for name in made if name in bounds.checks and name not in spared)]


def find_failure(checked: Checked) -> Verdict | None:
    """Find the first failed verdict, the reason a row falls for; one that is only undecided comes
    last."""
    failed = [verdict for verdict in checked.verdicts if not verdict.passed]
    return min(failed, key=lambda one: one.reason == checks.Reason.UNDECIDED, default=None)


def check(config: Config) -> None:
    """Say before a long run what its config alone shows: an unknown model, a missing key."""
    if config.uses_llm:
        find_target(config.teacher, config.model, config.base_url)


def run(config: Config) -> Manifest:
    """Check a file of rationales."""
    path = resolve_input(config.input, "rationales.jsonl", made_by="distill", may_be_empty=True)
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
            n_rationales = count_lines(path)
            checked = verify(reader, config, llm_checkers, space.open_done_work(), n_rationales)
            failures = _sort(checked, space).most_common()
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        space.next_steps = NEXT_STEPS
        if not reader.n_read:
            print("verify: nothing to check: distill had nothing to buy", file=sys.stderr)
        elif not space.manifest.counts.kept:
            reasons = ", ".join(f"{reason} {n}" for reason, n in failures)
            step = NEXT_STEPS[checks.Reason(failures[0][0])] if failures else _READ
            raise InputError("{}: no rationale is sound ({}); {}", path, reasons, step)
    return space.manifest


def _read_marks(path: Path) -> Iterator[str]:
    """Read the `deidentified_by` of every row; lines that are no rows have none to tell."""
    for _, line in read_lines(path):
        try:
            question = json.loads(line)["question"]
            yield str(question.get("deidentified_by") or "").strip()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _sort(checked: Iterable[Checked], space: StageOutput) -> Counter[str]:
    """Write sound rows, rejected ones and undecided ones to a file each; return all failures.

    The facts tell rejections by split: what is left of the test split is easier than the whole.
    """
    reasons, failures = Counter[str](), Counter[str]()
    kept, rejected = Counter[str](), Counter[str]()
    rates: list[float] = []
    with ExitStack() as stack:
        files = [stack.enter_context(space.open_records(name)) for name in WRITES]
        for row in checked:
            failure = find_failure(row)
            failures.update(verdict.reason for verdict in row.verdicts if not verdict.passed)
            split = row.rationale.question.split
            if failure is None:
                kept[split] += 1
                found = map(checks.read_grounded_rate, row.verdicts)
                rates += (rate for rate in found if rate is not None)
                file = files[0]
            else:
                reasons[failure.reason] += 1
                rejected[split] += 1
                file = files[1 + (failure.reason == checks.Reason.UNDECIDED)]
            file.add(row)
    space.drop_all(reasons)
    space.manifest.counts.kept = kept.total()
    space.manifest.facts = {
        "failures": dict(failures.most_common()),
        "kept_by_split": dict(kept),
        "rejected_by_split": dict(rejected),
        "grounded_rate": round(sum(rates) / len(rates), 4) if rates else None,
    }
    return failures


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
    options = RunOptions(concurrency=config.concurrency, budget=config.budget)
    with Ledger(space.path(LEDGER)) as ledger:
        try:
            yield [LlmChecker(made, target, ledger, config.out, options) for made in rounds if made]
        finally:
            space.manifest.cost = Cost(
                amount=round(ledger.spent(), 6), currency=target.provider.currency
            )
