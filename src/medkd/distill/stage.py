"""The stage `distill`: a teacher explains each question.

In: `questions.jsonl` of every split. Out: `rationales.jsonl` in the order of the questions,
failures included, and `ledger.sqlite`, from which a stopped or killed run continues.
Not done here: judging what came back (`verify`), asking and paying (`completers`).
"""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import Field, ValidationError

from medkd.completers.client import LedgerClient, Progress, RunOptions
from medkd.completers.costs import forecast
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import FILE_NAME, Ledger, open_reader
from medkd.completers.providers import Target, When, check_budget, find_target
from medkd.core.completer import Completion, Request, Sampling
from medkd.core.config import NAMES_KEY, RUNTIME, SENDS_KEY, StageConfig
from medkd.core.errors import InputError, MedkdError, StoppedError
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.privacy import AcceptIdentified, check_deidentified
from medkd.core.progress import Bar
from medkd.core.records import Cost, Question, Rationale
from medkd.core.stage_output import Manifest, StageOutput, is_finished, open_stage_output
from medkd.core.task import TaskFile, check_tasks, find_task, list_task_inputs
from medkd.distill.prompts import Mode, PromptSetup, find_missing_part, read_parts
from medkd.grading.graders import get_grader

RATIONALES = "rationales.jsonl"
KEPT_BYTES = 64 * 2**20
"""A file of questions up to this size is parsed once and kept; a larger one is read anew."""
Recall = Callable[[Request], Completion | None]
"""Returns what a ledger holds for a request."""


class Config(StageConfig):
    """What `medkd distill` is told."""

    input: Annotated[Path, RUNTIME]
    """Questions: the directory of `prepare`, or a file of question records."""
    teacher: str = "deepseek"
    """Provider to ask: an entry of providers.yaml, or `custom` with --base-url and --model (key in
    MEDKD_API_KEY)."""
    model: str = ""
    """The teacher's model; default: the provider's first."""
    base_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """Address of the endpoint; default: the provider's own. A provider's key is sent to its own
    hosts only."""
    providers: Annotated[Path | None, RUNTIME, NAMES_KEY] = None
    """File in the form of providers.yaml, which adds to it and overrides it: a model, a price, a
    whole provider."""
    mode: Mode = "rationalize"
    """`rationalize` asks for the reasoning to the known answer, `solve` lets the teacher think
    blind."""
    fallback: Literal["", "rationalize"] = ""
    """With `--mode solve`: `rationalize` asks for the reasoning to the known answer if the blind
    one was wrong."""
    task: TaskFile = ""
    """Task file, where the questions are of a task of your own."""
    samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Rationales per question."""
    max_tokens: Annotated[int, Field(ge=16, le=10_000_000)] = 4096
    """Longest answer, the teacher's own thinking included."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; default: the endpoint's own."""
    thinking: bool | None = None
    """The teacher's own thinking; default: off in `rationalize`, where it would betray the hint,
    else on."""
    effort: str = ""
    """How hard the teacher thinks, in the provider's own words (low, high, max …); default: the
    provider's."""
    prefix: Annotated[bool | None, RUNTIME] = None
    """Resume truncated answers by prefix completion; default: the provider's setting."""
    concurrency: Annotated[int, RUNTIME, Field(ge=1, le=100_000)] = 32
    """Most requests under way at once, within the provider's cap; fewer while the server
    throttles."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0, allow_inf_nan=False)] = None
    """Most money this directory's ledger may come to, in the provider's currency; a hard stop."""
    when: Annotated[When, RUNTIME] = "now"
    """`off-peak` sends only in the provider's cheap hours and waits for them."""
    dry_run: Annotated[bool, RUNTIME] = False
    """Print what the job would cost; send nothing and write nothing."""
    accept_identified: AcceptIdentified = False
    """Send rows without deidentified_by too."""


class Teacher(Protocol):
    """Whoever answers requests and remembers the answers, as `completers.client` does."""

    def run(self, labelled: Iterable[tuple[str, Request]], n_requests: int) -> object: ...
    def recall(self, request: Request) -> Completion | None: ...


class Asking(NamedTuple):
    """How questions are asked: first, and again if the first answer is not right."""

    model: str
    first: PromptSetup
    fallback: PromptSetup | None = None
    n_samples: int = 1


def distill(
    questions: Iterable[Question],
    teacher: Teacher,
    asking: Asking,
    n_questions: int,
    show: Callable[[str, int], contextlib.AbstractContextManager[object]] | None = None,
) -> Iterator[Rationale]:
    """Have a teacher explain questions; yield a rationale for each sample of each, in their order.

    `questions` is iterated several times. `show` opens the display of a round of requests. Raises
    what stops the teacher before the first rationale is yielded; `recall_rationales` yields what
    there is.
    """
    show = show or (lambda name, n: contextlib.nullcontext())
    n_requests = n_questions * asking.n_samples
    with show("distill", n_requests):
        teacher.run(((q.id, r) for q, r in first_requests(questions, asking)), n_requests)
    grades: dict[str, bool] = {}
    # Graded here, before the event loop runs again.
    n_wrong = sum(1 for _ in fallback_requests(questions, asking, teacher.recall, grades))
    if n_wrong:
        again = fallback_requests(questions, asking, teacher.recall, grades)
        with show("rationalize", n_wrong):
            teacher.run(((q.id, r) for q, r in again), n_wrong)
    yield from recall_rationales(questions, asking, teacher.recall, grades)


