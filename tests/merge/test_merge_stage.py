"""Files of every schema in, one dataset out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.records import (
    Checked,
    Cost,
    Example,
    Question,
    Rationale,
    Usage,
    draw_split,
    hash_uniform,
)
from medkd.merge.stage import Config, run
from medkd.text.tables import read_rows


def write_json(path, rows):
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def make_checked(
    number, split="train", text="", reference="急性阑尾炎", reasoning="腹痛转移，麦氏点压痛。"
):
    question = Question(
        id=f"q:{number}", case_id=f"q:{number}", source="site", url=f"https://cases.example/{number}", system="S", instruction="I",
        input=text or f"【主诉】腹痛{number}天，伴{'发热咳嗽头晕乏力'[number % 8]}与第{number * 7919}号症状。",
        reference=reference, split=split, deidentified_by="rules 1",
    )  # fmt: skip
    rationale = Rationale(
        id=f"q:{number}", question=question, reasoning=reasoning, answer=reference, finish_reason="stop", complete=True, model="teacher",
        mode="rationalize", attempts=1, usage=Usage(), cost=Cost(amount=0.5),
    )  # fmt: skip
    return Checked(rationale=rationale, verdicts=())


def write_checked(directory, rows):
    directory.mkdir(exist_ok=True)
    (directory / "verified.jsonl").write_text(
        "".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8"
    )
    return directory


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_all(directory):
    return [
        Example.model_validate(row)
        for split in ("train", "val", "test")
        for row in read(directory / f"{split}.jsonl")
    ]


FOREIGN = {
    "o1": {"Question": "问：头痛怎么办？", "Complex_CoT": "想一想。", "Response": "休息。"},
    "r1": {
        "question": "问：头痛怎么办？",
        "reasoning (reasoning_content)": "想一想。",
        "response (content)": "休息。",
    },
    "psychology": {
        "input": "问：头痛怎么办？",
        "content": "休息。",
        "reasoning_content": "想一想。",
    },
    "hwtcm": {"instruction": "问：头痛怎么办？", "output": "<think>\n想一想。\n</think>\n\n休息。"},
    "no opening tag": {"instruction": "问：头痛怎么办？", "output": "想一想。</think>休息。"},
    "alpaca": {
        "instruction": "问：",
        "input": "头痛怎么办？",
        "output": "<think>想一想。</think>休息。",
        "system": "S",
    },
    "messages": {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "问：头痛怎么办？"},
            {"role": "assistant", "content": "<think>想一想。</think>休息。"},
        ]
    },
    "reasoning beside the content": {
        "messages": [
            {"role": "user", "content": "问：头痛怎么办？"},
            {"role": "assistant", "content": "休息。", "reasoning_content": "想一想。"},
        ]
    },
    "tags around the reasoning": {
        "question": "问：头痛怎么办？",
        "think": "<think>想一想。</think>",
        "answer": "休息。",
    },
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("as_lines", [True, False])
def test_every_schema_yields_question_reasoning_and_answer(name, as_lines, tmp_path):
    path = (write_lines if as_lines else write_json)(tmp_path / "data.json", [FOREIGN[name]])
    run(Config(input=path, out=tmp_path / "out"))
    (example,) = read_all(tmp_path / "out")
    assert example.input.replace("\n", "") == "问：头痛怎么办？"
    assert (example.reasoning, example.answer) == ("想一想。", "休息。")
    assert example.reference == ""
    assert example.source == "data"


def test_known_rows_keep_their_split_and_lineage(tmp_path):
    rows = [make_checked(1, "train"), make_checked(2, "val"), make_checked(3, "test")]
    manifest = run(Config(input=write_checked(tmp_path / "verify", rows), out=tmp_path / "out"))
    assert manifest.facts["splits"] == {"train": 1, "val": 1, "test": 1}
    (row,) = read(tmp_path / "out" / "test.jsonl")
    assert row["id"] == "q:3"
    assert row["reference"] == "急性阑尾炎"
    assert row["lineage"]["teacher"] == "teacher"
    assert row["lineage"]["cost"]["amount"] == 0.5


def test_a_test_question_never_stands_in_train(tmp_path):
    text = "【主诉】反复上腹部隐痛三年，加重伴黑便两天。【查体】贫血貌，剑突下压痛。"
    rows = [
        make_checked(1, "train", text + "！", reasoning="很长的推理" * 30),
        make_checked(2, "test", text),
    ]
    manifest = run(Config(input=write_checked(tmp_path / "verify", rows), out=tmp_path / "out"))
    assert manifest.counts.dropped == {"exact_duplicate": 1}
    assert [example.id for example in read_all(tmp_path / "out")] == ["q:2"]
    assert json.loads((tmp_path / "out" / "duplicates.json").read_text()) == [
        {"id": "q:1", "of": "q:2", "exact": True, "similarity": 1.0}
    ]


def test_near_duplicates_go_and_cases_with_another_diagnosis_stay(tmp_path, capsys):
    text = "".join(f"第{n}句说明病情变化与处理经过的内容{n * 7919}" for n in range(30))
    near = text.replace("第7句", "第八句")
    rows = [
        make_checked(1, text=text, reference="肺炎"),
        make_checked(2, text=near, reference="肺结核"),
        make_checked(3),
    ]
    manifest = run(Config(input=write_checked(tmp_path / "two cases", rows), out=tmp_path / "a"))
    assert manifest.counts.kept == 3
    rows[1] = make_checked(2, text=near, reference="肺炎", reasoning="更长也更好的一段推理。")
    manifest = run(Config(input=write_checked(tmp_path / "one case", rows), out=tmp_path / "b"))
    assert manifest.counts.dropped == {"near_duplicate": 1}
    assert "merge: 1 of 3 rows dropped as near duplicate; their" in capsys.readouterr().err
    (repeat,) = json.loads((tmp_path / "b" / "duplicates.json").read_text())
    assert (repeat["id"], repeat["of"], repeat["exact"]) == ("q:1", "q:2", False)
    manifest = run(Config(input=tmp_path / "one case", out=tmp_path / "c", near=1))
    assert manifest.counts.kept == 3


def test_styles_follow_the_share_and_only_in_train(tmp_path):
    rows = [make_checked(n, ("train", "train", "train", "val", "test")[n % 5]) for n in range(400)]
    run(Config(input=write_checked(tmp_path / "verify", rows), out=tmp_path / "out", near=1))
    train = [Example.model_validate(row) for row in read(tmp_path / "out" / "train.jsonl")]
    bare = [example for example in train if example.style == "bare"]
    instructed = [example for example in train if example.style == "instructed"]
    assert 0.65 < len(bare) / len(train) < 0.85
    assert all(not example.system and not example.instruction for example in bare)
    assert all(example.system and "<think>" in example.instruction for example in instructed)
    assert len({example.instruction for example in instructed}) > 3
    assert all(
        row["style"] == "bare"
        for split in ("val", "test")
        for row in read(tmp_path / "out" / f"{split}.jsonl")
    )


def test_an_open_question_is_not_asked_for_a_diagnosis(tmp_path):
    rows = [
        {"question": f"问题{n}的内容是什么呢{n * 7919}？", "think": "想", "answer": "答"}
        for n in range(40)
    ]
    run(Config(input=write_lines(tmp_path / "a.jsonl", rows), out=tmp_path / "out", bare_share=0))
    assert all("诊断" not in row["instruction"] for row in read(tmp_path / "out" / "train.jsonl"))


def test_the_layouts_say_the_same(tmp_path):
    run(
        Config(
            input=write_checked(tmp_path / "verify", [make_checked(n) for n in range(20)]),
            out=tmp_path / "out",
        )
    )
    out = tmp_path / "out"
    examples = [Example.model_validate(row) for row in read(out / "train.jsonl")]
    alpaca = json.loads((out / "llamafactory" / "medkd_train.json").read_text(encoding="utf-8"))
    conversations = [row["messages"] for row in read(out / "messages" / "train.jsonl")]
    info = json.loads((out / "llamafactory" / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["medkd_train"]["columns"] == {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
    }
    assert len(examples) == len(alpaca) == len(conversations) == 20
    for example, row, turns in zip(examples, alpaca, conversations, strict=True):
        assert (
            turns[-1]["content"]
            == row["output"]
            == thinking.write(example.reasoning, example.answer)
        )
        assert turns[-2]["content"] == "\n".join(
            part for part in (row["instruction"], row["input"]) if part
        )
        assert [turn["role"] for turn in turns] == (
            ["system", "user", "assistant"] if row["system"] else ["user", "assistant"]
        )


def test_the_card_names_sources_licences_counts_and_losses(tmp_path):
    open_rows = write_json(
        tmp_path / "medical_o1_sft_Chinese.json",
        [FOREIGN["o1"], {**FOREIGN["o1"], "Response": None}],
    )
    checked = write_checked(tmp_path / "verify", [make_checked(1)])
    run(Config(input=[open_rows, checked], out=tmp_path / "out"))
    card = (tmp_path / "out" / "DATACARD.md").read_text(encoding="utf-8")
    for part in (
        "license: other",
        "| medical-o1 | 1 | Apache-2.0 |",
        "| site | 1 | not stated |",
        "| no_answer | 1 |",
        "0.5 CNY",
        "n<1K",
    ):
        assert part in card


def test_a_merged_directory_can_be_merged_again(tmp_path):
    run(
        Config(
            input=write_checked(
                tmp_path / "verify", [make_checked(n, ("train", "test")[n % 2]) for n in range(8)]
            ),
            out=tmp_path / "a",
        )
    )
    run(Config(input=tmp_path / "a", out=tmp_path / "b"))
    for split in ("train", "test"):
        assert (tmp_path / "a" / f"{split}.jsonl").read_bytes() == (
            tmp_path / "b" / f"{split}.jsonl"
        ).read_bytes()


def test_rows_without_a_split_are_drawn_by_share_and_stay_where_they_are():
    splits = [
        draw_split(hash_uniform(0, "split", group), val_share=0.3, test_share=0.3)
        for group in range(1000)
    ]
    assert [round(splits.count(split) / 1000, 1) for split in ("train", "val", "test")] == [
        0.4,
        0.3,
        0.3,
    ]


def test_blank_and_wrong_values_are_counted_by_reason(tmp_path):
    good = FOREIGN["o1"]
    rows = [
        good,
        {**good, "Question": 5},
        {**good, "Question": "  "},
        {**good, "Complex_CoT": ""},
        {**good, "Response": "\n"},
        {"a": 1},
        7,
    ]
    rows.append({**good, "Question": "别的问题", "Response": "答<think>"})
    manifest = run(Config(input=write_json(tmp_path / "a.json", rows), out=tmp_path / "out"))
    assert manifest.counts.read == 8
    assert manifest.counts.kept == 1
    reasons = {
        "not_text",
        "no_question",
        "no_reasoning",
        "no_answer",
        "unknown_schema",
        "no_object",
        "tag_inside",
    }
    assert manifest.counts.dropped == dict.fromkeys(reasons, 1)


def test_no_row_to_train_on_is_said_and_the_rest_is_written(tmp_path, capsys):
    rows = [make_checked(n, split) for n, split in enumerate(("val", "test", "test"))]
    manifest = run(Config(input=write_checked(tmp_path / "verify", rows), out=tmp_path / "merge"))
    assert manifest.facts["splits"] == {"train": 0, "val": 1, "test": 2}
    assert "train.jsonl is empty: all 3 rows kept are of val and test" in capsys.readouterr().err


def test_a_broken_element_or_line_is_named_and_the_rest_goes_on(tmp_path, capsys):
    rows = [
        json.dumps({**FOREIGN["o1"], "Question": f"问题{n}"}, ensure_ascii=False) for n in range(3)
    ]
    (tmp_path / "array.json").write_text(
        f'[{rows[0]}, {{"Question": "断,\n}}, {rows[1]}]', encoding="utf-8"
    )
    (tmp_path / "lines.jsonl").write_text(f'{rows[2]}\n{{"Question": \n\n', encoding="utf-8")
    manifest = run(
        Config(input=[tmp_path / "array.json", tmp_path / "lines.jsonl"], out=tmp_path / "out")
    )
    assert manifest.counts.kept == 3
    assert manifest.counts.dropped == {"broken_line": 2}
    warnings = capsys.readouterr().err
    assert "array.json, item 2: broken JSON in line 1" in warnings
    assert "lines.jsonl:2: broken JSON" in warnings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (
            b'[{"price": 1, "city": "x"}]',
            "found fields: price, city; expected .*medical-o1: Complex_CoT, Question, Response",
        ),
        (b"\xff\xfe\x00", "neither UTF-8"),
        (b"hello", "no JSON"),
        (
            b'[{"Question": "", "Complex_CoT": "a", "Response": "b"}]',
            r"no row could be used \(no_question 1\); the first: a.json, item 1: Question is empty",
        ),
    ],
)
def test_an_unusable_file_is_one_line_with_the_next_step(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        run(Config(input=path, out=tmp_path / "out"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        run(Config(input=tmp_path / "nowhere.json", out=tmp_path / "out"))


def test_the_same_file_twice_changes_nothing(tmp_path):
    path = write_json(tmp_path / "a.json", [FOREIGN["o1"]])
    manifest = run(Config(input=[path, path], out=tmp_path / "out"))
    assert (manifest.counts.read, manifest.counts.kept) == (1, 1)


@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
        )
    )
)
def test_any_array_can_be_read_whole_and_cut(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("wild") / "a.json"
    text = json.dumps(rows)
    path.write_text(text, encoding="utf-8")
    assert [row.content for row in read_rows(path)] == rows
    path.write_text(text[: max(1, len(text) // 2)], encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json:1: "):
        list(read_rows(path))
