import json
import os
import struct

import pytest

from medkd.models.inspect import read_model_shape
from medkd.models.load import load_model
from medkd.train.config import make_lora_config
from medkd.train.doctor import draw_table, make_shape
from medkd.train.preflight import (
    GIB,
    Cause,
    Machine,
    Workload,
    count_trained,
    estimate_disk,
    estimate_memory,
    find_too_little_disk,
    find_too_little_memory,
)

SHAPE = Workload(rank=16, n_tokens=2048, weight_bytes=2, is_checkpointed=True, on_gpu=True)


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory):
    """Measure a folder of Qwen2.5-7B's shape whose weights are a header and a hole in the disk."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    folder = tmp_path_factory.mktemp("seven")
    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    write_sparse_weights(folder / "model.safetensors", model.state_dict())
    return read_model_shape(folder)


def write_sparse_weights(path, tensors):
    """Write the header of a safetensors file; the data after it take no disk."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)


def test_parameters_are_counted_as_the_model_itself_counts_them(tiny_model_dir):
    from peft import get_peft_model

    skeleton = read_model_shape(tiny_model_dir)
    model = load_model(str(tiny_model_dir), device="cpu", dtype="float32").model
    assert skeleton.n_parameters == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(model, make_lora_config(16, skeleton))
    assert count_trained(skeleton, "lora", 16) == sum(
        p.numel() for p in adapted.parameters() if p.requires_grad
    )


def test_the_worked_example_fits_where_it_is_known_to_fit(seven_billion):
    assert seven_billion.n_parameters == 7_615_616_512
    lora, qlora, full = (
        estimate_memory(seven_billion, method, SHAPE) / GIB for method in ("lora", "qlora", "full")
    )
    assert qlora < 16 < lora < 24 < 80 < full
    assert full > 16 * 7.6e9 / GIB


def test_what_is_shared_out_among_devices_grows_smaller(seven_billion):
    many = SHAPE._replace(n_devices=8)
    needs = [
        estimate_memory(seven_billion, "full", many, spread)
        for spread in ("ddp", "zero2", "zero3 / fsdp2")
    ]
    assert needs == sorted(needs, reverse=True)
    assert needs[2] < 24 * GIB


def test_too_little_memory_is_refused_with_what_would_fit(seven_billion):
    card = Machine("card", 1, 24 * GIB)
    assert find_too_little_memory(seven_billion, "lora", SHAPE, card) == []
    [finding] = find_too_little_memory(seven_billion, "full", SHAPE, card)
    assert (finding.cause, finding.is_repaired) == (Cause.MEMORY, False)
    assert "--method lora" in finding.fix
    [finding] = find_too_little_memory(
        seven_billion, "lora", SHAPE._replace(n_tokens=64 * 8192), card
    )
    assert "--batch-size" in finding.fix
    [finding] = find_too_little_memory(
        seven_billion, "full", SHAPE, Machine("processor", 1, 2 * GIB)
    )
    assert "smaller model" in finding.fix


def test_the_table_has_a_line_a_method_and_says_what_fits(seven_billion):
    lines = draw_table(seven_billion, SHAPE, Machine("card", 1, 24 * GIB))
    assert [line.split()[0] for line in lines[1:]] == ["lora", "qlora", "full"]
    assert [" ok" in line for line in lines[1:]] == [True, True, False]
    assert (
        "zero2"
        in draw_table(seven_billion, SHAPE._replace(n_devices=3), Machine("card", 3, 24 * GIB))[0]
    )


def test_a_disk_too_small_for_the_checkpoints_is_refused(seven_billion, tmp_path):
    assert (
        find_too_little_disk(estimate_disk(seven_billion, "lora", 16), tmp_path / "not" / "yet")
        == []
    )
    [finding] = find_too_little_disk(10**18, tmp_path / "not" / "yet")
    assert finding.cause == Cause.DISK and str(tmp_path) in finding.says
    # Those of a run that goes on are replaced, not added to.
    held = tmp_path / "begun/checkpoints/checkpoint-9/optimizer.pt"
    held.parent.mkdir(parents=True)
    held.touch()
    os.truncate(held, 10**12)
    assert find_too_little_disk(10**12 + 1, tmp_path / "begun") == []


def test_the_shape_of_a_published_model_is_that_of_its_config(seven_billion):
    made = make_shape("Qwen2.5-7B")
    assert sorted(made.linears) == sorted(seven_billion.linears)
    assert made.n_parameters == pytest.approx(seven_billion.n_parameters, rel=1e-3)
    assert make_shape("Qwen2.5-7B")[2:] == seven_billion[2:]