def first_requests(
    questions: Iterable[Question], asking: Asking
) -> Iterator[tuple[Question, Request]]:
    """Yield the requests of every question, one a sample."""
    for question in questions:
        for sample in range(asking.n_samples):
            yield question, asking.first.make_request(question, sample)


def fallback_requests(
    questions: Iterable[Question],
    asking: Asking,
    recall: Recall,
    grades: dict[str, bool],
    is_answered_only: bool = False,
) -> Iterator[tuple[Question, Request]]:
    """Yield the fallback requests of all that the first ones brought no right answer to.

    `grades` keeps what was graded. `is_answered_only` leaves out what has no answer yet, which may
    still turn out right.
    """
    for question, first in first_requests(questions, asking) if asking.fallback else ():
        if is_answered_only and not ((found := recall(first)) and found.complete):
            continue
        if asking.fallback and not _is_right(question, first, asking, recall, grades):
            yield question, asking.fallback.make_request(question, first.sample)


def recall_rationales(
    questions: Iterable[Question], asking: Asking, recall: Recall, grades: dict[str, bool]
) -> Iterator[Rationale]:
    """Yield the rationale of everything that was asked."""
    for question, request in first_requests(questions, asking):
        completion, mode = recall(request), asking.first.mode
        if asking.fallback and not _is_right(question, request, asking, recall, grades):
            found = recall(asking.fallback.make_request(question, request.sample))
            if found:
                completion = _add_price(found, completion)
                mode = asking.fallback.mode
        if completion:
            yield make_rationale(question, request.sample, completion, asking.model, mode)


def make_rationale(
    question: Question, sample: int, completion: Completion, model: str, mode: Mode
) -> Rationale:
    """Make the record of what a teacher said, whole or not."""
    parts = read_parts(completion.reasoning, completion.text)
    return Rationale(
        id=question.id if sample == 0 else f"{question.id}#{sample}",
        question=question,
        sample=sample,
        reasoning=parts.reasoning,
        answer=parts.answer,
        finish_reason=completion.finish_reason,
        complete=completion.complete and bool(parts.reasoning and parts.answer),
        model=model,
        mode=mode,
        attempts=completion.attempts,
        usage=completion.usage,
        cost=completion.cost,
    )


def _is_right(
    question: Question, request: Request, asking: Asking, recall: Recall, grades: dict[str, bool]
) -> bool:
    """Tell whether the answer to a first request is right; of a free text, whether it is not
    wrong: rules cannot tell more."""
    key = f"{question.id}#{request.sample}"
    if key not in grades:
        completion = recall(request)
        if completion is None or not completion.complete:
            return False
        answer = read_parts(completion.reasoning, completion.text).answer
        kind = asking.first.find_task(question.task).answer.kind
        found = get_grader(kind)(answer, question.reference, known=question.known)
        grades[key] = found.principal or (kind == "text" and not found.decided)
    return grades[key]


def _add_price(completion: Completion, before: Completion | None) -> Completion:
    """Add what the first answer cost to the fallback's."""
    if before is None:
        return completion
    amount = before.cost.amount + completion.cost.amount
    return completion.model_copy(
        update={
            "usage": before.usage + completion.usage,
            "cost": Cost(amount=amount, currency=completion.cost.currency),
            "attempts": before.attempts + completion.attempts,
        }
    )


class QuestionFile:
    """The questions of a file, to be iterated several times; broken lines are counted and named."""

    def __init__(self, path: Path, accept_identified: bool = False, task: str = "") -> None:
        _refuse_raw_cases(path)
        self.path = path
        self.reader = RecordReader(path, Question, made_by="prepare")
        is_kept = path.stat().st_size <= KEPT_BYTES
        self._kept = list(self.reader) if is_kept else None
        tasks: set[str] = set()
        marks: list[str] = []
        for question in self._kept or self.reader:
            marks.append(question.deidentified_by)
            tasks.add(question.task)
        self.n_questions = len(marks)
        check_deidentified(marks, path, "the teacher", accept_identified)
        check_tasks(tasks, task, path)

    def __iter__(self) -> Iterator[Question]:
        if self._kept is not None:
            yield from self._kept
            return
        with self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValidationError):
                    yield Question.model_validate_json(line)


