import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.core.config import make_config
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Case, Question
from medkd.core.task import load_task
from medkd.demo.synthetic_cases import generate_cases
from medkd.prepare.stage import Config, find_split, prepare, run

SYMPTOMS = [
    "头痛",
    "呕吐",
    "发热",
    "抽搐",
    "乏力",
    "纳差",
    "咳嗽",
    "胸闷",
    "心悸",
    "水肿",
    "腹痛",
    "腹泻",
    "消瘦",
    "盗汗",
    "耳鸣",
    "眩晕",
]


def tell(number: int) -> str:
    """Tell a story of its own for each number."""
    rng = random.Random(number)
    return (
        "，".join(
            f"{rng.randint(1, 99)}天前出现{rng.choice(SYMPTOMS)}并{rng.choice(SYMPTOMS)}"
            for _ in range(12)
        )
        + "。"
    )


def make_case(number: int | str, diagnosis: tuple[str, ...] = ("脑积水",), **sections: str) -> Case:
    return Case(
        id=f"iiyi:{number}",
        source="iiyi",
        sections=sections
        or {
            "主诉": "头痛3天。",
            "现病史": tell(int(number)),
            "诊治经过": "目前诊断脑积水，予脱水治疗。",
        },
        diagnosis=diagnosis,
        deidentified_by="test 1",
    )


def make(config: dict[str, Any] | None = None) -> Config:
    return Config(**({"input": Path("in"), "out": Path("out")} | (config or {})))


def test_a_question_has_the_record_format_and_its_answer_beside_it() -> None:
    questions, *_ = prepare([make_case(1, ("1.脑积水？", "2.高血压病"))], make(), Counter())
    question = questions[0]
    assert (question.id, question.case_id, question.deidentified_by) == (
        "iiyi:1",
        "iiyi:1",
        "test 1",
    )
    student = load_task("diagnosis").student
    assert (question.system, question.instruction) == (
        student.system["zh"],
        student.instructions["zh"][0],
    )
    assert question.input == f"【主诉】头痛3天。 【现病史】{tell(1)} 【诊治经过】予脱水治疗。"
    assert question.reference == "脑积水；高血压病"


def test_what_cannot_be_asked_is_dropped_with_a_reason() -> None:
    cases = [
        make_case(1),
        make_case(2, ()),
        make_case(3, 主诉="头痛。"),
        make_case(4, 诊治经过="予脱水治疗" * 20),
        make_case(5, 主诉="脑积水。", 诊治经过="诊断为脑积水。" * 20),
        make_case(6, 主诉="头痛。", 辅助检查="考虑脑积水。" * 20),
        make_case("1b", 主诉="头痛3天。", 现病史=tell(1), 诊治经过="考虑脑积水，予脱水治疗。"),
    ]
    dropped: Counter[str] = Counter()
    questions, *_ = prepare(cases, make(), dropped)
    assert [question.id for question in questions] == ["iiyi:1"]
    assert dropped == {
        "no_diagnosis": 1,
        "too_short": 1,
        "no_finding": 1,
        "answer_is_complaint": 1,
        "too_little_left": 1,
        "duplicate": 1,
    }


def test_an_answer_across_two_sections_is_not_asked() -> None:
    dropped: Counter[str] = Counter()
    prepare([make_case(1, ("主诉头痛",), 主诉="头痛" * 30, 现病史="伴呕吐。")], make(), dropped)
    assert dropped == {"answer_left": 1}


def test_the_manifest_tells_leaks_before_and_after() -> None:
    *_, facts = prepare([make_case(1), make_case(2, ("肺炎",))], make(), Counter())
    assert facts["leak_rate"]["诊治经过"] == {"before": 0.5, "after": 0.0}
    assert facts["leaky_questions"] == {"before": 1, "after": 0}


def test_new_cases_do_not_move_old_ones_and_shares_are_kept() -> None:
    config = make({"test_share": 0.3, "val_share": 0.1})
    few, *_ = prepare([make_case(n) for n in range(0, 400, 2)], config, Counter())
    many, *_ = prepare([make_case(n) for n in range(400)], config, Counter())
    splits = {question.id: question.split for question in many}
    assert all(splits[question.id] == question.split for question in few)
    assert 0.22 < Counter(splits.values())["test"] / len(splits) < 0.38
    assert find_split("iiyi:1", config) == find_split("iiyi:1", config)


