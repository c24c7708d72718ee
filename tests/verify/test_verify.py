"""The stage on files, and what it says about each kind of spoiled rationale."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rationale_samples import make_labelled

from medkd.core.errors import InputError
from medkd.core.records import Checked, Cost, Question, Rationale, Usage
from medkd.grading.checks import Reason
from medkd.verify import Config, check_rationale, find_failure, run

RECORD = "【基本信息】男，45岁 【主诉】转移性右下腹痛12小时。 【现病史】12小时前脐周痛，后转至右下腹，无腹泻。"
RECORD += " 【查体】体温38.2℃，麦氏点压痛反跳痛。"
RECORD += " 【辅助检查】白细胞15.2×10^9/L。"
SOUND = "患者疼痛由脐周转移至右下腹，麦氏点压痛、反跳痛，体温38.2℃，白细胞15.2×10^9/L，提示局部化脓性炎症；无腹泻，胃肠炎依据不足。"


def make_rationale(number=1, split="train", **changes):
    question = Question(
        id=f"q:{number}",
        case_id=f"q:{number}",
        source="q",
        system="",
        instruction="",
        input=RECORD,
        reference="急性阑尾炎",
        split=split,
        deidentified_by="rules 1",
    )
    fields = {
        "reasoning": SOUND,
        "answer": "急性阑尾炎",
        "finish_reason": "stop",
        "complete": True,
    } | changes
    return Rationale(
        id=f"q:{number}",
        question=question,
        model="m",
        mode="rationalize",
        attempts=1,
        usage=Usage(),
        cost=Cost(),
        **fields,
    )


SPOILED = {
    Reason.INCOMPLETE: {"complete": False},
    Reason.NO_REASONING: {"reasoning": "  "},
    Reason.NO_ANSWER: {"answer": "\n"},
    Reason.TAG_INSIDE: {"reasoning": SOUND + "</think>" + SOUND},
    Reason.REFUSAL: {
        "reasoning": "很抱歉，我无法提供诊断，请前往正规医院就诊。作为AI助手，我不能代替医生进行诊断。"
        + SOUND
    },
    Reason.TOO_SHORT: {"reasoning": "阑尾炎。"},
    Reason.LANGUAGE_SWITCH: {
        "reasoning": "The patient has migratory pain in the right lower quadrant with fever and rebound tenderness so it is likely."
    },
    Reason.FILLER: {
        "reasoning": "嗯，让我仔细想一想。这个病例比较复杂，需要综合考虑各种因素，一步步分析。总之，结合症状和体征，可以作出判断。"
    },
    Reason.LOOP: {"reasoning": SOUND + "因此考虑阑尾炎，" * 30},
    Reason.LONG_ANSWER: {
        "answer": "急性阑尾炎。"
        + "建议尽快完善血常规与腹部彩超，联系外科会诊评估手术指征；术前禁食补液，给予抗生素，监测体温和腹部体征。"
        * 3
    },
    Reason.WRONG_DIAGNOSIS: {"answer": "慢性阑尾炎"},
    Reason.HINT_LEAK: {"reasoning": "根据给出的诊断，本例应为急性阑尾炎。" + SOUND},
    Reason.IDENTIFIER: {"reasoning": SOUND + "联系电话13912345678。"},
    Reason.COPY: {"reasoning": RECORD},
    Reason.UNGROUNDED: {
        "reasoning": "转移性右下腹痛，麦氏点压痛反跳痛，体温40.5℃，心率132次/分，白细胞22.7，C反应蛋白180，"
        "右下腹压痛明显，考虑阑尾化脓，需要尽快处理。"
    },
}


def write(path, rationales):
    path.write_text("".join(row.model_dump_json() + "\n" for row in rationales), encoding="utf-8")


TRADITIONAL = (
    "患者疼痛由臍周轉移至右下腹，麥氏點壓痛、反跳痛，體溫38.2℃，白細胞15.2×10^9/L，"
    "提示局部化膿性炎癥；無腹瀉，胃腸炎依據不足，綜合症狀與體徵，符合闌尾發炎的經過。"
)


def find_reasons(rationale):
    verdicts = check_rationale(rationale, Config(input=Path(), out=Path()))
    return [verdict.reason for verdict in verdicts if not verdict.passed]


def with_record(rationale, record):
    question = rationale.question.model_copy(update={"input": record})
    return rationale.model_copy(update={"question": question})


@pytest.mark.parametrize("reasoning", [TRADITIONAL, SOUND + TRADITIONAL, TRADITIONAL + SOUND])
def test_a_change_of_script_is_seen(reasoning):
    assert find_reasons(make_rationale(reasoning=reasoning)) == [Reason.LANGUAGE_SWITCH]


def test_traditional_reasoning_about_a_traditional_record_stays():
    record = (
        "【主訴】轉移性右下腹痛12小時。【現病史】12小時前臍周痛，後轉至右下腹，無腹瀉。"
        "【查體】體溫38.2℃，麥氏點壓痛反跳痛。【輔助檢查】白細胞15.2×10^9/L。"
    )
    rationale = with_record(make_rationale(reasoning=TRADITIONAL, answer="急性闌尾炎"), record)
    assert find_reasons(rationale) == []
    assert Reason.LANGUAGE_SWITCH in find_reasons(with_record(make_rationale(), record))


def test_findings_are_looked_up_in_either_script():
    reasoning = TRADITIONAL.replace("38.2", "39.6").replace("15.2", "22.7") + "心率132次/分。"
    assert find_reasons(make_rationale(reasoning=reasoning))[0] == Reason.UNGROUNDED


@pytest.mark.parametrize("finish_reason", ["stop", "length", "", "content_filter", "abort"])
def test_what_never_came_to_a_good_end_is_rejected(finish_reason, tmp_path):
    rows = [make_rationale(1), make_rationale(2, complete=False, finish_reason=finish_reason)]
    write(tmp_path / "rationales.jsonl", rows)
    manifest = run(Config(input=tmp_path, out=tmp_path / "out"))
    assert manifest.counts.dropped == {"incomplete": 1}
    verified = (tmp_path / "out" / "verified.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Checked.model_validate_json(line).rationale.id for line in verified] == ["q:1"]


def test_a_sound_rationale_passes_every_check(tmp_path):
    assert (
        find_failure(
            Checked(
                rationale=make_rationale(),
                verdicts=check_rationale(make_rationale(), Config(input=tmp_path, out=tmp_path)),
            )
        )
        is None
    )


@pytest.mark.parametrize("reason", SPOILED)
def test_a_spoiled_rationale_falls_for_its_own_reason(reason, tmp_path):
    rationale = make_rationale(**SPOILED[reason])
    failure = find_failure(
        Checked(
            rationale=rationale,
            verdicts=check_rationale(rationale, Config(input=tmp_path, out=tmp_path)),
        )
    )
    assert failure is not None
    assert failure.reason == reason


def test_an_english_leak_is_found_too(tmp_path):
    rationale = make_rationale(reasoning=SOUND + " This matches the provided diagnosis.")
    reasons = {
        verdict.reason
        for verdict in check_rationale(rationale, Config(input=tmp_path, out=tmp_path))
    }
    assert Reason.HINT_LEAK in reasons


@pytest.mark.parametrize(
    ("reasoning", "falls"),
    [
        ("本例为急性阑尾炎患者。" + SOUND, True),
        ("首先考虑急性阑尾炎。" + SOUND, False),
        ("患者以转移性右下腹痛起病。急性阑尾炎可以解释。" + SOUND, False),
    ],
)
def test_an_answer_named_at_once_as_a_given_is_a_leak(reasoning, falls, tmp_path):
    reasons = {
        v.reason
        for v in check_rationale(
            make_rationale(reasoning=reasoning), Config(input=tmp_path, out=tmp_path)
        )
    }
    assert (Reason.HINT_LEAK in reasons) == falls


def test_an_open_question_is_spared_what_needs_a_diagnosis(tmp_path):
    question = make_rationale().question.model_copy(
        update={"input": "阑尾炎为什么会转移性疼痛？", "reference": ""}
    )
    rationale = make_rationale(answer="因为内脏痛与躯体痛的传导不同。" * 20).model_copy(
        update={"question": question}
    )
    checks = {
        verdict.check
        for verdict in check_rationale(rationale, Config(input=tmp_path, out=tmp_path))
    }
    assert not checks & {"diagnosis", "brevity", "grounding", "filler"}
    assert "hint" in checks


def test_the_labelled_set_is_told_apart():
    """At least 95 % on either side, whatever the seed; `bench/verify.py` prints the whole table."""
    config = Config(input=Path(), out=Path())
    for seed in (11, 12):
        labelled = make_labelled(100, seed)
        passes = [
            find_failure(Checked(rationale=r, verdicts=tuple(check_rationale(r, config)))) is None
            for _, r in labelled
        ]
        sound = [passed for passed, (fault, _) in zip(passes, labelled, strict=True) if not fault]
        spoiled = [passed for passed, (fault, _) in zip(passes, labelled, strict=True) if fault]
        assert len(sound) == len(spoiled) == 100
        assert sum(sound) >= 95
        assert sum(spoiled) <= 5


def test_a_row_put_back_by_hand_is_merged(tmp_path):
    from medkd.merge.stage import Config as MergeConfig
    from medkd.merge.stage import run as merge

    write(tmp_path / "rationales.jsonl", [make_rationale(1), make_rationale(2, answer="胆囊炎")])
    out = tmp_path / "verify"
    run(Config(input=tmp_path, out=out))
    with (out / "verified.jsonl").open("a", encoding="utf-8") as file:
        file.write((out / "rejected.jsonl").read_text(encoding="utf-8"))
    assert merge(MergeConfig(input=(out,), out=tmp_path / "merge", near=1)).counts.read == 2


def test_the_stage_sorts_rows_and_counts_reasons(tmp_path):
    rows = [
        make_rationale(1),
        make_rationale(2, "test", answer="胆囊炎"),
        make_rationale(3, reasoning="参考答案为阑尾炎。", answer="肺炎"),
    ]
    source = tmp_path / "rationales.jsonl"
    write(source, rows)
    with source.open("a", encoding="utf-8") as file:
        file.write('{"id": broken\n')
    manifest = run(Config(input=tmp_path, out=tmp_path / "out"))
    assert manifest.counts.read == 4
    assert manifest.counts.kept == 1
    assert manifest.counts.dropped == {"broken_line": 1, "wrong_diagnosis": 1, "too_short": 1}
    assert manifest.facts["failures"]["wrong_diagnosis"] == 2
    assert manifest.facts["rejected_by_split"] == {"test": 1, "train": 1}
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Checked.model_validate_json(line).rationale.id for line in rejected] == ["q:2", "q:3"]


def test_nothing_sound_is_said_in_one_line_and_the_rejected_can_be_read(tmp_path):
    write(tmp_path / "rationales.jsonl", [make_rationale(answer="肺炎")])
    with pytest.raises(InputError, match=r"no rationale is sound \(wrong_diagnosis 1\)"):
        run(Config(input=tmp_path, out=tmp_path / "out"))
    assert (tmp_path / "out" / "rejected.jsonl").stat().st_size > 0


def test_a_file_of_another_stage_is_refused(tmp_path):
    (tmp_path / "rationales.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(InputError, match="this is no Rationale file"):
        run(Config(input=tmp_path, out=tmp_path / "out"))


def with_task(rationale, task, question, reference, language="zh"):
    update = {"task": task, "input": question, "reference": reference, "language": language}
    return rationale.model_copy(update={"question": rationale.question.model_copy(update=update)})


THOUGHT = "先看问题问的是睡眠，再想常见的原因：作息不规律、睡前看屏幕、焦虑。逐一排除之后，最可行的是先调整作息，再处理焦虑。"


def test_a_free_text_that_says_the_same_in_other_words_stays():
    rationale = make_rationale(reasoning=THOUGHT, answer="先固定起床时间，睡前不看手机。")
    asked = with_task(rationale, "open-question", "失眠怎么办？", "规律作息，减少屏幕时间。")
    assert find_reasons(asked) == []


def test_another_option_is_a_wrong_answer():
    for answer, reasons in (("B", []), ("C", [Reason.WRONG_ANSWER])):
        rationale = make_rationale(reasoning=THOUGHT, answer=answer)
        asked = with_task(rationale, "multiple-choice", "哪一项？\nA. 甲\nB. 乙\nC. 丙", "B")
        assert find_reasons(asked) == reasons


def test_a_rationale_is_held_to_the_language_of_its_question():
    english = "The question is about sleep. Usual causes are an irregular schedule, screens and worry. One by one, the schedule comes first."
    question = ("Why do I sleep badly?", "An irregular schedule.", "en")
    for reasoning, reasons in ((english, []), (THOUGHT, [Reason.LANGUAGE_SWITCH])):
        rationale = make_rationale(reasoning=reasoning, answer="An irregular schedule.")
        assert find_reasons(with_task(rationale, "open-question", *question))[:1] == reasons


def test_a_task_s_own_bounds_and_checks_hold(tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text(
        "name: short\nverify: {checks: [length, answer], min_reasoning: 500}\n", encoding="utf-8"
    )
    config = Config(input=Path(), out=Path(), task=str(task))
    asked = with_task(make_rationale(answer="随便"), "short", "失眠怎么办？", "规律作息。")
    verdicts = check_rationale(asked, config)
    assert [v.check for v in verdicts] == ["form", "length", "answer"]
    assert verdicts[1].reason == Reason.TOO_SHORT and verdicts[2].passed
    config = Config(input=Path(), out=Path(), task=str(task), min_f1=1)
    assert check_rationale(asked, config)[2].reason == Reason.UNDECIDED


def test_a_large_loss_is_said_with_the_next_step(tmp_path, capsys):
    rows = [make_rationale(1), make_rationale(2, reasoning="阑尾炎。")]
    write(tmp_path / "rationales.jsonl", rows)
    run(Config(input=tmp_path, out=tmp_path / "out"))
    assert (
        "warning: verify: 1 of 2 rows dropped as too short; read rejected.jsonl, or move the "
        "bound under verify in a task file" in capsys.readouterr().err
    )
    run(Config(input=tmp_path, out=tmp_path / "out"))
    assert "warning" not in capsys.readouterr().err


def write_answers(path, *answers):
    rows = [make_rationale(n, answer=answer) for n, answer in enumerate(answers)]
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    return path


def read_ids(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return {Checked.model_validate_json(line).rationale.id for line in lines}


def test_an_undecided_answer_is_kept_apart_and_never_rejected(tmp_path, capsys):
    path = write_answers(
        tmp_path / "rationales.jsonl", "急性阑尾炎", "阑尾炎", "急性胰腺炎", "急性化脓性阑尾炎"
    )
    manifest = run(Config(input=path, out=tmp_path / "out"))
    assert read_ids(tmp_path / "out" / "verified.jsonl") == {"q:0", "q:3"}
    assert read_ids(tmp_path / "out" / "undecided.jsonl") == {"q:1"}
    assert read_ids(tmp_path / "out" / "rejected.jsonl") == {"q:2"}
    assert manifest.counts.dropped == {"undecided": 1, "wrong_diagnosis": 1}
    assert "undecided.jsonl" in capsys.readouterr().err


def test_an_undecided_answer_of_an_unsound_rationale_is_rejected(tmp_path):
    rows = [make_rationale(0), make_rationale(1, answer="阑尾炎", reasoning="阑尾炎。")]
    path = tmp_path / "rationales.jsonl"
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    manifest = run(Config(input=path, out=tmp_path / "out"))
    assert read_ids(tmp_path / "out" / "rejected.jsonl") == {"q:1"}
    assert manifest.counts.dropped == {"too_short": 1}


def test_undecided_answers_are_taken_where_that_is_asked_for(tmp_path):
    path = write_answers(tmp_path / "rationales.jsonl", "急性阑尾炎", "阑尾炎", "急性胰腺炎")
    run(Config(input=path, out=tmp_path / "out", min_f1=0))
    assert read_ids(tmp_path / "out" / "verified.jsonl") == {"q:0", "q:1"}
    assert read_ids(tmp_path / "out" / "rejected.jsonl") == {"q:2"}


def test_names_of_one_code_of_a_table_are_one_diagnosis(tmp_path):
    table = tmp_path / "terms.csv"
    table.write_text("code,name\nK35.900,急性阑尾炎\nK35.900,蚓突急性发炎\n", encoding="utf-8")
    path = write_answers(tmp_path / "rationales.jsonl", "急性阑尾炎", "蚓突急性发炎")
    run(Config(input=path, out=tmp_path / "plain"))
    assert read_ids(tmp_path / "plain" / "verified.jsonl") == {"q:0"}
    manifest = run(Config(input=path, out=tmp_path / "out", terms=table))
    assert read_ids(tmp_path / "out" / "verified.jsonl") == {"q:0", "q:1"}
    assert any(name.endswith("terms.csv") for name in manifest.inputs)


WILD = st.text(max_size=200) | st.text(
    alphabet="患者发热无痛体温38.5℃，。、<think>/\n答案诊断为阑尾炎Ａ1²\x00\u200b\ud800 abc",
    max_size=400,
)


@settings(deadline=None, max_examples=200)
@given(WILD, WILD, WILD, WILD)
def test_any_texts_have_a_verdict_of_every_check_with_a_reason_where_they_fall(
    reasoning, answer, record, reference
):
    asked = with_record(make_rationale(reasoning=reasoning, answer=answer), record)
    question = asked.question.model_copy(update={"reference": reference})
    verdicts = check_rationale(
        asked.model_copy(update={"question": question}), Config(input=Path(), out=Path())
    )
    assert len({verdict.check for verdict in verdicts}) == len(verdicts)
    assert all(verdict.passed == (not verdict.reason) for verdict in verdicts)
