"""The stage `distill`: a teacher explains each question.

In: `questions.jsonl` of every split. Out: `rationales.jsonl` in the order of the questions,
failures included, and `ledger.sqlite`, from which a stopped or killed run continues.
Not done here: judging what came back (`verify`), asking and paying (`completers`).
"""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from medkd.completers.batch import BatchClient
from medkd.completers.client import LedgerClient
from medkd.completers.costs import MIN_KNOWN, Expected, Forecast, count_items, forecast
from medkd.completers.ledger import FILE_NAME, Ledger, LedgerReader, open_reader
from medkd.completers.outcomes import FindMissing, from_fault_finder
from medkd.completers.providers import Target, When, check_budget, find_target
from medkd.completers.scheduler import RunOptions
from medkd.core.config import NAMES_KEY, RUNTIME, SENDS_KEY, AcceptIdentified, StageConfig
from medkd.core.errors import InputError, MedkdError, StoppedError
from medkd.core.i18n import tell
from medkd.core.jsonl import (
    RecordReader,
    list_parts,
    read_lines,
    resolve_input,
    write_atomically,
)
from medkd.core.records import (
    Completion,
    Cost,
    Question,
    Request,
    Sampling,
    check_deidentified,
)
from medkd.core.stage_output import Manifest, StageOutput, find_manifest, open_stage_output
from medkd.core.task import TaskFile, check_tasks, find_task, list_task_inputs
from medkd.distill.attempts import Attempts, find_attempt_file, read_attempts
from medkd.distill.courses import (
    Course,
    Method,
    Mode,
    PromptSetup,
    distill,
    find_missing_part,
    recall_courses,
)
from medkd.grading import judge

RATIONALES = "rationales.jsonl"
WRONG = "wrong.jsonl"
"""Whole answers that turned out wrong: what `merge --pairs` sets against the right ones."""
BEFORE = "on_ledger_before"
"""Fact of a step on a shared ledger: money and answers that were on it already."""
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
    base_url: Annotated[tuple[str, ...], RUNTIME, SENDS_KEY] = ()
    """Address of the endpoint, or of several that serve the same model; default: the provider's
    own. A provider's key is sent to its own hosts only."""
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
    judge: str = ""
    """Model that decides what rules cannot tell of a sample: a provider, or `provider:model`."""
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
    concurrency: Annotated[int, RUNTIME, Field(ge=1, le=100_000)] = 32
    """Most requests under way at once at an address, within the provider's cap; fewer while it
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

    @field_validator("teachers", "base_url", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
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
        if self.judge and not self.is_graded:
            raise ValueError("judge: nothing is graded; give --until-right, too")
        return self

    @property
    def is_graded(self) -> bool:
        """Whether what is asked next depends on an answer's being right."""
        return bool(self.until_right or self.fallback or len(self.teachers) > 1)


# --- What a run reads


KEPT_BYTES = 64 * 2**20
"""A file of questions up to this size is parsed once and kept; a larger one is read anew."""


class QuestionFile:
    """The questions of a file, to be iterated several times; broken lines are counted and named."""

    def __init__(
        self,
        path: Path,
        accept_identified: bool = False,
        task: str = "",
        attempts: Attempts | None = None,
    ) -> None:
        _refuse_raw_cases(path)
        self.path = path
        self.reader = RecordReader(path, Question, made_by="prepare")
        is_kept = sum(part.stat().st_size for part in list_parts(path)) <= KEPT_BYTES
        self._kept = list(self.reader) if is_kept else None
        self._attempts = attempts
        tasks: set[str] = set()
        marks: list[str] = []
        self.n_right = self.n_unanswered = self.n_unanswered_train = 0
        """Questions left out because the student is not known to be wrong, and those it was never
        asked."""
        for question in self.reader if self._kept is None else self._kept:
            if self._is_wanted(question):
                marks.append(question.deidentified_by)
                tasks.add(question.task)
            elif attempts and attempts.has(question):
                self.n_right += 1
            else:
                self.n_unanswered += 1
                self.n_unanswered_train += question.split == "train"
        self.n_questions = len(marks)
        check_deidentified(marks, path, "the teacher", accept_identified)
        check_tasks(tasks, task, path)

    def __iter__(self) -> Iterator[Question]:
        return filter(self._is_wanted, self._read() if self._kept is None else self._kept)

    def _is_wanted(self, question: Question) -> bool:
        attempts = self._attempts
        return attempts is None or (question.id in attempts.wrong and attempts.has(question))

    def _read(self) -> Iterator[Question]:
        for _, line in read_lines(self.path):
            with contextlib.suppress(ValidationError):
                yield Question.model_validate_json(line)


def _refuse_raw_cases(path: Path) -> None:
    """Refuse a file that begins with a case nobody has de-identified, whatever else is wrong."""
    _, first = next(read_lines(path), ("", b""))
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(record, dict) and "sections" in record and "deidentified_by" not in record:
        raise InputError(
            '{}:1: a raw case, no deidentified_by; run "medkd deidentify" and "medkd '
            'prepare" first',
            path,
        )


