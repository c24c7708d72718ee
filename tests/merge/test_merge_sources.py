"""What can be merged: containers, schemas that are said, names on a hub, files that are not what
they should be."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from medkd.core.errors import InputError
from medkd.core.records import Example
from medkd.core.task import list_instructions
from medkd.merge.stage import Config, run
from medkd.text.hub_datasets import choose_files, fetch

O1 = {"Question": "头痛怎么办？", "Complex_CoT": "想一想。", "Response": "休息。"}


def write_json(path, rows):
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def read_examples(out):
    lines = [
        line
        for split in ("train", "val", "test")
        for line in (out / f"{split}.jsonl").open(encoding="utf-8")
    ]
    return [Example.model_validate_json(line) for line in lines]


def merge_one(path, tmp_path, **fields):
    run(Config(input=(path,), out=tmp_path / "out", **fields))
    (example,) = read_examples(tmp_path / "out")
    return example


TURNS = {
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "头痛怎么办？"},
            {"from": "gpt", "value": "<think>想一想。</think>休息。"},
        ]
    },
    "sharegpt with a system": {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "user", "value": "头痛怎么办？"},
            {"from": "assistant", "value": "<think>\n想一想。\n</think>\n\n休息。"},
        ]
    },
    "query and response": {
        "query": "头痛怎么办？",
        "response": "<think>想一想。</think>休息。",
        "history": [],
    },
    "content in parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "头痛怎么办？"}]},
            {"role": "assistant", "content": "休息。", "reasoning": "想一想。"},
        ]
    },
    "one of ours come back": {
        "instruction": list_instructions()[0],
        "input": "头痛怎么办？",
        "output": "<think>\n想一想。\n</think>\n\n休息。",
        "system": "你是一名专业的临床医生。",
    },
}


@pytest.mark.parametrize("name", TURNS)
def test_conversations_of_every_make_are_read(name, tmp_path):
    example = merge_one(write_json(tmp_path / "a.json", [TURNS[name]]), tmp_path)
    assert (example.input, example.reasoning, example.answer) == (
        "头痛怎么办？",
        "想一想。",
        "休息。",
    )


def test_of_a_conversation_the_last_answer_is_explained_and_the_turns_before_are_the_question(
    tmp_path,
):
    first = [
        {"from": "human", "value": "头痛。"},
        {"from": "gpt", "value": "<think>想</think>多久了？"},
    ]
    last = [
        {"from": "human", "value": "三天。"},
        {"from": "gpt", "value": "<think>不久。</think>休息。"},
    ]
    unanswered = {"from": "human", "value": "谢谢。"}
    rows = [
        {"conversations": [{"from": "system", "value": "S"}, *first, *last, unanswered]},
        {"instruction": "三天。", "output": last[1]["value"], "history": [["头痛。", "多久了？"]]},
    ]  # fmt: skip
    for row in rows:
        example = merge_one(write_json(tmp_path / "a.json", [row]), tmp_path / row.keys().__str__())
        assert example.input == "用户：头痛。\n助手：多久了？\n用户：三天。"
        assert (example.reasoning, example.answer) == ("不久。", "休息。")


def test_rows_without_reasoning_are_told_how_to_have_it_written(tmp_path, capsys):
    path = write_json(
        tmp_path / "qa.json", [{"问题": f"第{n}问？", "答案": "答"} for n in range(9)]
    )
    with pytest.raises(
        InputError, match=r"no_reasoning 9\).*medkd collect --source files.*distill"
    ):
        run(Config(input=(path,), out=tmp_path / "out"))
    assert "9 of 9 rows dropped as no reasoning" in capsys.readouterr().err


def test_csv_is_read_with_line_breaks_inside_cells(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(O1)
        writer.writerow(["头痛，\n怎么办？", "想一想。" * 40_000, "休息。"])
        writer.writerow(["too", "few"])
    manifest = run(Config(input=(path,), out=tmp_path / "out"))
    assert manifest.counts.kept == 1
    assert manifest.counts.dropped == {"broken_line": 1}


def test_parquet_is_read_whatever_its_suffix(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    pq.write_table(
        pa.Table.from_pylist([O1, {**O1, "Question": "别的问题是什么？", "Response": None}]),
        tmp_path / "a.data",
    )
    manifest = run(
        Config(
            input=(tmp_path / "a.data",),
            out=tmp_path / "out",
            val_share=0,
            test_share=0,
        )
    )
    assert manifest.counts.dropped == {"no_answer": 1}
    (row,) = (tmp_path / "out" / "train.jsonl").read_text("utf-8").splitlines()
    assert json.loads(row)["lineage"]["origin"] == "a.data"


def test_a_damaged_parquet_file_is_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="damaged Parquet"):
        run(Config(input=(tmp_path / "a.parquet",), out=tmp_path / "out"))


def test_a_schema_can_be_said(tmp_path):
    row = {
        "instruction": "头痛怎么办？",
        "output": "<think>想一想。</think>休息。",
        "question": 1,
        "think": 2,
        "answer": 3,
    }
    path = write_json(tmp_path / "a.json", [row])
    assert merge_one(path, tmp_path, row_schema=("a.json=alpaca",)).input == "头痛怎么办？"
    with pytest.raises(InputError, match="expected medical-o1: Complex_CoT, Question, Response"):
        run(Config(input=(path,), out=tmp_path / "b", row_schema=("medical-o1",)))
    with pytest.raises(InputError, match="did you mean 'alpaca'"):
        run(Config(input=(path,), out=tmp_path / "b", row_schema=("alpacca",)))
    with pytest.raises(InputError, match=r"no --input is called 'b\.json'"):
        run(Config(input=(path,), out=tmp_path / "b", row_schema=("b.json=alpaca",)))


def test_mixed_schemas_in_one_file_are_read_row_by_row(tmp_path):
    rows = [
        O1,
        {"instruction": "咳嗽要不要紧？", "output": "<think>看情况。</think>不要紧。"},
        {"price": 3},
    ]
    manifest = run(Config(input=(write_json(tmp_path / "a.json", rows),), out=tmp_path / "out"))
    assert manifest.counts.kept == 2
    assert manifest.counts.dropped == {"unknown_schema": 1}


def test_one_line_that_is_no_utf8_is_a_broken_one_and_gbk_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    line = json.dumps(O1, ensure_ascii=False).encode()
    path.write_bytes(line + b"\n" + line.replace("头痛".encode(), b"\xff\xfe") + b"\n")
    manifest = run(Config(input=(path,), out=tmp_path / "out"))
    assert manifest.counts.dropped == {"broken_line": 1}
    path.write_bytes(line.decode().encode("gbk"))
    assert merge_one(path, tmp_path / "gbk").input == O1["Question"]


def test_a_dataset_of_several_files_must_be_named_more_closely(tmp_path):
    for name in (
        "a.json",
        "b.json",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    with pytest.raises(
        InputError,
        match=r"holds several files \(a\.json, b\.json, data/train\.parquet\); name one, as in hf:o/n/a\.json",
    ):
        choose_files(tmp_path, "hf:o/n")
    assert [path.name for path in choose_files(tmp_path, "hf:o/n", "b.json")] == ["b.json"]
    assert len(choose_files(tmp_path, "hf:o/n", "data/*")) == 2
    with pytest.raises(InputError, match=r"no .* file named c\.json"):
        choose_files(tmp_path, "hf:o/n", "c.json")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="hf:nobody/nothing-at-all: cannot be fetched") as caught:
        fetch("hf:nobody/nothing-at-all")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no name of a dataset"):
        fetch("hf:nobody")


def test_a_long_reason_of_a_hub_ends_with_a_whole_word(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_, **__):
        raise OSError("unreachable " * 30)

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match=r"\((unreachable )+…\)"):
        fetch("hf:nobody/nothing-at-all/a.json")


def test_a_dataset_from_a_hub_is_read_from_its_files_and_keeps_its_address(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    write_json(folder / "train.json", [O1])
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options["repo_type"]))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    run(Config(input=("hf:owner/name",), out=tmp_path / "out"))
    (example,) = read_examples(tmp_path / "out")
    assert asked == [("owner/name", "dataset")]
    assert (example.source, example.lineage.url) == (
        "name",
        "https://huggingface.co/datasets/owner/name",
    )


def test_the_parts_of_a_folder_are_one_source(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    rows = [
        {"question": f"第{n}题：{chr(0x4E00 + n) * 9}？", "think": f"想{n}。", "answer": "答。"}
        for n in range(4)
    ]
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    (folder / "part-0.jsonl").write_bytes(b"".join(lines[:2]))
    (folder / "part-1.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[2:])))
    manifest = run(Config(input=(folder,), out=tmp_path / "out", near=1))
    assert manifest.facts["sources"] == {"notes": 4}
    assert [Path(path).name for path in manifest.inputs] == ["part-0.jsonl", "part-1.jsonl.gz"]
