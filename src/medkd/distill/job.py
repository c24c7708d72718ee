"""One run of the stage over one ledger: asks, shows progress, writes the rationales, whatever stops
it.

In: a config, a file of questions, an open ledger. Out: `rationales.jsonl` and what the manifest
says of it.
Not done here: the stage's directory (`distill.stage`), the asking itself (`completers.dispatch`).
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

from medkd.completers.dispatch import PaidCompleter, Tally, Terms
from medkd.completers.endpoint import Endpoint
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target
from medkd.core.completer import Request
from medkd.core.errors import MedkdError, StoppedError
from medkd.core.jsonl import RecordReader
from medkd.core.progress import Bar
from medkd.core.records import Cost, Question
from medkd.core.stage_output import StageOutput
from medkd.distill.prompts import find_missing_part
from medkd.distill.stage import Config
from medkd.distill.walk import Walk, make_requests

RATIONALES = "rationales.jsonl"


def distill_file(
    config: Config, path: Path, target: Target, ledger: Ledger, space: StageOutput
) -> None:
    """Have every question of a file answered and write what came of it; a stop writes what there is
    and is raised again."""
    walk = Walk(path, config)
    reader = RecordReader(path, Question, made_by="prepare")
    progress = _Progress(target, walk.n_requests)
    teacher = PaidCompleter(
        Endpoint(target),
        ledger,
        Terms(
            concurrency=config.concurrency,
            budget=config.budget,
            when=config.when,
            find_missing=find_missing_part,
            on_progress=progress.show,
        ),
    )

    def first_requests() -> Iterator[tuple[str, Request]]:
        for question in reader:
            for request in make_requests(question, walk.ways.first, config, config.mode):
                yield question.id, request

    try:
        with progress.bar("distill", walk.n_requests):
            tallies = [teacher.settle(first_requests(), walk.n_requests)]
        if walk.ways.second and (n_wrong := sum(1 for _ in walk.second_requests(teacher.recall))):
            with progress.bar("rationalize", n_wrong):
                second = (
                    (question.id, request)
                    for question, request in walk.second_requests(teacher.recall)
                )
                tallies.append(teacher.settle(second, n_wrong))
    except (StoppedError, KeyboardInterrupt):
        with contextlib.suppress(MedkdError):  # the first stop is the one to report
            _write(walk, teacher, space)
        raise
    space.read(reader.n_read)
    space.drop_all(reader.dropped())
    outcomes = _write(walk, teacher, space)
    space.manifest.facts |= {
        "answered_before": sum(t.n_found for t in tallies),
        "bought": sum(t.n_bought for t in tallies),
        "failed": sum(t.n_failed for t in tallies),
    }
    if outcomes:
        reasons = ", ".join(f"{n} {reason}" for reason, n in outcomes.most_common())
        print(
            f"distill: {reasons}; to ask for these once more, run it again with --overwrite: the ledger stays",
            file=sys.stderr,
        )


def _write(walk: Walk, teacher: PaidCompleter, space: StageOutput) -> Counter[str]:
    """Write the rationales of all that was asked, from the ledger; give the reasons of the
    incomplete ones."""
    target, outcomes = teacher.target, Counter[str]()
    space.manifest.counts.kept = space.write_records(
        RATIONALES, walk.rationales(teacher.recall, target.model, outcomes)
    )
    space.manifest.cost = Cost(
        amount=round(teacher.ledger.spent(), 6), currency=target.provider.currency
    )
    del outcomes["complete"]
    facts = {
        "prompt": walk.ways.first.version,
        "model": target.model,
        "teacher": target.name,
        "incomplete": outcomes.total(),
    }
    space.manifest.facts |= facts | (
        {"fallback": walk.ways.second.version} if walk.ways.second else {}
    )
    return outcomes


class _Progress:
    """One line that says how far it is, what it costs, and what it waits for."""

    def __init__(self, target: Target, n_requests: int) -> None:
        self._target, self._n_requests = target, n_requests
        self._bar: Bar | None = None

    @contextlib.contextmanager
    def bar(self, name: str, n_requests: int) -> Generator[None, None, None]:
        self._n_requests = n_requests
        with Bar(name, total=n_requests, unit="answers") as self._bar:
            yield

    def show(self, tally: Tally) -> None:
        if self._bar:
            self._bar.reach(tally.n_settled, tally.n_found, self._say(tally))

    def _say(self, tally: Tally) -> str:
        if tally.waits_s > 0:
            hours, seconds = divmod(int(tally.waits_s), 3600)
            return f"waits for the cheap hours, {hours}:{seconds // 60:02}:{seconds % 60:02} left"
        parts = [
            f"{tally.n_running} running of at most {tally.limit}",
            f"{tally.tokens_per_s:,.0f} tokens/s",
        ]
        if self._target.is_priced:
            parts.append(
                f"{tally.spent:.4f} of about {tally.projected(self._n_requests):.4f} {self._target.provider.currency}"
            )
        else:
            parts.append("price unknown")
        if tally.n_failed:
            parts.append(f"{tally.n_failed} failed")
        if tally.trouble:
            parts.append(f"asks again after {tally.trouble}")
        return ", ".join(parts)
