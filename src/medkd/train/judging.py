"""A judge as a reward: another model reads the reasoning, every judgement is on a ledger and within
a budget.

In: answers with their record and reference. Out: the score of each, 0 to 1. What cannot be read is
asked for again, and then stops the run: a zero for an answer that nobody judged would be learnt
from. Not done here: the rubric (`grading.judge`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medkd.core import thinking
from medkd.core.completer import Completer
from medkd.core.errors import StoppedError
from medkd.core.records import Cost
from medkd.grading.judge import judge, load_rubric, make_fault_finder, rationale_texts
from medkd.train.rewards import Rollout


class Judge:
    """The reward `judge`: how good the reasoning is by the rubric `rationale`."""

    def __init__(self, completer: Completer, tell_cost: Callable[[], Cost] = Cost) -> None:
        self.completer = completer
        self.cost = tell_cost
        """Tells what all judgements on the ledger have cost."""

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score answers; one without a closed thought has no reasoning to judge and earns nothing,
        unasked."""
        thoughts = [thinking.read(rollout.text) for rollout in rollouts]
        asked = [at for at, thought in enumerate(thoughts) if thought.reasoning and thought.answer]
        texts = [
            rationale_texts(
                rollouts[at].record,
                thoughts[at].reasoning or "",
                thoughts[at].answer,
                rollouts[at].reference,
            )
            for at in asked
        ]
        scores = [0.0] * len(rollouts)
        for at, judged in zip(
            asked, judge(texts, load_rubric("rationale"), self.completer), strict=True
        ):
            if judged.judgement is None:
                raise StoppedError(
                    f"the judge could not be read ({judged.error}); choose another judge, or run the same command again: "
                    "the last checkpoint and every judgement paid for are kept"
                )
            scores[at] = judged.judgement.score
        return scores


@contextmanager
def open_judge(
    provider: str, model: str, base_url: str, budget: float | None, ledger_path: Path
) -> Generator[Judge]:
    """Open a judge over an endpoint, with the ledger beside the run."""
    from medkd.completers.client import LedgerClient
    from medkd.completers.endpoint import Endpoint
    from medkd.completers.ledger import Ledger
    from medkd.completers.providers import find_target
    from medkd.completers.resume import MissingPart
    from medkd.completers.scheduler import RunOptions

    find_fault = make_fault_finder(load_rubric("rationale"))

    def find_missing(reasoning: str, text: str) -> MissingPart | None:
        fault = find_fault(reasoning, text)
        return MissingPart(fault, is_at_end=False) if fault else None

    target = find_target(provider, model, base_url)
    with Ledger(ledger_path) as ledger:
        completer = LedgerClient(
            Endpoint(target), ledger, RunOptions(budget=budget, find_missing=find_missing)
        )
        yield Judge(
            completer,
            lambda: Cost(amount=round(ledger.spent(), 6), currency=target.provider.currency),
        )
