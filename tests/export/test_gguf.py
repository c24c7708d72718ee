"""The GGUF file of an exported folder: what it holds, that llama.cpp answers as transformers does,
and what is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from medkd.completers.llamacpp_engine import LlamaCppEngine, check_file, read_tokenizer
from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.errors import InputError
from medkd.core.records import FinishReason, Sampling
from medkd.export.gguf import _interleave, write_gguf
from medkd.models.chat_template import encode, find_stop_ids
from medkd.models.load import load_model, load_tokenizer

gguf = pytest.importorskip("gguf")
PROMPTS = [
    f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    for text in ("【主诉】心悸、多汗7周。", "【主诉】发热3天。", "【主诉】右上腹痛2天。")
]


@pytest.fixture(scope="module")
def written(tiny_model_dir, tmp_path_factory):
    """The shipped student in every type."""
    out = tmp_path_factory.mktemp("gguf")
    tokenizer = load_tokenizer(tiny_model_dir)
    for kind in ("f16", "bf16", "q8_0", "q4_0"):
        write_gguf(tiny_model_dir, out / f"{kind}.gguf", kind, tokenizer)
    return out


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("q8_0", 2e-2), ("q4_0", 2e-1)])
def test_every_tensor_comes_back_as_its_type_allows(written, tiny_model_dir, kind, tolerance):
    from medkd.models.inspect import read_headers, read_tensor

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 5)
    read = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(written / f"{kind}.gguf").tensors
    }
    headers = read_headers(tiny_model_dir)
    assert len(read) == len(headers)
    for name in headers:
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        ours = read_tensor(tiny_model_dir, name).float().numpy()
        assert np.abs(read[target] - ours).max() <= tolerance * np.abs(ours).max()


def test_tokens_template_and_stop_tokens_stand_in_the_file(written, tiny_model_dir):
    ours, theirs = load_tokenizer(tiny_model_dir), read_tokenizer(written / "q8_0.gguf")
    text = "<|im_start|>user\n体温37.1℃ Hello 123\n<think>\n……</think><|im_end|>"
    assert encode(theirs, text) == encode(ours, text)
    assert theirs.chat_template == ours.chat_template
    assert find_stop_ids(theirs)[0] == find_stop_ids(ours)[0]


def test_llama_cpp_answers_as_transformers_does(written, tiny_model_dir):
    sampling = Sampling(max_tokens=24)
    folder = TransformersEngine(load_model(str(tiny_model_dir), device="cpu", dtype="float32"))
    ours = {at: made.text for at, made in folder.generate(PROMPTS, sampling)}
    file = LlamaCppEngine(written / "f16.gguf", 256)
    theirs = {at: made.text for at, made in file.generate(PROMPTS, sampling)}
    assert theirs == ours


def test_a_prompt_that_leaves_no_room_is_answered_with_nothing(written):
    engine = LlamaCppEngine(written / "q4_0.gguf", 16)
    [(_, made)] = engine.generate(PROMPTS[:1], Sampling(max_tokens=8))
    assert (made.text, made.finish_reason) == ("", FinishReason.LENGTH)


def test_an_engine_that_was_never_asked_ends(written):
    lines = (
        "import sys",
        "from pathlib import Path",
        "from medkd.completers.llamacpp_engine import LlamaCppEngine",
        "for _ in range(8):",
        "    LlamaCppEngine(Path(sys.argv[1]), 16)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(written / "q4_0.gguf")]
    assert subprocess.run(command, timeout=300, check=False).returncode == 0


def test_rows_are_reordered_so_that_neighbours_turn_together():
    # transformers turns (x[i], x[i + d/2]), llama.cpp (x[2i], x[2i + 1]): equal products of q and k.
    width, heads, place = 8, 2, 5
    generator = np.random.default_rng(0)
    weights, x = generator.normal(size=(heads * width, 3)), generator.normal(size=3)
    angles = place * 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    halves = (weights @ x).reshape(heads, width)
    first, second = halves[:, : width // 2], halves[:, width // 2 :]
    turned = np.stack(
        [
            first * np.cos(angles) - second * np.sin(angles),
            first * np.sin(angles) + second * np.cos(angles),
        ]
    )
    pairs = (_interleave(weights, heads) @ x).reshape(heads, width // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned_pairs = np.stack(
        [even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)]
    )
    assert np.allclose(turned, turned_pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "its architecture 'gpt2' is not written here"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "its scaled positions (yarn)"),
    ],
)
def test_what_is_not_written_here_names_the_command_that_writes_it(
    tiny_model_dir, tmp_path, change, message
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError) as caught:
        write_gguf(folder, tmp_path / "x.gguf", "f16", load_tokenizer(tiny_model_dir))
    assert message in str(caught.value)
    assert f"convert_hf_to_gguf.py {tmp_path} --outtype f16" in str(caught.value)
    assert not (tmp_path / "x.gguf").exists()


def test_a_file_of_another_kind_and_a_cut_one_are_refused_in_one_line(written, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"no such thing")
    with pytest.raises(InputError, match="is no GGUF file"):
        check_file(other)
    with pytest.raises(InputError, match="no such file"):
        check_file(tmp_path / "missing.gguf")
    cut = tmp_path / "cut.gguf"
    whole = (written / "q8_0.gguf").read_bytes()
    for n_bytes in (30, 5_000, 500_000, len(whole) - 1_000):
        cut.write_bytes(whole[:n_bytes])
        with pytest.raises(InputError, match="is the file complete") as caught:
            LlamaCppEngine(cut, 64)
        assert "pip install" not in str(caught.value)


def test_a_file_of_an_unknown_architecture_is_refused_in_one_line(tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "nosuch")
    writer.add_tokenizer_model("gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="of a Qwen or Llama family") as caught:
        LlamaCppEngine(path, 64)
    assert "nosuch" in str(caught.value)


def test_without_the_package_it_is_named(written, monkeypatch):
    from transformers import AutoTokenizer

    def refuse(*_, **__):
        raise ImportError("gguf is missing")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(InputError, match=r"pip install 'medkd\[gguf\]'"):
        read_tokenizer(written / "q8_0.gguf")