@pytest.mark.parametrize("seed", range(8))
def test_few_cases_leave_no_split_empty(seed: int) -> None:
    config = make({"test_share": 0.2, "val_share": 0.1, "seed": seed})
    questions, *_ = prepare([make_case(n) for n in range(6)], config, Counter())
    assert {question.split for question in questions} == {"train", "val", "test"}


def test_two_postings_of_one_story_stand_in_the_same_split() -> None:
    config = make({"test_share": 0.5, "val_share": 0.0})
    stories = [
        make_case(f"{n}{version}", 主诉="头痛3天。", 现病史=tell(n), 查体=tell(1000 + 10 * n + i))
        for n in range(40)
        for i, version in enumerate("ab")
    ]
    splits = {question.id: question.split for question in prepare(stories, config, Counter())[0]}
    assert all(splits[f"iiyi:{n}a"] == splits[f"iiyi:{n}b"] for n in range(40))
    assert set(splits.values()) == {"train", "test"}


def test_nearly_the_same_record_is_dropped_and_a_similar_one_stays_in_its_split() -> None:
    config = make({"test_share": 0.5, "val_share": 0.0})
    cases: list[Case] = []
    for n in range(30):
        story = tell(n)
        cases.append(make_case(f"{n}a", 主诉="头痛。", 现病史=story))
        cases.append(make_case(f"{n}b", 主诉="头痛。", 现病史=story.replace("天前", "日前", 1)))
        cases.append(make_case(f"{n}c", 主诉="头痛。", 现病史=story + tell(500 + n)[:60]))
    dropped: Counter[str] = Counter()
    splits = {question.id: question.split for question in prepare(cases, config, dropped)[0]}
    assert dropped == {"near_duplicate": 30} and len(splits) == 60
    assert all(splits[f"iiyi:{n}a"] == splits[f"iiyi:{n}c"] for n in range(30))
    assert set(splits.values()) == {"train", "test"}


def test_a_user_s_words_of_answers_go_on_top_of_the_package_s(tmp_path: Path) -> None:
    write_records(
        tmp_path / "cases.jsonl",
        [make_case(1, ("脑积水",), 主诉="头痛3天。", 现病史=tell(1) + "外院考虑水脑症，未治。")],
    )
    table = tmp_path / "answers.yaml"
    table.write_text("synonyms: [[脑积水, 水脑症]]\n", encoding="utf-8")
    run(Config(input=tmp_path / "cases.jsonl", out=tmp_path / "without"))
    run(Config(input=tmp_path / "cases.jsonl", out=tmp_path / "with", answers=table))
    assert "水脑症" in (tmp_path / "without/questions.jsonl").read_text()
    assert "水脑症" not in (tmp_path / "with/questions.jsonl").read_text()


@pytest.mark.parametrize(
    "content", ["[", "- a", "synonyms: x", "findings: [[a]]", "other: 1", "generic: 1"]
)
def test_a_table_of_answers_that_is_none_is_refused_in_one_line(
    tmp_path: Path, content: str
) -> None:
    write_records(tmp_path / "cases.jsonl", [make_case(1)])
    (tmp_path / "answers.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"answers\.yaml: .*expected \"synonyms"):
        run(
            Config(
                input=tmp_path / "cases.jsonl",
                out=tmp_path / "out",
                answers=tmp_path / "answers.yaml",
            )
        )
    assert not (tmp_path / "out").exists()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.sampled_from(["主诉", "现病史", "查体", "诊断结果"]), st.text(max_size=90)
            ),
            st.text(max_size=12),
        ),
        max_size=3,
    )
)
def test_any_cases_can_be_prepared(drafts: list[tuple[dict[str, str], str]]) -> None:
    cases = [
        make_case(i, (diagnosis,), **sections) for i, (sections, diagnosis) in enumerate(drafts)
    ]
    questions, *_ = prepare(cases, make(), Counter())
    assert all("\n" not in q.input for q in questions if q.language == "zh")


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="leave nothing to train on"):
        make_config(
            Config, {"input": "a", "out": "b", "test_share": 0.6, "val_share": 0.4}, "recipe"
        )


