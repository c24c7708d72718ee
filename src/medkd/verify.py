"""The stage `verify`: keeps the rationales that deserve to be learnt from and says why the rest fell.

In: `rationales.jsonl`. Out: `verified.jsonl` and `rejected.jsonl`, both of `Checked` records, so that a line can be moved by hand
from one to the other. Not done here: the checks themselves (`grading.checks`), removing duplicates (`merge`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from medkd.core.artifacts import RecordReader, resolve_input
from medkd.core.errors import InputError
from medkd.core.progress import track
from medkd.core.recipe import HOW, StageConfig
from medkd.core.records import Checked, Rationale, Verdict
from medkd.core.workspace import Manifest, open_workspace

if TYPE_CHECKING:
    from medkd.core.records import Question

Share = Annotated[float, Field(ge=0, le=1)]


class Config(StageConfig):
    """Keep sound rationales."""

    input: Annotated[Path, HOW]
    """Rationales: the directory of distill, or a JSON Lines file."""
    min_f1: Share = 0.6
    """Soft F1 from which an answer passes that rules cannot tell right or wrong; a wrong one never does."""
    min_grounded: Share = 0.6
    """Share of the numbers and denied findings in a reasoning that must stand in the record."""
    max_copied: Share = 0.6
    """Share of a reasoning that may be copied from the record word for word."""
    min_reasoning: int = Field(default=40, ge=0)
    """Characters of the shortest reasoning."""
    max_reasoning: int = Field(default=8000, ge=1)
    """Characters of the longest reasoning."""
    max_answer: int = Field(default=120, ge=1)
    """Characters of the longest answer; twice the known diagnosis where that is longer."""


def verify(rationales: Iterable[Rationale], config: Config) -> Iterator[Checked]:
    """Check rationales one by one; all checks are made of each, whichever fails first."""
    for rationale in rationales:
        yield Checked(rationale=rationale, verdicts=tuple(check_rationale(rationale, config)))


def check_rationale(rationale: Rationale, config: Config) -> list[Verdict]:
    """Make every check of one rationale, the plainest first; without a whole text there is nothing more to check."""
    from medkd.grading import checks

    reasoning, answer, question = rationale.reasoning, rationale.answer, rationale.question
    form = checks.check_form(reasoning, answer, rationale.complete)
    if not reasoning.strip() or not answer.strip():
        return [form]
    return [
        form,
        checks.check_refusal(reasoning, answer),
        checks.check_length(reasoning, config.min_reasoning, config.max_reasoning),
        checks.check_language(reasoning, question.input),
        checks.check_loop(f"{reasoning}\n{answer}"),
        checks.check_brevity(answer, question.reference, config.max_answer),
        checks.check_diagnosis(answer, question.reference, config.min_f1),
        checks.check_hint(reasoning),
        checks.check_identifiers(reasoning, answer),
        checks.check_copy(reasoning, question.input, config.max_copied),
        checks.check_grounding(reasoning, question.input, config.min_grounded),
    ]


def find_failure(checked: Checked) -> Verdict | None:
    """Give the first failed verdict: the reason a row falls for."""
    return next((verdict for verdict in checked.verdicts if not verdict.passed), None)


def run(config: Config) -> Manifest:
    """Check a file of rationales."""
    path = resolve_input(config.input, "rationales.jsonl", made_by="distill")
    with open_workspace("verify", config, inputs=[path]) as space:
        if space.is_finished:
            return space.manifest
        reader = RecordReader(path, Rationale, made_by="distill")
        verified: list[Checked] = []
        rejected: list[Checked] = []
        for checked in verify(track(reader, "verify", unit="rationales"), config):
            (rejected if find_failure(checked) else verified).append(checked)
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        space.drop_all(Counter(failure.reason for row in rejected if (failure := find_failure(row))))
        space.manifest.facts = collect_facts(verified, rejected)
        space.write_records("rejected.jsonl", rejected)
        space.manifest.counts.kept = space.write_records("verified.jsonl", verified)
        if not verified:
            reasons = ", ".join(f"{reason} {n}" for reason, n in space.manifest.facts["failures"].items())
            raise InputError(
                f"{path}: no rationale is sound ({reasons}); read {space.path('rejected.jsonl')}, then ask again or loosen a bound"
            )
    return space.manifest


def collect_facts(verified: Sequence[Checked], rejected: Sequence[Checked]) -> dict[str, Any]:
    """Count all failures, not only the first of a row, rejections by split, and how much is grounded.

    Test questions whose rationale fell are counted by split too: what is left of the test split is easier than the whole.
    """
    from medkd.grading.checks import grounded_rate

    rates = [rate for row in verified if (rate := grounded_rate(row.rationale.reasoning, _question(row).input)) is not None]
    return {
        "failures": dict(Counter(verdict.reason for row in rejected for verdict in row.verdicts if not verdict.passed).most_common()),
        "kept_by_split": dict(Counter(_question(row).split for row in verified)),
        "rejected_by_split": dict(Counter(_question(row).split for row in rejected)),
        "grounded_rate": round(sum(rates) / len(rates), 4) if rates else None,
    }


def _question(row: Checked) -> "Question":
    return row.rationale.question
