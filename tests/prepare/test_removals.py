"""What was removed is written down, and a person's decision about it counts on the next run."""

from collections import Counter
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Case, Question, Removal, name_removal
from medkd.core.reviews import Decision, Review, add_review
from medkd.prepare.stage import Config, prepare, run

HISTORY = (
    "患者3天前  头痛，外院诊断\u200b脑积水，予甘露醇脱水治疗后头痛稍有缓解，今来我院进一步诊治。"
)


def make_case(**sections: str) -> Case:
    return Case(
        id="iiyi:1",
        source="iiyi",
        sections={"主诉": "头痛3天。", "现病史": HISTORY, **sections},
        diagnosis=("脑积水", "高血压病3级"),
        deidentified_by="test 1",
    )


def run_once(folder: Path, **options: bool) -> tuple[Question, list[Removal]]:
    write_records(folder / "cases.jsonl", [make_case()])
    run(Config(input=folder / "cases.jsonl", out=folder / "out", **options))
    questions = list(RecordReader(folder / "out" / "questions.jsonl", Question, made_by="prepare"))
    removals = list(RecordReader(folder / "out" / "removals.jsonl", Removal, made_by="prepare"))
    return questions[0], removals


def test_a_removal_tells_its_span_in_the_section_as_the_case_has_it(tmp_path: Path) -> None:
    question, (removal,) = run_once(tmp_path)
    assert removal.before == HISTORY[removal.start : removal.end] == "外院诊断\u200b脑积水，"
    assert (removal.rule, removal.after, removal.state) == ("statement", "", "removed")
    assert "⟦外院诊断\u200b脑积水，⟧" in removal.context
    assert "患者3天前头痛，予甘露醇脱水" in question.input


def decide(folder: Path, key: str, decision: Decision, answer: str = "") -> None:
    add_review(folder / "out", Review(id=key, reviewer="li", decision=decision, answer=answer))


def test_what_a_person_takes_back_stays_and_is_listed_as_restored(tmp_path: Path) -> None:
    _, (removal,) = run_once(tmp_path)
    decide(tmp_path, removal.id, Decision.REJECT)
    with pytest.raises(InputError, match="jsonl changed"):
        run_once(tmp_path)
    question, (again,) = run_once(tmp_path, overwrite=True)
    assert "外院诊断脑积水，予甘露醇" in question.input
    assert (again.id, again.state) == (removal.id, "restored")


def test_what_a_person_adds_goes_too(tmp_path: Path) -> None:
    run_once(tmp_path)
    start = HISTORY.index("予甘露醇")
    end = HISTORY.index("头痛稍有")
    key = name_removal("iiyi:1", "现病史", HISTORY, start, end)
    decide(tmp_path, key, Decision.ACCEPT)
    question, removals = run_once(tmp_path, overwrite=True)
    assert "甘露醇" not in question.input and "头痛稍有缓解" in question.input
    assert [removal.rule for removal in removals] == ["statement", "person"]


def test_a_person_may_put_other_words_in_place_of_a_span(tmp_path: Path) -> None:
    _, (removal,) = run_once(tmp_path)
    decide(tmp_path, removal.id, Decision.EDIT, "外院就诊，")
    question, (again,) = run_once(tmp_path, overwrite=True)
    assert "头痛，外院就诊，予甘露醇" in question.input
    assert again.after == "外院就诊，"


def test_a_decision_about_another_text_of_the_section_counts_for_nothing(tmp_path: Path) -> None:
    run_once(tmp_path)
    decide(tmp_path, name_removal("iiyi:1", "现病史", "别的病历", 0, 4), Decision.ACCEPT)
    question, removals = run_once(tmp_path, overwrite=True)
    assert len(removals) == 1 and "患者3天前头痛" in question.input


@pytest.mark.parametrize(
    ("section", "text", "known"),
    [
        ("既往史", "高血压病史10年。", ("高血压病3级",)),
        ("现病史", f"{HISTORY}既往有高血压。", ("高血压病3级",)),
        ("既往史", "否认高血压。", ()),
        ("家族史", "父亲有高血压。", ()),
        ("既往史", "曾患脑积水。", ()),
        ("诊治经过", "监测血压，考虑高血压。", ()),
    ],
)
def test_a_known_comorbidity_is_told_beside_the_question_and_stays_in_it(
    section: str, text: str, known: tuple[str, ...]
) -> None:
    config = Config(input=Path("in"), out=Path("nowhere"))
    (question,), *_ = prepare([make_case(**{section: text})], config, Counter())
    assert question.known == known
    assert not known or "高血压" in question.input


@pytest.mark.parametrize("complaint", ["脑积水3天。", "脑 积 水半年余"])
def test_a_complaint_that_is_the_answer_is_not_asked(complaint: str) -> None:
    dropped: Counter[str] = Counter()
    prepare([make_case(主诉=complaint)], Config(input=Path("in"), out=Path("nowhere")), dropped)
    assert dropped == {"answer_is_complaint": 1}


def test_a_known_disease_in_the_complaint_is_asked_under_another_word() -> None:
    config = Config(input=Path("in"), out=Path("nowhere"))
    (question,), *_ = prepare([make_case(主诉="脑积水病史2年。")], config, Counter())
    assert "【主诉】本病病史2年。" in question.input


def test_an_english_course_that_names_the_answer_often_is_asked_without_it() -> None:
    case = Case(
        id="files:1",
        source="files",
        sections={
            "主诉": "Painful toe for two days, no fever.",
            "查体": "The first joint of the left foot is red, hot and tender; pulse 88.",
            "诊治经过": "Treated for gout on day 1. " + "The gout team saw him again. " * 4,
        },
        diagnosis=("Gout", "Hypertension"),
        deidentified_by="test 1",
    )
    (question,), *_ = prepare([case], Config(input=Path("in"), out=Path("nowhere")), Counter())
    assert "gout" not in question.input.lower()
    assert question.reference == "Gout; Hypertension"


def test_an_answer_that_is_woven_through_the_findings_is_not_asked() -> None:
    dropped: Counter[str] = Counter()
    text = "频发脑积水本院3次，脑积水总数12次，术中标测脑积水起源于左侧，消融脑积水后消失。"
    prepare([make_case(辅助检查=text)], Config(input=Path("in"), out=Path("nowhere")), dropped)
    assert dropped == {"answer_woven_in": 1}
