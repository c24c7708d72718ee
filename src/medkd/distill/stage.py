"""The stage `distill`: a teacher explains each question.

In: `questions.jsonl` of every split. Out: `rationales.jsonl` in the order of the questions,
failures included, and `ledger.sqlite`, from which a stopped or killed run continues.
Not done here: judging what came back (`verify`), asking and paying (`completers`).
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from medkd.completers.batch import BatchClient
from medkd.completers.client import LedgerClient, Progress, RunOptions
from medkd.completers.costs import MIN_KNOWN, Expected, Forecast, forecast
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import FILE_NAME, Ledger, LedgerReader, open_reader
from medkd.completers.providers import Target, When, check_budget, find_target
from medkd.core.completer import Sampling
from medkd.core.config import NAMES_KEY, RUNTIME, SENDS_KEY, AcceptIdentified, StageConfig
from medkd.core.errors import InputError, MedkdError, StoppedError
from medkd.core.jsonl import resolve_input, write_atomically
from medkd.core.progress import Bar
from medkd.core.records import Cost
from medkd.core.stage_output import Manifest, StageOutput, is_finished, open_stage_output
from medkd.core.task import TaskFile, find_task, list_task_inputs
from medkd.distill.courses import Course, Method, distill, recall_course, recall_courses
from medkd.distill.prompts import (
    Mode,
    PromptSetup,
    QuestionFile,
    find_attempt_file,
    find_missing_part,
    read_attempts,
)

RATIONALES = "rationales.jsonl"
WRONG = "wrong.jsonl"
"""Whole answers that turned out wrong: what `merge --pairs` sets against the right ones."""
ASSUMED_CHANCE = 0.5
"""Share of right samples before a ledger knows better."""


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
    teachers: tuple[str, ...] = ()
    """Several providers in place of --teacher, separated by commas, the cheapest first
    (`deepseek,openai:gpt-5.4`): the next one is asked where nobody before it was right."""
    mode: Mode = "rationalize"
    """`rationalize` asks for the reasoning to the known answer, `solve` lets the teacher think
    blind, `correct` has it mend the student's wrong reasoning (--from)."""
    until_right: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Most samples of a question: they are bought one after another until --keep are right."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 1
    """With --until-right: right answers of a question that are enough."""
    fallback: Literal["", "rationalize"] = ""
    """`rationalize` asks for the reasoning to the known answer where no other one was right."""
    from_: Annotated[Path | None, RUNTIME] = None
    """With `--mode correct`: the student's answers to these questions, a directory of evaluate or
    select."""
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
    """Most money the ledger may come to, in the provider's currency; a hard stop."""
    batch: Annotated[bool, RUNTIME] = False
    """Ask in batches, for half the price and within hours, where the provider has a batch API."""
    ledger: Annotated[Path | None, RUNTIME] = None
    """Ledger that several steps share, for one budget and one bill; default: in --out."""
    when: Annotated[When, RUNTIME] = "now"
    """`off-peak` sends only in the provider's cheap hours and waits for them."""
    dry_run: Annotated[bool, RUNTIME] = False
    """Print what the job would cost; send nothing and write nothing."""
    accept_identified: AcceptIdentified = False
    """Send rows without deidentified_by too."""

    @field_validator("teachers", mode="before")
    @classmethod
    def _split_teachers(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str) else value
        return [name.strip() for one in listed for name in str(one).split(",") if name.strip()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keep > (self.until_right or 1):
            raise ValueError("keep: more than until_right buys; raise --until-right")
        if self.until_right and self.samples > 1:
            raise ValueError("samples: --until-right decides how many are bought; leave it out")
        if self.fallback and self.mode == "rationalize":
            raise ValueError("fallback: the mode is rationalize already; use --mode solve")
        if (self.mode == "correct") != (self.from_ is not None):
            raise ValueError("mode: correct needs --from, the student's answers, and nothing else")
        if self.teachers and (self.model or self.base_url):
            raise ValueError("teachers: each names its own model (name:model); leave --model out")
        return self


def make_method(config: Config, models: Sequence[str]) -> Method:
    """Choose the prompts of a config, set their sampling, and read what is to be corrected."""

    def set_up(mode: Mode) -> PromptSetup:
        thinks = config.thinking if config.thinking is not None else mode == "solve"
        sampling = Sampling(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            thinking=thinks,
            effort=config.effort or None,
        )
        return PromptSetup(mode, sampling, partial(find_task, given=config.task))

    return Method(
        models,
        set_up(config.mode),
        set_up("rationalize") if config.fallback else None,
        n_courses=config.samples,
        n_tries=config.until_right or 1,
        n_keep=config.keep,
        attempts=read_attempts(config.from_, config.task).wrong if config.from_ else {},
    )


def choose_targets(config: Config, is_key_needed: bool = True) -> list[Target]:
    """Find the models that a config asks, in their order."""
    asked = [(name, model, "") for name, _, model in (t.partition(":") for t in config.teachers)]
    prefix = config.prefix
    found = [
        find_target(name, model, base_url, config.providers, prefix, is_key_needed)
        for name, model, base_url in asked or [(config.teacher, config.model, config.base_url)]
    ]
    if config.budget is not None and len({t.provider.currency for t in found}) > 1:
        raise InputError("--budget: the teachers charge in several currencies; leave it out")
    return [target.as_batch() for target in found] if config.batch else found


def find_questions(config: Config, method: Method) -> QuestionFile:
    """Find and read the questions of a config: all, or those whose attempt is to be corrected."""
    path = find_question_file(config)
    if config.from_ is None:
        return QuestionFile(path, config.accept_identified, config.task)
    questions = QuestionFile(path, config.accept_identified, config.task, method.attempts.keys())
    asked = read_attempts(config.from_, config.task).asked
    if not any(question.id in asked for question in questions.reader):
        raise InputError(
            "{}: answers none of the questions of {}; evaluate the student on these "
            "(medkd select, or medkd evaluate --split train), or name another --input",
            config.from_,
            path,
        )
    return questions


def find_question_file(config: Config) -> Path:
    """Find the file of questions; raises InputError where there is none."""
    return resolve_input(config.input, "questions.jsonl", made_by="prepare")


def forecast_job(config: Config, ledger: LedgerReader) -> list[Forecast]:
    """Price what a run would still buy, one forecast a teacher: as expected and at worst."""
    targets = choose_targets(config, is_key_needed=False)
    method = make_method(config, [target.model for target in targets])
    questions = find_questions(config, method)
    recalls = [ledger.recall_from(target) for target in targets]

    def recall_all() -> Iterator[Course]:
        for question in questions:
            for course in method.start(question):
                yield recall_course(course, lambda at, r: recalls[at](r), is_complete_only=True)

    graded = [0, 0]
    for course in recall_all() if method.needs_grade else ():
        for heard in course.heard:
            graded[0] += heard.is_right and heard.ask.mode == method.first.mode
            graded[1] += heard.ask.mode == method.first.mode
    is_known = graded[1] >= MIN_KNOWN
    chance = graded[0] / graded[1] if is_known else ASSUMED_CHANCE

    def expect(place: int) -> Iterator[Expected]:
        for course in recall_all():
            for heard in course.heard:
                if heard.ask.teacher == place:
                    yield Expected(heard.ask.request)
            for ask, share in course.list_chances(chance):
                if ask.teacher == place:
                    yield Expected(ask.request, share)

    note = ""
    if method.needs_grade:
        source = f"of {graded[1]} answers on the ledger" if is_known else "assumed"
        note = f"a sample is right in {chance:.0%} ({source})"
    return [
        forecast(expect(place), target, ledger, config.max_tokens, note)
        for place, target in enumerate(targets)
    ]


def run(config: Config) -> Manifest:
    """Ask the teachers for every question that the ledger holds no answer to, then write the
    rationales."""
    ledger_path = config.ledger or config.out / FILE_NAME
    if config.dry_run:
        with open_reader(ledger_path) as reader:
            for ahead in forecast_job(config, reader):
                print(ahead.render())
        return Manifest(stage="distill", identity="", config=config.model_dump(mode="json"))
    path = find_question_file(config)
    targets = choose_targets(config, is_key_needed=not is_finished(config.out))
    if not is_finished(config.out):  # refuse before anything is read or written
        for target in targets:
            check_budget(target, config.budget, config.when)
    method = make_method(config, [target.model for target in targets])
    questions = find_questions(config, method)
    attempts = {"from": find_attempt_file(config.from_)} if config.from_ else {}
    with open_stage_output(
        "distill",
        config,
        {"input": path, **attempts, **list_task_inputs(config.task)},
        [RATIONALES, WRONG],
        libraries=["aiohttp"],
        follows_inputs=True,
    ) as space:
        if not space.is_finished:
            with Ledger(ledger_path) as ledger:
                _distill_into(space, config, method, questions, ledger)
        return space.manifest


def _distill_into(
    space: StageOutput, config: Config, method: Method, questions: QuestionFile, ledger: Ledger
) -> None:
    """Distil and write; a stop writes what there is and is raised again."""
    display = _Display(choose_targets(config))
    options = RunOptions(
        concurrency=config.concurrency,
        budget=config.budget,
        when=config.when,
        find_missing=find_missing_part,
        on_progress=display.update,
    )
    teachers = [
        BatchClient(target, ledger, options)
        if config.batch
        else LedgerClient(Endpoint(target), ledger, options)
        for target in display.targets
    ]
    tally = _Tally()
    space.read(questions.reader.n_read)
    space.drop_all(questions.reader.dropped())
    space.drop("student_right", questions.n_left_out)
    if method.needs_grade and questions.n_questions:
        for ahead in forecast_job(config, ledger):
            print(f"distill: {ahead.summarise()}", file=sys.stderr, flush=True)
    try:
        if not questions.n_questions:
            print("distill: nothing to buy: no question is left to ask", file=sys.stderr)
        else:
            courses = distill(questions, teachers, method, questions.n_questions, display.open)
            _write(space, courses, tally)
    except (StoppedError, KeyboardInterrupt):
        with contextlib.suppress(MedkdError):  # the first stop is the one to report
            recalled = recall_courses(questions, method, lambda at, r: teachers[at].recall(r))
            _write(space, recalled, tally)
        raise
    finally:
        _write_facts(space, teachers, method, tally, config.ledger is not None)
    if tally.incomplete:
        listed = ", ".join(f"{n} {reason}" for reason, n in tally.incomplete.most_common())
        print(
            f"distill: {listed}; to ask for these again, run it with --overwrite: the ledger stays",
            file=sys.stderr,
        )


@dataclass
class _Tally:
    """What came of the questions, in numbers."""

    incomplete: Counter[str] = field(default_factory=Counter[str])
    n_right: Counter[int] = field(default_factory=Counter[int])
    """Right answers of a question to the number of such questions."""
    n_wrong: int = 0
    amount: float = 0.0


def _write(space: StageOutput, courses: Iterable[Course], tally: _Tally) -> None:
    """Write what is kept of each course and what was wrong, each to its file."""
    tally.__init__()
    n_kept = 0
    with (
        write_atomically(space.path(RATIONALES)) as kept,
        write_atomically(space.path(WRONG)) as wrong,
    ):
        for course in courses:
            tally.n_right[course.n_right] += 1
            tally.amount += sum(heard.completion.cost.amount for heard in course.heard)
            for rationale in course.list_kept():
                n_kept += 1
                if not rationale.complete:
                    tally.incomplete[rationale.finish_reason] += 1
                kept.write(rationale.model_dump_json() + "\n")
            for rationale in course.list_wrong():
                tally.n_wrong += 1
                wrong.write(rationale.model_dump_json() + "\n")
    space.manifest.counts.kept = n_kept


def _write_facts(
    space: StageOutput,
    teachers: Sequence[LedgerClient],
    method: Method,
    tally: _Tally,
    is_shared: bool,
) -> None:
    amount = tally.amount if is_shared else teachers[0].ledger.spent()
    currency = teachers[0].target.provider.currency
    space.manifest.cost = Cost(amount=round(amount, 6), currency=currency)
    totals = sum((teacher.totals for teacher in teachers), Counter[str]())
    space.manifest.facts |= {
        "mode": method.first.mode,
        "model": ", ".join(method.models),
        "teacher": ", ".join(teacher.target.name for teacher in teachers),
        "incomplete": tally.incomplete.total(),
        "answered_before": totals["cached"],
        "bought": totals["new"],
        "failed": totals["failed"],
    }
    if method.needs_grade:
        space.manifest.facts |= {
            "right_by_question": {str(n): k for n, k in sorted(tally.n_right.items())},
            "wrong": tally.n_wrong,
        }


class _Display:
    """A progress bar for each round of requests."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = targets
        self._bar: Bar | None = None
        self._place = self._n_requests = 0

    def open(self, place: int, n_requests: int) -> Bar:
        self._place, self._n_requests = place, n_requests
        name = "distill" if len(self.targets) == 1 else f"ask {self.targets[place].model}"
        self._bar = Bar(name, total=n_requests, unit="answers")
        return self._bar

    def update(self, progress: Progress) -> None:
        if self._bar:
            self._bar.total = self._n_requests + progress.n_added
            note = progress.describe(self.targets[self._place], self._n_requests)
            self._bar.reach(progress.n_done, progress.n_cached, note)
