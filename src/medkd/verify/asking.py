"""The two checks that cost money: whether a model that is not told the answer reaches it, and what
a judge says of a rationale.

In: rationales that passed every check by rules, and a paid completer. Out: a `Verdict` each; an
answer that is missing or cannot be read is a failure of its own, never a pass and never a score.
Not done here: the rubric (`grading.judge`), the ledger (`completers`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, cast

from medkd.completers.continuation import FindMissing, Missing
from medkd.completers.dispatch import PaidCompleter, Tally, Terms
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target
from medkd.core.completer import Completion, Message, Request, Sampling
from medkd.core.progress import Bar
from medkd.core.records import Rationale, Verdict
from medkd.core.yaml_io import read_shipped_yaml
from medkd.grading import judge
from medkd.grading.checks import Reason, check_diagnosis, fail_check, pass_check
from medkd.text.normalize import is_chinese

BLIND = "blind"
JUDGE = "judge"
SAMPLING = Sampling(max_tokens=4096)
"""Of the blind pass: the model's own thinking is left as it is, for here it may think as it
likes."""
_TAG = re.compile(r"<(?=/?record\b)", re.IGNORECASE)


class Examination(NamedTuple):
    """One kind of question about a rationale: how to ask it, what makes an answer unreadable, and
    what follows from one."""

    name: str
    ask: Callable[[Rationale], Request]
    find_missing: FindMissing
    conclude: Callable[[Rationale, Completion], Verdict]


def make_blind(min_f1: float) -> Examination:
    """Make the pass without the answer: it fails a rationale whose answer cannot be reached from
    the record."""

    def conclude(rationale: Rationale, completion: Completion) -> Verdict:
        if not completion.complete:
            return fail_check(
                BLIND, Reason.UNANSWERED, completion.error or completion.finish_reason
            )
        found = check_diagnosis(completion.text, rationale.question.reference, min_f1)
        return (
            pass_check(BLIND)
            if found.passed
            else fail_check(BLIND, Reason.BLIND_MISS, found.detail)
        )

    return Examination(BLIND, ask_blindly, _find_missing_diagnosis, conclude)


def _find_missing_diagnosis(_reasoning: str, text: str) -> Missing | None:
    return None if text.strip() else Missing("no diagnosis", is_at_end=True)


def ask_blindly(rationale: Rationale) -> Request:
    """Write the request for a diagnosis from the record alone."""
    record = rationale.question.input
    prompt = _load_prompts()["zh" if is_chinese(record) else "en"]
    user = prompt["user"].replace("{record}", _TAG.sub("＜", record), 1)
    return Request(
        messages=(
            Message(role="system", content=prompt["system"]),
            Message(role="user", content=user),
        ),
        sampling=SAMPLING,
    )


@cache
def _load_prompts() -> dict[str, dict[str, str]]:
    return cast(dict[str, dict[str, str]], read_shipped_yaml("medkd.verify", "prompts.yaml"))


def make_judge(min_score: float) -> Examination:
    """Make the judge's look at a rationale: it fails one that scores below `min_score`."""
    rubric = judge.load_rubric("rationale")

    def ask(rationale: Rationale) -> Request:
        question = rationale.question
        return judge.make_request(
            rubric,
            judge.rationale_texts(
                question.input, rationale.reasoning, rationale.answer, question.reference
            ),
        )

    def conclude(_: Rationale, completion: Completion) -> Verdict:
        judged = judge.read_completion(rubric, completion)
        if judged.judgement is None:
            return fail_check(JUDGE, Reason.UNANSWERED, judged.error)
        said = f"{judged.judgement.score:.2f}: {judged.judgement.why}"[:200]
        if judged.judgement.score < min_score:
            return fail_check(JUDGE, Reason.LOW_SCORE, said)
        return Verdict(check=JUDGE, passed=True, detail=said)

    def find_missing(reasoning: str, text: str) -> Missing | None:
        fault = find_fault(reasoning, text)
        return Missing(fault, is_at_end=False) if fault else None

    find_fault = judge.make_fault_finder(rubric)
    return Examination(JUDGE, ask, find_missing, conclude)


class Examiner:
    """Asks one model every question about many rationales; all of it is on one ledger, and nothing
    is paid twice."""

    def __init__(
        self,
        examinations: Sequence[Examination],
        target: Target,
        ledger: Ledger,
        concurrency: int,
        budget: float | None,
    ) -> None:
        self._examinations, self._target, self._ledger = examinations, target, ledger
        self._concurrency, self._budget = concurrency, budget

    def settle(self, rationales: Callable[[], Iterator[Rationale]]) -> None:
        """Ask about every rationale that has no answer on the ledger yet; `rationales` gives them
        anew for each kind of question.

        Raises StoppedError when the budget is reached or nobody answers any more; what was paid for
        is on the ledger.
        """
        n_rationales = sum(1 for _ in rationales())
        for examination in self._examinations if n_rationales else ():
            with Bar(examination.name, total=n_rationales, unit="answers") as bar:
                completer = self._make_completer(examination, bar)
                completer.settle(
                    (
                        (f"{examination.name} {one.id}", examination.ask(one))
                        for one in rationales()
                    ),
                    n_rationales,
                )

    def _make_completer(self, examination: Examination, bar: Bar | None = None) -> PaidCompleter:
        currency = self._target.provider.currency

        def tell(tally: Tally) -> None:
            if bar is not None:
                note = (
                    f"{tally.spent:.4f} {currency}" if self._target.is_priced else "price unknown"
                )
                bar.reach(tally.n_settled, tally.n_found, note)

        terms = Terms(
            concurrency=self._concurrency,
            budget=self._budget,
            find_missing=examination.find_missing,
            on_progress=tell,
        )
        return PaidCompleter(Endpoint(self._target), self._ledger, terms)

    def conclude(self, rationale: Rationale) -> Iterator[Verdict]:
        """Give the verdicts on a rationale, from the ledger."""
        for examination in self._examinations:
            completion = self._make_completer(examination).recall(examination.ask(rationale))
            if completion is None:
                yield fail_check(examination.name, Reason.UNANSWERED, "never asked")
            else:
                yield examination.conclude(rationale, completion)