def ask(cases: list[Case], **config: Any) -> tuple[list[Question], dict[str, Any], Counter[str]]:
    dropped: Counter[str] = Counter()
    questions, _, facts = prepare(cases, make(config), dropped)
    return questions, facts, dropped


def write_task(folder: Path, text: str) -> str:
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    return str(folder / "task.yaml")


def test_a_question_with_its_answer_is_asked_as_it_stands() -> None:
    cases = [
        make_case(1, (), 问题="失眠怎么办？", 答案="规律作息。"),
        make_case(2, (), question="Why do I\nsleep badly?", answer="Too much coffee."),
        make_case(3, (), question="No answer?"),
    ]
    questions, facts, dropped = ask(cases, task="open-question")
    assert [(q.input, q.reference, q.language, q.task) for q in questions] == [
        ("失眠怎么办？", "规律作息。", "zh", "open-question"),
        ("Why do I\nsleep badly?", "Too much coffee.", "en", "open-question"),
    ]
    assert dropped == {"no_answer": 1}
    assert facts["languages"] == {"zh": 1, "en": 1} and "leak_rate" not in facts


def test_the_language_is_decided_a_case_or_by_the_task(tmp_path: Path) -> None:
    story = "Headache for three days, then vomiting; no fever. " * 3
    cases = [make_case(1), make_case(2, ("hydrocephalus",), 主诉="Headache.", 现病史=story)]
    questions, _, _ = ask(cases)
    assert [question.language for question in questions] == ["zh", "en"]
    assert questions[1].input.startswith("Chief complaint: Headache.\nHistory of present illness: ")
    assert questions[1].instruction.startswith("Reason through the following patient record")
    task = write_task(
        tmp_path, "name: d\nlanguage: zh\nanswer: {section: 诊断结果, kind: diagnosis}\n"
    )
    assert {question.language for question in ask(cases, task=task)[0]} == {"zh"}


def test_sections_that_the_task_does_not_ask_are_offered_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {
        "主诉": "头痛3天。",
        "现病史": tell(1),
        "舌脉": "舌淡，脉细。",
        "诊断结果": "脑积水",
    }
    cases = [make_case(1, **sections)]
    write_records(tmp_path / "cases.jsonl", cases)
    manifest = run(Config(input=tmp_path / "cases.jsonl", out=tmp_path / "out"))
    assert manifest.facts["not_asked"] == {"舌脉": 1}
    assert "sections present and not asked: 舌脉 (1 cases)" in capsys.readouterr().err
    task = write_task(
        tmp_path,
        "name: tcm\nquestion: {sections: [主诉, 现病史, 舌脉]}\n"
        "answer: {section: 诊断结果, kind: diagnosis}\n",
    )
    questions, facts, _ = ask(cases, task=task)
    assert questions[0].input.endswith("【舌脉】舌淡，脉细。")
    assert facts["not_asked"] == {}


def test_a_diagnosis_may_stand_in_a_section_of_the_user_s(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        "name: tcm\nquestion: {sections: [主诉, 现病史]}\nanswer: {section: 证型, kind: diagnosis}\n",
    )
    case = make_case(1, ("脑积水",), 主诉="头痛3天，证属气虚证。", 现病史=tell(1), 证型="气虚证")
    (question,), _, _ = ask([case], task=task)
    assert question.reference == "气虚证" and "气虚证" not in question.input


