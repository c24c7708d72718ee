"""The removals of a case, as records: what the rules cut, and what people decided about it.

In: a section, its repaired view, the rules' cuts, the reviews of people. Out: the text of the
question and a `Removal` for each span. Not done here: the rules (`leakage`), asking people
(`studio`).
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from medkd.core.records import Case, Removal, name_removal
from medkd.core.reviews import Decision, Review, settle
from medkd.prepare.leakage import Cut, Rule, merge_cuts
from medkd.text.normalize import Edit, View

AROUND = 20
"""Characters of context on each side of a span."""
_ID = re.compile(r"(?P<case>.*)#(?P<section>[^#]*)#(?P<start>\d+)-(?P<end>\d+)#[0-9a-f]{8}", re.S)


class Reviewed(NamedTuple):
    """A person's decision about a span."""

    id: str
    section: str
    start: int
    end: int
    review: Review


Decisions = Mapping[str, Sequence[Reviewed]]
"""Id of a case to the decisions about its spans."""


def read_decisions(reviews: Mapping[str, Sequence[Review]]) -> dict[str, list[Reviewed]]:
    """Read the reviews that count, by case; those of anything but spans are left out."""
    found: dict[str, list[Reviewed]] = {}
    for key, of_span in reviews.items():
        if match := _ID.fullmatch(key):
            start, end = int(match["start"]), int(match["end"])
            decision = Reviewed(key, match["section"], start, end, settle(of_span))
            found.setdefault(match["case"], []).append(decision)
    return found


def remove_spans(
    case: Case, section: str, view: View, cuts: Iterable[Cut], decisions: Iterable[Reviewed]
) -> tuple[str, list[Removal]]:
    """Cut a section's view as the rules say and people decided; return its text and the removals.

    A decision about another text of the section than this one, by its digest, counts for nothing.
    """
    original = case.sections[section]
    valid = [
        decision
        for decision in decisions
        if decision.section == section
        and decision.id == name_removal(case.id, section, original, decision.start, decision.end)
    ]
    kept = [one for one in valid if one.review.decision is Decision.REJECT]
    own = [cut for one in valid if one not in kept if (cut := _place(view, one))]
    found = list(cuts)
    restored = [cut for cut in found if any(_overlaps(view, cut, one) for one in kept)]
    removed = merge_cuts([cut for cut in found if cut not in restored], own)
    text = view.edit(Edit(cut.start, cut.end, cut.put) for cut in removed).text
    removals = [
        *(_record(case, section, view, cut) for cut in removed),
        *(
            _record(case, section, view, cut).model_copy(update={"state": "restored"})
            for cut in restored
        ),
    ]
    return text, sorted(removals, key=lambda removal: removal.start)


def propose_section(case: Case, section: str) -> Removal:
    """Propose a section from which a model named the answer where the rules found nothing."""
    text = case.sections[section]
    return Removal(
        id=name_removal(case.id, section, text, 0, len(text)),
        case_id=case.id,
        section=section,
        start=0,
        end=len(text),
        rule=Rule.ENDPOINT,
        before=text,
        after="",
        context=f"⟦{text}⟧",
        state="proposed",
    )


def _place(view: View, decision: Reviewed) -> Cut | None:
    """Find the span of the view that a person's span of the section has become."""
    start = bisect_left(view.starts, decision.start)
    end = bisect_right(view.ends, decision.end)
    return Cut(start, end, decision.review.answer, Rule.PERSON) if start < end else None


def _overlaps(view: View, cut: Cut, decision: Reviewed) -> bool:
    start, end = view.original_span(cut.start, cut.end)
    return start < decision.end and decision.start < end


def _record(case: Case, section: str, view: View, cut: Cut) -> Removal:
    original = case.sections[section]
    start, end = view.original_span(cut.start, cut.end)
    return Removal(
        id=name_removal(case.id, section, original, start, end),
        case_id=case.id,
        section=section,
        start=start,
        end=end,
        rule=cut.rule,
        before=original[start:end],
        after=cut.put,
        context=original[max(0, start - AROUND) : start]
        + f"⟦{original[start:end]}⟧"
        + original[end : end + AROUND],
    )
