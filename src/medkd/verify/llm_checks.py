"""The checks that ask a model: an answer without the known one (blind), a judge's score.

In: checked rationales and an endpoint. Out: the same with one more `Verdict` a question.
Not done here: the rubric (`grading.judge`), retries and the ledger (`completers`).
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TextIO

from medkd.completers.client import LedgerClient
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import FindMissing, MissingPart, from_fault_finder
from medkd.completers.providers import Target
from medkd.completers.scheduler import RunOptions
from medkd.core.errors import InputError
from medkd.core.records import (
    Checked,
    Completion,
    Language,
    Message,
    Question,
    Rationale,
    Request,
    Sampling,
    Verdict,
)
from medkd.core.task import Task
from medkd.grading import judge
from medkd.grading.checks import Reason, check_answer, make_verdict
from medkd.text.normalize import is_chinese

SAMPLING = Sampling(max_tokens=4096)
"""Of the blind question: thinking stays as the endpoint has it."""


class _IdentifiedQuestion(Question):
    deidentified_by: str = ""


class IdentifiedRationale(Rationale):
    """A rationale whose record may never have been de-identified."""

    question: _IdentifiedQuestion  # pyright: ignore[reportIncompatibleVariableOverride]


class _Waiting(Checked):
    """A checked rationale, de-identified or not, as it waits for the model."""

    rationale: IdentifiedRationale  # pyright: ignore[reportIncompatibleVariableOverride]


class LlmCheck(NamedTuple):
    """One kind of question about a rationale."""

    name: str
    ask: Callable[[Rationale], Sequence[Request]]
    find_missing: FindMissing
    """Says what makes a reply unreadable, so that it is asked for again."""
    verdict: Callable[[Rationale, Sequence[Completion]], Verdict]
    wants: Callable[[Checked], bool]
    """Says which rows it is about."""


class LlmChecker:
    """Asks one model every question about many rationales, over a ledger that pays once."""

    def __init__(
        self,
        checks: Sequence[LlmCheck],
        target: Target,
        ledger: Ledger,
        work_dir: Path,
        options: RunOptions,
    ) -> None:
        self._checks, self._work_dir = checks, work_dir
        self._target, self._ledger, self._options = target, ledger, options

    def check(self, checked: Iterable[Checked]) -> Iterator[Checked]:
        """Ask about every rationale that a check is about and yield all with the further verdicts,
        in the place of one of the same check.

        Asking begins when all are read: they wait in an unnamed file, not in memory. Raises
        StoppedError when the budget is spent or nobody answers; the ledger keeps what was paid.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._work_dir) as file:
            wanted = Counter[str]()
            for row in checked:
                for check in self._checks:
                    if check.wants(row):
                        wanted[check.name] += len(check.ask(row.rationale))
                file.write(row.model_dump_json() + "\n")
            asked = [(check, self._ask(check, file, wanted[check.name])) for check in self._checks]
            for row in _read_again(file):
                yield _add_verdicts(row, asked)

    def _ask(self, check: LlmCheck, file: TextIO, n: int) -> LedgerClient:
        """Have one kind of question answered for every rationale that it is about; say the cost
        before."""
        options = replace(self._options, name=check.name, find_missing=check.find_missing)
        client = LedgerClient(self._target, self._ledger, options)
        if n:
            client.announce(request for _, request in _list_requests(check, file))
            client.run(_list_requests(check, file), n)
        return client


def _list_requests(check: LlmCheck, file: TextIO) -> Iterator[tuple[str, Request]]:
    """List what one check asks about every rationale that it is about, each with its label."""
    for row in _read_again(file):
        if check.wants(row):
            for request in check.ask(row.rationale):
                yield f"{check.name} {row.rationale.id}", request


def _add_verdicts(row: Checked, asked: Sequence[tuple[LlmCheck, LedgerClient]]) -> Checked:
    verdicts = {verdict.check: verdict for verdict in row.verdicts}
    for check, client in asked:
        if check.wants(row):
            recalled = [client.recall(request) for request in check.ask(row.rationale)]
            completions = [completion for completion in recalled if completion is not None]
            verdicts[check.name] = (
                check.verdict(row.rationale, completions)
                if len(completions) == len(recalled)
                else make_verdict(check.name, Reason.UNANSWERED, "never asked")
            )
    return row.model_copy(update={"verdicts": tuple(verdicts.values())})