def _refuse_raw_cases(path: Path) -> None:
    """Refuse a file that begins with a case nobody has de-identified, whatever else is wrong."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(record, dict) and "sections" in record and "deidentified_by" not in record:
        raise InputError(
            f'{path}:1: a raw case, no deidentified_by; run "medkd deidentify" and "medkd prepare" '
            "first"
        )


def make_asking(config: Config, model: str) -> Asking:
    """Choose the prompts of a config and set their sampling."""

    def set_up(mode: Mode) -> PromptSetup:
        thinks = config.thinking if config.thinking is not None else mode == "solve"
        sampling = Sampling(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            thinking=thinks,
            effort=config.effort or None,
        )
        return PromptSetup(mode, sampling, partial(find_task, given=config.task))

    has_fallback = config.fallback and config.mode == "solve"
    fallback = set_up("rationalize") if has_fallback else None
    return Asking(model, set_up(config.mode), fallback, config.samples)


def choose_target(config: Config, is_key_needed: bool = True) -> Target:
    """Find the model that a config asks."""
    return find_target(
        config.teacher,
        config.model,
        config.base_url,
        config.providers,
        config.prefix,
        is_key_needed,
    )


def find_questions(config: Config) -> QuestionFile:
    """Find and read the questions of a config."""
    return QuestionFile(find_question_file(config), config.accept_identified, config.task)


def find_question_file(config: Config) -> Path:
    """Find the file of questions; raises InputError where there is none."""
    return resolve_input(config.input, "questions.jsonl", made_by="prepare")


def list_requests(
    questions: Iterable[Question], asking: Asking, recall: Recall
) -> Iterator[Request]:
    """Yield the requests that a run would send, as far as they are known before it."""
    for _, request in first_requests(questions, asking):
        yield request
    for _, request in fallback_requests(questions, asking, recall, {}, is_answered_only=True):
        yield request


def run(config: Config) -> Manifest:
    """Ask the teacher for every question that the ledger holds no answer to, then write the
    rationales."""
    if config.dry_run:
        target = choose_target(config, is_key_needed=False)
        asking = make_asking(config, target.model)
        questions = find_questions(config)
        with open_reader(config.out / FILE_NAME) as reader:
            requests = list_requests(questions, asking, reader.recall_from(target))
            print(forecast(requests, target, reader, config.max_tokens).render())
        return Manifest(stage="distill", identity="", config=config.model_dump(mode="json"))
    path = find_question_file(config)
    if not is_finished(config.out):  # refuse before anything is read or written
        check_budget(choose_target(config), config.budget, config.when)
    questions = QuestionFile(path, config.accept_identified, config.task)
    with open_stage_output(
        "distill",
        config,
        {"input": questions.path, **list_task_inputs(config.task)},
        [RATIONALES],
        libraries=["aiohttp"],
        follows_inputs=True,
    ) as space:
        if not space.is_finished:
            with Ledger(space.path(FILE_NAME)) as ledger:
                _distill_into(space, config, questions, ledger)
        return space.manifest


def _distill_into(
    space: StageOutput, config: Config, questions: QuestionFile, ledger: Ledger
) -> None:
    """Distil and write; a stop writes what there is and is raised again."""
    display = _Display(choose_target(config))
    asking = make_asking(config, display.target.model)
    options = RunOptions(
        concurrency=config.concurrency,
        budget=config.budget,
        when=config.when,
        find_missing=find_missing_part,
        on_progress=display.update,
    )
    teacher = LedgerClient(Endpoint(display.target), ledger, options)
    reasons = Counter[str]()

    def write(rationales: Iterable[Rationale]) -> None:
        reasons.clear()
        counted = _count_incomplete(rationales, reasons)
        space.manifest.counts.kept = space.write_records(RATIONALES, counted)

    space.read(questions.reader.n_read)
    space.drop_all(questions.reader.dropped())
    n_questions = questions.n_questions
    try:
        write(distill(questions, teacher, asking, n_questions, display.open))
    except (StoppedError, KeyboardInterrupt):
        with contextlib.suppress(MedkdError):  # the first stop is the one to report
            write(recall_rationales(questions, asking, teacher.recall, {}))
        raise
    finally:
        _write_facts(space, teacher, asking, reasons)
    if reasons:
        listed = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        print(
            f"distill: {listed}; to ask for these again, run it with --overwrite: the ledger stays",
            file=sys.stderr,
        )


def _write_facts(
    space: StageOutput, teacher: LedgerClient, asking: Asking, reasons: Counter[str]
) -> None:
    target, totals = teacher.target, teacher.totals
    amount = round(teacher.ledger.spent(), 6)
    space.manifest.cost = Cost(amount=amount, currency=target.provider.currency)
    space.manifest.facts |= {
        "mode": asking.first.mode,
        "model": asking.model,
        "teacher": target.name,
        "incomplete": reasons.total(),
        "answered_before": totals["cached"],
        "bought": totals["new"],
        "failed": totals["failed"],
    }


def _count_incomplete(
    rationales: Iterable[Rationale], reasons: Counter[str]
) -> Iterator[Rationale]:
    for rationale in rationales:
        if not rationale.complete:
            reasons[rationale.finish_reason] += 1
        yield rationale


class _Display:
    """A progress bar for each round of requests."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._bar: Bar | None = None

    def open(self, name: str, n_requests: int) -> Bar:
        self._bar = Bar(name, total=n_requests, unit="answers")
        return self._bar

    def update(self, progress: Progress) -> None:
        if self._bar:
            note = progress.describe(self.target, self._bar.total or 0)
            self._bar.reach(progress.n_done, progress.n_cached, note)
