"""The folder that LLaMA-Factory reads, statistics and card."""

import json

import pytest
import yaml

from medkd.core.errors import InputError
from medkd.merge.stage import Config, run

ROWS = [
    {"question": f"第{n}个问题是什么{n * 7919}？", "think": "想" * (10 + n), "answer": "答"}
    for n in range(40)
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return path


def test_an_existing_registry_keeps_every_other_entry_in_its_order(source, tmp_path):
    data = tmp_path / "LLaMA-Factory" / "data"
    data.mkdir(parents=True)
    before = {
        "identity": {"file_name": "identity.json"},
        "中文": {"hf_hub_url": "a/b", "ranking": True, "columns": {"prompt": "p"}},
    }
    (data / "dataset_info.json").write_text(
        json.dumps(before, ensure_ascii=False), encoding="utf-8"
    )
    (data / "identity.json").write_text("[]")
    run(Config(input=(source,), out=tmp_path / "out", llamafactory=data))
    after = json.loads((data / "dataset_info.json").read_text(encoding="utf-8"))
    assert list(after) == ["identity", "中文", "medkd_train", "medkd_val", "medkd_test"]
    assert {name: after[name] for name in before} == before
    assert (data / "identity.json").read_text() == "[]"
    assert all(
        (data / after[f"medkd_{split}"]["file_name"]).exists() for split in ("train", "val", "test")
    )
    assert not (tmp_path / "out" / "llamafactory").exists()


@pytest.mark.parametrize("content", ["{broken", "[1]"])
def test_a_registry_that_cannot_be_read_is_left_alone(content, source, tmp_path):
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(InputError, match="mend it or give another --llamafactory"):
        run(Config(input=(source,), out=tmp_path / "out", llamafactory=tmp_path))
    assert (tmp_path / "dataset_info.json").read_text() == content
    assert not (tmp_path / "out").exists()


def test_the_recipe_has_the_worked_examples_settings_and_trims_no_row(source, tmp_path):
    long = {
        **ROWS[0],
        "question": "一个很长的问题？",
        "think": "".join(chr(0x4E00 + n) for n in range(3000)),
    }
    source.write_text(json.dumps([*ROWS, long], ensure_ascii=False), encoding="utf-8")
    run(Config(input=(source,), out=tmp_path / "out", val_share=0.2, test_share=0))
    folder = tmp_path / "out" / "llamafactory"
    recipe = yaml.safe_load((folder / "medkd_sft.yaml").read_text(encoding="utf-8"))
    wanted = {
        "lora_rank": 16,
        "lora_alpha": 32,
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": 2,
        "warmup_steps": 5,
    }
    wanted |= {
        "gradient_accumulation_steps": 8,
        "save_steps": 200,
        "template": "qwen",
        "cutoff_len": 4096,
        "learning_rate": 5e-5,
    }
    assert wanted.items() <= recipe.items()
    assert recipe["dataset"] == "medkd_train"
    assert recipe["eval_dataset"] == "medkd_val"
    assert json.loads((folder / recipe["deepspeed"]).read_text())["zero_optimization"]["stage"] == 2
    summary = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert summary["cut_offs"]["unit"] == "characters"
    assert [
        summary["cut_offs"]["trimmed"][bound]["rows"] for bound in ("2048", "4096", "8192")
    ] in ([1, 0, 0], [0, 0, 0])


def test_tokens_are_those_that_training_counts(source, tmp_path):
    pytest.importorskip("transformers")
    from medkd.core import thinking
    from medkd.core.records import Example
    from medkd.models.chat_template import (
        encode_rows,
        find_end_of_turn,
        find_plain_template,
        make_messages,
    )
    from medkd.models.load import load_tokenizer, shipped_dir

    run(
        Config(
            input=(source,), out=tmp_path / "out", tokenizer="medkd:tiny", val_share=0, test_share=0
        )
    )
    tokenizer = load_tokenizer(shipped_dir())
    template = find_plain_template(tokenizer) or ""
    lengths = []
    for line in (tmp_path / "out" / "train.jsonl").open(encoding="utf-8"):
        row = Example.model_validate_json(line)
        messages = make_messages(row.input, row.instruction, row.system)
        output = thinking.write(row.reasoning, row.answer)
        (encoded,) = encode_rows(
            tokenizer, [(messages, output)], template, find_end_of_turn(tokenizer)
        )
        lengths.append(len(encoded.prompt) + len(encoded.completion))
    summary = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert summary["cut_offs"]["unit"] == "tokens"
    assert summary["splits"]["train"]["tokens"]["max"] == max(lengths)
    assert summary["splits"]["train"]["tokens"]["median"] == sorted(lengths)[len(lengths) // 2]
