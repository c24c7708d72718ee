"""The rehearsal teacher's reasoning: it reads the record, cites it as it stands, and comes to the
known diagnosis."""

from medkd.demo.reasoning import explain, solve
from medkd.demo.synthetic_cases import generate_cases
from tiny_corpus import make_documents, record_line


def test_the_clinic_solves_its_own_cases_from_the_record_alone():
    cases = generate_cases(288, 21)
    assert [solve(record_line(case)) for case in cases] == [case.diagnosis[0] for case in cases]


def test_every_decisive_finding_is_cited_as_it_stands_in_the_record():
    for case in generate_cases(100, 22):
        reasoning = explain(record_line(case), case.diagnosis[0], seed=1)
        assert all(clue.text in reasoning and clue.means in reasoning for clue in case.clues)


def test_the_diagnosis_is_named_at_the_end_and_not_given_at_the_start():
    for case in generate_cases(100, 23):
        lines = explain(record_line(case), case.diagnosis[0]).splitlines()
        assert case.diagnosis[0] in lines[-1]
        assert case.diagnosis[0] not in lines[0]


def test_an_unknown_diagnosis_is_argued_from_the_findings_in_the_record():
    record = "【主诉】头痛3天。【现病史】头痛伴恶心呕吐2次，无发热。【辅助检查】血钾2.1mmol/L↓，CT示脑室扩大。"
    reasoning = explain(record, "脑积水")
    assert "血钾2.1mmol/L↓" in reasoning and "CT示脑室扩大" in reasoning
    assert "无发热" not in reasoning
    assert reasoning.endswith("因此考虑脑积水。")


def test_an_empty_record_still_gets_a_reasoning():
    assert explain("", "脑积水").endswith("因此考虑脑积水。")
    assert solve("") is None


def test_the_base_never_sees_a_whole_record_with_its_reasoning():
    documents = make_documents(400, 50, 2)
    thoughts = [document for document in documents if "<think>" in document.learnt]
    assert thoughts
    assert not [document for document in thoughts if "【主诉】" in document.context]
