from collections import Counter
from pathlib import Path

import pytest

from medkd.core import thinking
from medkd.core.records import Cost, Question, Rationale, Usage
from medkd.deidentify.replace import deidentify_case
from medkd.demo.reasoning import explain
from medkd.demo.synthetic_cases import generate_cases
from medkd.grading.diagnosis import grade
from medkd.prepare.stage import Config as PrepareConfig
from medkd.prepare.stage import prepare
from medkd.verify import Config, check_rationale

NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    cases = [deidentify_case(case.to_raw_case()).case for case in generate_cases(150, seed=23)]
    dropped: Counter[str] = Counter()
    prepared, *_ = prepare(cases, PrepareConfig(input=NOWHERE, out=NOWHERE), dropped)
    assert len(prepared) > 140, dropped
    return prepared


def test_a_gold_rationale_passes_every_check_and_its_answer_is_right(
    questions: list[Question],
) -> None:
    config = Config(input=NOWHERE, out=NOWHERE)
    for question in questions:
        rationale = Rationale(
            id=question.id,
            question=question,
            reasoning=explain(question.input, question.reference),
            answer=question.reference,
            finish_reason="stop",
            complete=True,
            model="gold",
            mode="rationalize",
            attempts=1,
            usage=Usage(),
            cost=Cost(),
        )
        failed = [verdict for verdict in check_rationale(rationale, config) if not verdict.passed]
        assert not failed, (question.id, rationale.reasoning)
        assert grade(
            thinking.write(rationale.reasoning, rationale.answer), question.reference
        ).exact
