"""A model that names the diagnosis from one section shows where the rules found nothing."""

from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Case, Question, Removal
from medkd.core.reviews import Decision, Review, add_review
from medkd.demo.synthetic_cases import generate_cases
from medkd.demo.teacher import serve_teacher
from medkd.prepare.stage import Config, run


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"
    write_records(
        path,
        (
            Case(
                id=f"iiyi:{raw.number}",
                source="iiyi",
                sections=raw.sections,
                diagnosis=raw.diagnosis,
                deidentified_by="test 1",
            )
            for raw in generate_cases(8, 0)
        ),
    )
    return path


def read(folder: Path) -> tuple[dict[str, str], list[Removal]]:
    questions = RecordReader(folder / "questions.jsonl", Question, made_by="prepare")
    removals = RecordReader(folder / "removals.jsonl", Removal, made_by="prepare")
    return {question.id: question.input for question in questions}, list(removals)


def test_sections_that_tell_a_model_the_answer_are_proposed_and_go_once_a_person_says_so(
    cases: Path, tmp_path: Path
) -> None:
    run(Config(input=cases, out=tmp_path / "plain"))
    plain, _ = read(tmp_path / "plain")
    with serve_teacher() as teacher:
        config = Config(
            input=cases,
            out=tmp_path / "checked",
            check_leaks="rehearsal",
            check_base_url=teacher.base_url,
        )
        manifest = run(config)
        asked, removals = read(tmp_path / "checked")
        assert asked == plain
        proposed = [removal for removal in removals if removal.state == "proposed"]
        assert manifest.facts["check_leaks"] == {"proposed": len(proposed), "unanswered": 0}
        assert proposed and manifest.cost.amount > 0
        for removal in proposed:
            assert (removal.rule, removal.start, removal.end) == (
                "endpoint",
                0,
                len(removal.before),
            )
        first = proposed[0]
        review = Review(id=first.id, reviewer="li", decision=Decision.ACCEPT)
        add_review(tmp_path / "checked", review)
        again = run(config.model_copy(update={"overwrite": True}))
    questions, removals = read(tmp_path / "checked")
    assert first.before not in questions[first.case_id]
    assert any(one.id == first.id and one.rule == "person" for one in removals)
    assert again.cost.amount == manifest.cost.amount  # everything else was on the ledger


def test_the_cost_is_told_before_anything_is_sent(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Config(input=cases, out=tmp_path / "out", check_leaks="rehearsal", dry_run=True))
    said = capsys.readouterr().out
    assert said.startswith("check-leaks: ") and "sections to rehearsal" in said and " CNY" in said
    assert not (tmp_path / "out").exists()


def test_a_price_of_nothing_is_refused(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--check-leaks"):
        run(Config(input=cases, out=tmp_path / "out", dry_run=True))


def test_an_unknown_provider_is_named_under_its_own_flag(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--check-leaks nosuch: unknown provider"):
        run(Config(input=cases, out=tmp_path / "out", check_leaks="nosuch"))