# --- The job


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
        n_tries=config.until_right or config.samples,
        n_keep=config.keep if config.until_right else config.samples,
        attempts=read_attempts(config.from_, config.task).wrong if config.from_ else {},
        is_graded=config.is_graded,
        has_judge=bool(config.judge),
    )


def choose_targets(config: Config, is_key_needed: bool = True) -> tuple[list[Target], list[Target]]:
    """Find the models that a config asks, in their order; and the judge, where there is one."""
    asked = config.teachers or (f"{config.teacher}:{config.model}",)

    def find(listed: Sequence[str]) -> list[Target]:
        parts = [name.partition(":") for name in listed if name]
        return [
            find_target(
                *(name, model, ",".join(config.base_url) if name == config.teacher else ""),
                *(config.providers, is_key_needed),
            )
            for name, _, model in parts
        ]

    teachers, judges = find(asked), find([config.judge])
    if config.budget is not None and len({t.provider.currency for t in [*teachers, *judges]}) > 1:
        raise InputError("--budget: the models charge in several currencies; leave it out")
    if config.effort and not any(target.provider.effort_field for target in teachers):
        raise InputError(
            "--effort: {} has no such setting here; leave it out, or name its field "
            "(`effort_field`) in a file for --providers",
            ", ".join(target.name for target in teachers),
        )
    return [t.as_batch() for t in teachers] if config.batch else teachers, judges


def check(config: Config) -> None:
    """Say before a long run what its config alone shows: an unknown model, a missing key."""
    choose_targets(config, is_key_needed=not config.dry_run)


def find_questions(config: Config) -> QuestionFile:
    """Find and read the questions of a config: all, or those whose attempt is to be corrected."""
    path = find_question_file(config)
    attempts = read_attempts(config.from_, config.task) if config.from_ else None
    questions = QuestionFile(path, config.accept_identified, config.task, attempts)
    if questions.n_unanswered_train and not (questions.n_questions or questions.n_right):
        raise InputError(
            "{}: answers none of the questions of {}; evaluate the student on these "
            "(medkd select, or medkd evaluate --split train), or name another --input",
            config.from_,
            path,
        )
    return questions


def find_question_file(config: Config) -> Path:
    """Find the file of questions; raises InputError where there is none."""
    return resolve_input(config.input, "questions.jsonl", made_by="prepare", may_be_empty=True)


def forecast_job(config: Config, ledger: LedgerReader) -> list[Forecast]:
    """Price what a run would still buy, one forecast a model: as expected and at worst."""
    teachers, judges = choose_targets(config, is_key_needed=False)
    targets = [*teachers, *judges]
    method = make_method(config, [target.model for target in teachers])
    questions = find_questions(config)

    def recall(at: int, request: Request) -> Completion | None:
        return ledger.recall(targets[at].item_key(request))

    def recall_all() -> Iterator[Course]:
        return recall_courses(questions, method, recall, True)

    graded = Counter[bool]()
    for course in recall_all() if method.is_graded else ():
        graded.update(h.is_right for h in course.heard if h.ask.mode == method.first.mode)
    is_known = graded.total() >= MIN_KNOWN
    chance = graded[True] / graded.total() if is_known else ASSUMED_CHANCE

    def expect(place: int) -> Iterator[Expected]:
        for course in recall_all():
            for heard in course.heard:
                if heard.ask.teacher == place:
                    yield Expected(heard.ask.request)
            for ask, share in course.list_chances(chance):
                if ask.teacher == place:
                    yield Expected(ask.request, share)

    note = ""
    if method.is_graded:
        source = f"of {graded.total()} answers on the ledger" if is_known else "assumed"
        note = f"a sample is right in {chance:.0%} ({source})"
    return [forecast(expect(place), target, ledger, note) for place, target in enumerate(targets)]


def run(config: Config) -> Manifest:
    """Ask the teachers for every question that the ledger holds no answer to, then write the
    rationales."""
    ledger_path = config.ledger or config.out / FILE_NAME
    if config.dry_run:
        with open_reader(ledger_path) as reader:
            for ahead in forecast_job(config, reader):
                print(ahead.render())
        return Manifest(stage="distill", config=config.model_dump(mode="json"))
    path = find_question_file(config)
    previous = find_manifest(config.out)
    is_new = previous is None or previous.state != "finished"
    teachers, judges = choose_targets(config, is_key_needed=is_new)
    for target in [*teachers, *judges] if is_new else ():  # before anything is read or written
        check_budget(target, config.budget, config.when)
    method = make_method(config, [target.model for target in teachers])
    questions = find_questions(config)
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
            ours = (
                config.ledger and previous and previous.config.get("ledger") == str(config.ledger)
            )
            known = previous if ours else None
            if known:  # told before the ledger is opened: one that is held must lose nothing
                space.manifest.cost = known.cost
                told = {name: known.facts.get(name) for name in (BEFORE, "bought")}
                space.manifest.facts |= {name: fact for name, fact in told.items() if fact}
            with Ledger(ledger_path) as ledger:
                if config.ledger:
                    space.manifest.facts[BEFORE] = _find_before(known, ledger)
                    space.save()
                clients = _open_clients(config, teachers, judges, ledger)
                _distill_into(space, config, method, questions, clients)
        return space.manifest


