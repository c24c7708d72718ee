"""Rows as the field writes them: read right, or dropped with the field that was wrong."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from openpyxl import Workbook

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.merge.sources import DropReason, read_row
from medkd.merge.stage import Config, run
from medkd.text.files import RawRow
from medkd.text.tables import SourceFile

QUESTION, REASONING, ANSWER = (
    "青年男性，右下腹痛3小时，最可能的诊断？",
    "麦氏点压痛，白细胞升高。",
    "急性阑尾炎",
)
TAGGED = f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"


def turns(said, asked=None, roles=("user", "assistant")):
    asked = asked or {"content": QUESTION}
    return [{"role": roles[0], **asked}, {"role": roles[1], **said}]


ROWS = {
    "NaN in input": {"instruction": QUESTION, "input": float("nan"), "output": TAGGED},
    "nan in input": {"instruction": QUESTION, "input": "nan", "output": TAGGED},
    "backslash N": {"instruction": QUESTION, "input": "\\N", "output": TAGGED, "history": ""},
    "empty list": {"instruction": QUESTION, "input": [], "output": TAGGED, "history": []},
    "repeated column": {"instruction": [QUESTION[:5], QUESTION[5:]], "output": TAGGED},
    "thinking": {"messages": turns({"thinking": REASONING, "content": ANSWER})},
    "reasoning": {"messages": turns({"reasoning": REASONING, "content": ANSWER})},
    "reasoning_content": {"messages": turns({"reasoning_content": REASONING, "content": ANSWER})},
    "thinking null, tags": {"messages": turns({"thinking": None, "content": TAGGED})},
    "parts": {
        "messages": turns(
            {"content": [{"type": "thinking", "thinking": REASONING}, {"type": "text", "text": ANSWER}]}
        )
    },
    "developer": {
        "messages": [{"role": "developer", "content": "S"}, *turns({"content": TAGGED})]
    },
    "capitals": {"Messages": [{"Role": "User", "Content": QUESTION}, {"Role": "ASSISTANT", "Content": TAGGED}]},
    "capital fields": {"Instruction": QUESTION, "Input": "", "Output": TAGGED},
    "upper question": {"QUESTION": QUESTION, "THINK": REASONING, "ANSWER": ANSWER},
    "human and ai": {"conversations": [{"from": "Human", "value": QUESTION}, {"from": "AI", "value": TAGGED}]},
    "json text": {"messages": json.dumps(turns({"content": TAGGED}))},
    "python text": {"conversations": str([{"from": "human", "value": QUESTION}, {"from": "gpt", "value": TAGGED}])},
    "beside alpaca": {"instruction": QUESTION, "output": ANSWER, "reasoning": REASONING},
    "thinking tags": {"instruction": QUESTION, "output": f"<thinking>{REASONING}</thinking>{ANSWER}"},
    "kimi": {"instruction": QUESTION, "output": f"◁think▷{REASONING}◁/think▷{ANSWER}"},
    "sky": {
        "instruction": QUESTION,
        "output": f"<|begin_of_thought|>\n{REASONING}\n<|end_of_thought|>\n<|begin_of_solution|>{ANSWER}<|end_of_solution|>",
    },
    "harmony": {
        "instruction": QUESTION,
        "output": f"<|channel|>analysis<|message|>{REASONING}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
    },
    "tags in both": {"question": QUESTION, "think": f"<reasoning>{REASONING}</reasoning>", "answer": ANSWER},
}  # fmt: skip


def read(content, **fields):
    return read_row(
        RawRow("a.json, item 1", content), SourceFile(Path("a"), "a", **fields), Counter()
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_every_make_is_read(name):
    example = read(ROWS[name]).example
    assert example.input.replace("\n", "") == QUESTION
    assert (example.reasoning, example.answer) == (REASONING, ANSWER)


WRONG = {
    "a number": ({"instruction": 3, "output": TAGGED}, "not_text", r"instruction is a number \(3\)"),
    "an object": ({"instruction": QUESTION, "output": {"a": 1}}, "not_text", "output is an object"),
    "no tag": (
        {"instruction": QUESTION, "output": ANSWER},
        "no_reasoning",
        "no field reasoning_content/reasoning/thinking, and no thinking tag in output",
    ),
    "an empty reasoning": ({"question": QUESTION, "think": None, "answer": ANSWER}, "no_reasoning", "think is empty"),
    "a null answer": ({"question": QUESTION, "think": REASONING, "answer": "null"}, "no_answer", "answer is empty"),
    "cut thinking": ({"instruction": QUESTION, "output": "<think>想"}, "no_reasoning", "output"),
    "a second tag": ({"instruction": QUESTION, "output": TAGGED + "</think>"}, "tag_inside", "</think> in the middle of output"),
    "a tool": ({"messages": turns({"content": TAGGED}, roles=("user", "tool"))}, "odd_turns", "user, tool; user and assistant wanted"),
    "no answer": ({"messages": turns({"content": TAGGED})[:1]}, "odd_turns", "field messages holds the turns user"),
    "text": ({"messages": "no list"}, "not_text", "field messages is no list of turns"),
    "content": ({"messages": turns({"content": {"a": 1}})}, "not_text", "content of the assistant's turn in messages is an object"),
    "unknown": ({"价格": 1}, "unknown_schema", "found fields: 价格"),
    "a list": ([1], "no_object", "a list in place of an object"),
    "a record of ours": (
        {"style": "bare", "input": "a", "reasoning": "b", "answer": "c", "lineage": {"origin": 3}},
        "invalid_record",
        "no id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_drop_reason_says_which_field_was_wrong(name):
    content, reason, detail = WRONG[name]
    dropped = read(content)
    assert dropped.reason == reason
    assert re.search(detail, dropped.detail), dropped.detail


@pytest.mark.parametrize(
    "fields",
    [{"deidentified_by": "rules 3"}, {"lineage": {"deidentified_by": "rules 3"}}, {"lineage": '{"deidentified_by": "rules 3"}'}],
)  # fmt: skip
def test_a_row_of_ours_that_comes_back_in_a_foreign_form_carries_its_mark(fields):
    for content in (
        {"instruction": QUESTION, "output": TAGGED},
        {"messages": turns({"content": TAGGED})},
    ):
        assert read({**content, **fields}).example.lineage.deidentified_by == "rules 3"
        assert read(content).example.lineage.deidentified_by == ""


def test_excel_and_csv_are_merged_like_json(tmp_path):
    book = Workbook()
    book.active.append(["instruction", "input", "output"])
    book.active.append([QUESTION, None, TAGGED])
    book.save(tmp_path / "a.xlsx")
    run(Config(input=(tmp_path / "a.xlsx",), out=tmp_path / "out", val_share=0, test_share=0))
    (line,) = (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert Example.model_validate_json(line).input == QUESTION


def test_a_large_share_of_dropped_rows_is_said_with_its_first_row_and_the_next_step(
    tmp_path, capsys
):
    good = {"instruction": QUESTION, "output": TAGGED}
    rows = [good, *({"instruction": n, "output": TAGGED} for n in range(8))]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    manifest = run(Config(input=(path,), out=tmp_path / "out"))
    assert (
        "warning: a.jsonl: 8 of 9 rows dropped as not text; the first is a.jsonl:2: instruction is a "
        "number (0); write that field as text"
    ) in capsys.readouterr().err
    assert manifest.facts["first_dropped"] == ["not_text: a.jsonl:2: instruction is a number (0)"]
    path.write_text("\n".join(json.dumps(row) for row in rows[1:]), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"no row could be used \(not_text 8\); the first: a.jsonl:1: instr"
    ):
        run(Config(input=(path,), out=tmp_path / "b"))


def test_a_file_whose_name_is_no_utf8_is_merged(tmp_path):
    path = tmp_path / "caf\udce9.json"
    path.write_text(json.dumps([{"instruction": QUESTION, "output": TAGGED}]), encoding="utf-8")
    found = read({"instruction": QUESTION, "output": TAGGED})
    assert found.example.id.startswith("a:") and DropReason.BROKEN == "broken_line"
    source = SourceFile(path, "x")
    example = read_row(RawRow("x", {"instruction": QUESTION, "output": TAGGED}), source, Counter())
    assert example.example.lineage.origin == "caf\\xe9.json"
