"""Asks a model to name the diagnosis from each section alone, to find what the rules do not.

In: drafts, and an endpoint over a ledger. Out: proposed `Removal`s: whole sections from which the
model named the answer though the rules found nothing in them. Not done here: removing them; a
person decides (`core.reviews`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, cast

from medkd.completers.client import LedgerClient
from medkd.completers.providers import Target, estimate_tokens
from medkd.core import thinking
from medkd.core.config import read_shipped_yaml
from medkd.core.records import Message, Removal, Request, Sampling, Usage
from medkd.grading.diagnosis import grade
from medkd.prepare.draft import Draft
from medkd.prepare.leakage import propose_section

SAMPLING = Sampling(max_tokens=1024, temperature=0.0, thinking=False)
MIN_CHARACTERS = 10
"""Shorter sections are not asked about."""
ASSUMED_TOKENS = 12
"""Tokens of one answer, for the estimate: a name."""
_TAG = re.compile(r"<(?=/?record\b)", re.IGNORECASE)


class Asked(NamedTuple):
    """One section of one case, and what is asked about it."""

    draft: Draft
    section: str
    request: Request


def list_asked(drafts: Iterable[Draft]) -> Iterator[Asked]:
    """Yield the sections in which the rules found nothing, with their requests."""
    for draft in drafts:
        found = {removal.section for removal in draft.removals}
        for section, text in draft.texts.items():
            if section not in found and len(text) >= MIN_CHARACTERS:
                yield Asked(draft, section, _ask(text, draft.language))


def estimate_cost(asked: Sequence[Asked], target: Target) -> str:
    """Estimate on one line what asking costs; answers on the ledger cost nothing again."""
    prompts = (message.content for one in asked for message in one.request.messages)
    usage = Usage(prompt=estimate_tokens(prompts), completion=ASSUMED_TOKENS * len(asked))
    price = target.price_at(datetime.now(UTC))
    cost = (
        f"about {price.amount(usage):.4f} {target.provider.currency}" if price else "price unknown"
    )
    return (
        f"check-leaks: {len(asked):,} sections to {target.model} at {target.base_url}, about "
        f"{usage.prompt:,} tokens of prompts and {usage.completion:,} of answers: {cost}"
    )


def check_leaks(asked: Sequence[Asked], client: LedgerClient) -> tuple[list[Removal], int]:
    """Ask about every section; return those from which the answer was named, and how many got no
    answer.

    Raises StoppedError when the budget is spent or nobody answers; the ledger keeps what was paid.
    """
    if asked:
        labelled = ((f"{one.draft.case.id} {one.section}", one.request) for one in asked)
        client.run(labelled, len(asked))
    proposed: list[Removal] = []
    n_unanswered = 0
    for one in asked:
        completion = client.recall(one.request)
        if completion is None or not completion.complete:
            n_unanswered += 1
        elif grade(thinking.read(completion.text).answer, one.draft.reference).principal:
            proposed.append(propose_section(one.draft.case, one.section))
    return proposed, n_unanswered


def _ask(text: str, language: str) -> Request:
    prompts = cast(
        "dict[str, dict[str, str]]", read_shipped_yaml("medkd.prepare", "leak_check.yaml")
    )
    prompt = prompts[language]
    user = prompt["user"].replace("{text}", _TAG.sub("＜", text), 1)
    messages = (
        Message(role="system", content=prompt["system"]),
        Message(role="user", content=user),
    )
    return Request(messages=messages, sampling=SAMPLING)


def find_fault(_reasoning: str, text: str) -> str:
    """Say what makes a reply unreadable: it is empty."""
    return "" if text.strip() else "no diagnosis"