def make_answer_check(find_task: Callable[[str], Task]) -> LlmCheck:
    """Make the check that a judge, asked in both orders, calls an undecided answer right; what it
    cannot tell, or does not answer, stays undecided."""

    def wants(row: Checked) -> bool:
        failed = [verdict.reason for verdict in row.verdicts if not verdict.passed]
        return failed == [Reason.UNDECIDED]

    def describe(rationale: Rationale) -> judge.AnswerToJudge:
        question = rationale.question
        kind = find_task(question.task).answer.kind
        return judge.AnswerToJudge(kind, question.input, rationale.answer, question.reference)

    def ask(rationale: Rationale) -> Sequence[Request]:
        return judge.verdict_requests(describe(rationale))

    def verdict(rationale: Rationale, completions: Sequence[Completion]) -> Verdict:
        kind = describe(rationale).kind
        one, turned = completions
        opinion = judge.read_opinion(one, turned)
        if opinion.verdict is None:
            return make_verdict("answer", Reason.UNDECIDED, f"not judged: {opinion.error}")
        wrong = Reason.WRONG_DIAGNOSIS if kind == "diagnosis" else Reason.WRONG_ANSWER
        failures = {"right": None, "wrong": wrong, "undecided": Reason.UNDECIDED}
        detail = f"judged {opinion.verdict}: {opinion.why}"[:200]
        return make_verdict("answer", failures[opinion.verdict], detail)

    find_missing = from_fault_finder(judge.make_fault_finder(judge.load_rubric("diagnosis")))
    return LlmCheck("answer", ask, find_missing, verdict, wants)


def make_blind_check(
    min_f1: float | None, find_task: Callable[[str], Task], terms_path: Path | None = None
) -> LlmCheck:
    """Make the check that a model reaches the known answer from the question alone; `min_f1` is the
    task's where None is given."""

    def ask(rationale: Rationale) -> Sequence[Request]:
        return [ask_blindly(rationale.question, find_task(rationale.question.task))]

    def verdict(rationale: Rationale, completions: Sequence[Completion]) -> Verdict:
        (completion,) = completions
        if not completion.complete:
            error = completion.error or completion.finish_reason
            return make_verdict("blind", Reason.UNANSWERED, error)
        question = rationale.question
        task = find_task(question.task)
        bound = task.verify.min_f1 if min_f1 is None else min_f1
        found = check_answer(
            completion.text, question.reference, bound, task.answer.kind, question.known, terms_path
        )
        if found.passed:
            return make_verdict("blind")
        is_open = found.reason == Reason.UNDECIDED
        reason = Reason.UNDECIDED if is_open else Reason.BLIND_MISS
        return make_verdict("blind", reason, found.detail)

    def find_missing(_reasoning: str, text: str) -> MissingPart | None:
        return None if text.strip() else MissingPart("no answer", is_at_end=True)

    return LlmCheck("blind", ask, find_missing, verdict, _is_sound)


def ask_blindly(question: Question, task: Task) -> Request:
    """Write the request for an answer from the question alone.

    Raises InputError where the task's answers are free text: rules cannot compare two of them.
    """
    if task.answer.kind == "text":
        raise InputError(
            "--blind: answers of the task {} are free text, of which rules cannot "
            "tell whether two say the same; use --judge",
            task.name,
        )
    language = find_written_language(question)
    messages = (
        Message(role="system", content=task.student.system[language]),
        Message(role="user", content=task.fill(task.teacher.blind[language], question.input)),
    )
    return Request(messages=messages, sampling=SAMPLING)


def find_written_language(question: Question) -> Language:
    """Find the language of a question; those of version 0.1 do not tell it."""
    if "language" in question.model_fields_set:
        return question.language
    return "zh" if is_chinese(question.input) else "en"


def make_judge_check(min_score: float, find_task: Callable[[str], Task]) -> LlmCheck:
    """Make the check that a judge scores the rationale at least `min_score`."""
    rubric, general = judge.load_rubric("rationale"), judge.load_rubric("reasoning")

    def ask(rationale: Rationale) -> Sequence[Request]:
        question = rationale.question
        is_diagnosis = find_task(question.task).answer.kind == "diagnosis"
        said = (question.input, rationale.reasoning, rationale.answer, question.reference)
        texts = judge.rationale_texts(*said, is_diagnosis)
        return [judge.make_request(rubric if is_diagnosis else general, texts)]

    def verdict(_: Rationale, completions: Sequence[Completion]) -> Verdict:
        (completion,) = completions
        judged = judge.read_completion(rubric, completion)
        if judged.judgement is None:
            return make_verdict("judge", Reason.UNANSWERED, judged.error)
        detail = f"{judged.judgement.score:.2f}: {judged.judgement.why}"[:200]
        if judged.judgement.score < min_score:
            return make_verdict("judge", Reason.LOW_SCORE, detail)
        return make_verdict("judge", detail=detail)

    find_missing = from_fault_finder(judge.make_fault_finder(rubric))
    return LlmCheck("judge", ask, find_missing, verdict, _is_sound)


def _is_sound(row: Checked) -> bool:
    return all(verdict.passed for verdict in row.verdicts)


def _read_again(file: TextIO) -> Iterator[Checked]:
    file.seek(0)
    for line in file:
        yield _Waiting.model_validate_json(line)