def test_what_was_known_later_is_left_out_and_named() -> None:
    cases = [make_case(1, 主诉="头痛3天。", 现病史=tell(1), 查体="颈软。", 诊治经过="脱水治疗。")]
    (question,), facts, _ = ask(cases, until="现病史")
    assert question.input.endswith(tell(1))
    assert facts["after_until"] == {"既往史": 0, "查体": 1, "辅助检查": 0, "诊治经过": 1}
    assert facts["not_asked"] == {}
    assert [*ask(cases, until="History of present illness")[0]] == [question]
    with pytest.raises(InputError, match="did you mean '现病史'"):
        ask(cases, until="现病")


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [("choice", "肺炎", "hold no letter of an option"), ("number", "很多", "hold no number")],
)
def test_known_answers_of_another_kind_are_refused_in_one_line(
    tmp_path: Path, kind: str, answer: str, said: str
) -> None:
    write_records(tmp_path / "cases.jsonl", [make_case(1, (), question="怎么办？", answer=answer)])
    task = write_task(tmp_path, f"name: t\nanswer: {{section: answer, kind: {kind}}}\n")
    with pytest.raises(InputError, match=said):
        run(Config(input=tmp_path / "cases.jsonl", out=tmp_path / "out", task=task))


def test_a_task_whose_answer_no_case_has_names_the_sections_that_there_are(tmp_path: Path) -> None:
    write_records(tmp_path / "cases.jsonl", [make_case(1, (), question="怎么办？", 回复="休息。")])
    with pytest.raises(
        InputError, match=r"name yours in the task's answer\.section \(there are: 回复\)"
    ):
        run(Config(input=tmp_path / "cases.jsonl", out=tmp_path / "out", task="open-question"))


def test_all_planted_leaks_of_the_rehearsal_clinic_are_gone_and_little_else() -> None:
    clinic = generate_cases(300, seed=9)
    cases = [make_case(case.number, case.diagnosis, **case.sections) for case in clinic]
    questions, _, facts = prepare(cases, make(), Counter())
    asked = {question.id: question.input for question in questions}
    assert len(asked) == len(clinic)
    for case in clinic:
        text = asked[f"iiyi:{case.number}"]
        assert case.diagnosis[0] not in text
        assert not any(leak in text for leak in case.leaks)
        assert all(clue.text in text for clue in case.clues)
    n_planted = sum(len(leak) for case in clinic for leak in case.leaks)
    assert facts["characters"]["before"] - facts["characters"]["after"] <= n_planted


def test_the_stage_writes_questions_and_alpaca_rows(tmp_path: Path) -> None:
    write_records(tmp_path / "in" / "cases.jsonl", [make_case(1), make_case(2), make_case(3, ())])
    config = Config(input=tmp_path / "in", out=tmp_path / "out")
    manifest = run(config)
    assert (manifest.counts.read, manifest.counts.kept, manifest.counts.dropped) == (
        3,
        2,
        {"no_diagnosis": 1},
    )
    questions = list(RecordReader(tmp_path / "out" / "questions.jsonl", Question, "prepare"))
    rows = json.loads((tmp_path / "out" / "alpaca.json").read_text())
    assert [list(row) for row in rows] == [["system", "instruction", "input", "output"]] * 2
    assert [row["input"] for row in rows] == [question.input for question in questions]
    assert rows[0]["output"] == "脑积水"
    assert run(config).state == "finished"


def test_raw_cases_and_cases_without_diagnosis_are_refused_in_one_line(tmp_path: Path) -> None:
    raw = tmp_path / "raw_cases.jsonl"
    raw.write_text('{"id": "files:1", "source": "files", "sections": {"主诉": "发热"}}\n')
    with pytest.raises(
        InputError, match=r'raw_cases\.jsonl:1: no deidentified_by; .*run "medkd deidentify" first'
    ):
        run(Config(input=raw, out=tmp_path / "out"))
    write_records(tmp_path / "cases.jsonl", [make_case(1, ())])
    with pytest.raises(InputError, match="no question of the task diagnosis could be made"):
        run(Config(input=tmp_path / "cases.jsonl", out=tmp_path / "out2"))


def test_a_changed_prompt_prepares_nothing_again_and_a_changed_question_does(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "cases.jsonl", [make_case(1)])
    text = "name: d\nanswer: {section: 诊断结果, kind: diagnosis}\n"
    config = Config(
        input=tmp_path / "cases.jsonl", out=tmp_path / "out", task=write_task(tmp_path, text)
    )
    started = run(config).started_at
    write_task(tmp_path, text + "teacher: {system: 另一位教师}\n")
    assert run(config).started_at == started
    write_task(tmp_path, text + "question: {min_characters: 5}\n")
    with pytest.raises(InputError, match="the task file changed"):
        run(config)