def _find_before(previous: Manifest | None, ledger: LedgerReader) -> dict[str, float]:
    """Tell what a shared ledger held when this step began, so that the step tells its own money
    and answers alone, whatever ended it in between."""
    now = {"amount": ledger.spent(), "answers": count_items(ledger)[1]}
    if previous is None:
        return now
    if previous.state == "running" and BEFORE in previous.facts:  # killed: it told nothing
        return previous.facts[BEFORE]
    own = {"amount": previous.cost.amount, "answers": previous.facts.get("bought", 0)}
    return {name: now[name] - own[name] for name in now}


def _open_clients(
    config: Config, teachers: Sequence[Target], judges: Sequence[Target], ledger: Ledger
) -> list[LedgerClient]:
    """Open the clients of the teachers, and of the judge behind them."""

    def make_options(name: str, missing: FindMissing) -> RunOptions:
        return RunOptions(
            name=name,
            concurrency=config.concurrency,
            budget=config.budget,
            when=config.when,
            find_missing=missing,
        )

    clients: list[LedgerClient] = []
    for target in teachers:
        name = "distill" if len(teachers) == 1 else f"ask {target.model}"
        options = make_options(name, find_missing_part)
        clients.append(
            BatchClient(target, ledger, options)
            if config.batch
            else LedgerClient(target, ledger, options)
        )
    for target in judges:
        find_fault = judge.make_fault_finder(judge.load_rubric("diagnosis"))
        options = make_options("judge", from_fault_finder(find_fault))
        clients.append(LedgerClient(target, ledger, options))
    return clients


def _distill_into(
    space: StageOutput,
    config: Config,
    method: Method,
    questions: QuestionFile,
    clients: Sequence[LedgerClient],
) -> None:
    """Distil and write; a stop writes what there is and is raised again."""
    tally = _Tally()
    space.read(questions.reader.n_read)
    space.drop_all(questions.reader.dropped())
    space.drop("student_right", questions.n_right)
    space.drop("student_not_asked", questions.n_unanswered)
    if method.is_graded and questions.n_questions:
        for ahead in forecast_job(config, clients[0].ledger):
            print(f"distill: {ahead.summarise()}", file=sys.stderr, flush=True)
    try:
        if questions.n_questions:
            _write(space, distill(questions, clients, method, questions.n_questions), tally)
        else:
            tell("distill: nothing to buy: no question is left to ask", to=sys.stderr)
            _write(space, (), tally)
    except (StoppedError, KeyboardInterrupt):
        with contextlib.suppress(MedkdError):  # the first stop is the one to report
            recalled = recall_courses(questions, method, lambda at, r: clients[at].recall(r))
            _write(space, recalled, tally)
        raise
    finally:
        _write_facts(space, clients, method, tally)
    if tally.incomplete:
        listed = ", ".join(f"{n} {reason}" for reason, n in tally.incomplete.most_common())
        said = "distill: {}; to ask for these again, run it with --overwrite: the ledger stays"
        tell(said, listed, to=sys.stderr)
    if method.is_graded and (n_open := tally.n_right[0]):
        said = "distill: no answer is known to be right for {} of {} questions"
        tell(said, n_open, questions.n_questions, to=sys.stderr)


@dataclass
class _Tally:
    """What came of the questions, in numbers."""

    incomplete: Counter[str] = field(default_factory=Counter[str])
    n_right: Counter[int] = field(default_factory=Counter[int])
    """Right answers of a question to the number of such questions."""
    n_undecided: int = 0
    """Answers of which neither rules nor a judge could tell."""
    n_wrong: int = 0


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
            tally.n_undecided += sum(heard.verdict == "undecided" for heard in course.heard)
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
    clients: Sequence[LedgerClient],
    method: Method,
    tally: _Tally,
) -> None:
    ledger, currency = clients[0].ledger, clients[0].target.provider.currency
    before = space.manifest.facts.get(BEFORE, {"amount": 0.0})
    amount = ledger.spent() - before["amount"]
    space.manifest.cost = Cost(amount=round(amount, 6), currency=currency)
    totals = sum((client.totals for client in clients), Counter[str]())
    if "answers" in before:
        totals["new"] = count_items(ledger)[1] - before["answers"]
    n_teachers = len(method.models)
    space.manifest.facts |= {
        "mode": method.first.mode,
        "model": ", ".join(method.models),
        "teacher": ", ".join(client.target.name for client in clients[:n_teachers]),
        "incomplete": tally.incomplete.total(),
        "answered_before": totals["cached"],
        "bought": totals["new"],
        "failed": totals["failed"],
    }
    if method.is_graded:
        space.manifest.facts |= {
            "right_by_question": {str(n): k for n, k in sorted(tally.n_right.items())},
            "wrong": tally.n_wrong,
            "undecided": tally.n_undecided,
        }
    for client in clients[n_teachers:]:
        space.manifest.facts["judge"] = f"{client.target.name} {client.target.model}"
