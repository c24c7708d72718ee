"""Damaged and hostile model folders: each is one line, never a trace, never weights made up."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medkd.core.errors import InputError
from medkd.models.chat_template import find_end_of_turn, find_stop_ids, find_templates
from medkd.models.inspect import find_number_format, read_generation_config, read_model_shape
from medkd.models.load import load_model, load_tokenizer, resolve_adapter, resolve_model
from student_samples import make_random_model

WRONG = (None, "x", -1, 1.5, [], {}, [{"a": 1}], 10**12, True, "\x1b[31m\nx", float("nan"))
DEEP = "[" * 100_000 + "]" * 100_000


def use(folder: Path, adapter: Path | None = None) -> None:
    """Everything that doctor, train, evaluate, export and chat read of a folder."""
    found = resolve_model(str(folder))
    read_model_shape(found)
    tokenizer = load_tokenizer(found, adapter and resolve_adapter(adapter))
    find_templates(tokenizer)
    find_end_of_turn(tokenizer)
    find_stop_ids(tokenizer, read_generation_config(found))
    find_number_format(found)
    load_model(str(folder), adapter and resolve_adapter(adapter), device="cpu", dtype="float32")


def try_mutants(mutants, write, folder: Path, adapter: Path | None = None) -> tuple[int, int]:
    """Use the folder as every mutant leaves it; count mutants and refusals."""
    n_refused = 0
    for mutant in mutants:
        write(mutant)
        try:
            use(folder, adapter)
        except InputError as error:
            n_refused += 1
            assert len(str(error).splitlines()) == 1, mutant
            assert str(error).isprintable(), mutant
        except Exception as error:
            raise AssertionError(f"{mutant!r} is no line but {error!r}") from error
    return len(mutants), n_refused


@pytest.fixture
def folder(random_model_dir, tmp_path):
    return Path(shutil.copytree(random_model_dir, tmp_path / "m"))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_field_of_any_other_type_is_read_or_refused_in_one_line(folder, name):
    good = json.loads((folder / name).read_text())
    more = ("max_length", "temperature", "top_k", "do_sample", "stop_strings", "pad_token_id")
    keys = dict.fromkeys((*good, *(more if name == "generation_config.json" else ())))
    mutants = [(key, value) for key in keys for value in WRONG]

    def write(mutant):
        (folder / name).write_text(json.dumps(good | {mutant[0]: mutant[1]}))

    n, n_refused = try_mutants(mutants, write, folder)
    assert n >= 40 and n_refused >= 10


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_a_file_that_is_no_object_is_refused(folder, name):
    path = folder / name
    for content in (b"", b"[]", b"null", b"{", b'{"a": 1', b"\xff\xfe{}", DEEP.encode(), b'"x"'):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            use(folder)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="no regular file"):
        use(folder)


def test_parts_of_a_tokenizer_are_read_or_refused_in_one_line(folder):
    path = folder / "tokenizer.json"
    good = json.loads(path.read_text())
    mutants = [((key,), value) for key in good for value in WRONG]
    mutants += [(("model", key), value) for key in good["model"] for value in WRONG]

    def write(mutant):
        *outer, key = mutant[0]
        part = dict(good["model"]) if outer else good
        changed = part | {key: mutant[1]}
        path.write_text(json.dumps(good | {"model": changed} if outer else changed))

    n, n_refused = try_mutants(mutants, write, folder)
    assert n >= 100 and n_refused >= 50


def test_no_tensor_is_ever_made_up(folder):
    weights = folder / "model.safetensors"
    good = load_file(weights)
    assert len(good) > 10
    for name in good:
        save_file({key: value for key, value in good.items() if key != name}, weights)
        with pytest.raises(InputError, match=f"lack {name}"):
            read_model_shape(folder)
        with pytest.raises(InputError, match="would be filled at random"):
            load_model(str(folder), device="cpu")
        save_file(good | {name: good[name][:-1].contiguous()}, weights)
        with pytest.raises(InputError, match=f"{name} has the shape"):
            read_model_shape(folder)
        with pytest.raises(InputError):
            load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 7,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b'{"a',
        struct.pack("<Q", 9) + b'{"a": []}',
        struct.pack("<Q", len(DEEP)) + DEEP.encode(),
    ],
    ids=["empty", "short", "long header", "list", "cut", "no entry", "deep"],
)
def test_weights_with_a_broken_header_are_one_line(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    for read in (read_model_shape, find_number_format, lambda f: load_model(str(f), device="cpu")):
        if read is find_number_format:
            config = json.loads((folder / "config.json").read_text())
            config.pop("dtype", None)
            (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "holder", ["../model.safetensors", "/etc/passwd", "gone.safetensors", 7, None]
)
def test_an_index_that_names_another_place_is_refused(folder, holder):
    index = {"weight_map": {"lm_head.weight": holder}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as caught:
        resolve_model(str(folder))
    assert "\n" not in str(caught.value)


def test_a_token_past_the_embedding_is_named(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<|late|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"<\|late\|> has the id 261, the embedding has 261 rows"):
        load_tokenizer(folder)


def test_names_that_are_no_text_and_templates_of_megabytes_are_one_line(folder, tmp_path):
    strange = tmp_path / os.fsdecode(b"m\xff\n")
    shutil.copytree(folder, strange)
    with pytest.raises(InputError) as caught:
        resolve_model(str(strange))
    assert str(caught.value).isprintable()
    (folder / "chat_template.jinja").write_text("{# " + "x" * (2 << 20) + " #}")
    with pytest.raises(InputError, match="larger than 1 MiB"):
        resolve_model(str(folder))


@pytest.mark.slow
def test_an_adapter_of_wrong_types_is_read_or_refused_in_one_line(
    random_model_dir, trained_dir, tmp_path
):
    adapter = Path(shutil.copytree(trained_dir / "adapter", tmp_path / "a"))
    path = adapter / "adapter_config.json"
    good = json.loads(path.read_text())
    mutants = [(key, value) for key in good for value in ("x", -1, [{"a": 1}], 10**12, "\x1b\n")]

    def write(mutant):
        path.write_text(json.dumps(good | {mutant[0]: mutant[1]}))

    n, n_refused = try_mutants(mutants, write, random_model_dir, adapter)
    assert n >= 100 and n_refused >= 30


def test_an_adapter_that_lacks_a_tensor_or_has_one_too_many_is_refused(
    random_model_dir, trained_dir, tmp_path
):
    adapter = Path(shutil.copytree(trained_dir / "adapter", tmp_path / "a"))
    weights = adapter / "adapter_model.safetensors"
    good = load_file(weights)
    first = sorted(good)[0]
    save_file({key: value for key, value in good.items() if key != first}, weights)
    with pytest.raises(InputError, match="would be filled at random"):
        load_model(str(random_model_dir), adapter, device="cpu")
    save_file(good | {first.replace("layers.0", "layers.9"): good[first].clone()}, weights)
    with pytest.raises(InputError, match="has no place for"):
        load_model(str(random_model_dir), adapter, device="cpu")


def test_an_adapter_of_another_vocabulary_is_refused(random_model_dir, trained_dir, tmp_path):
    adapter = Path(shutil.copytree(trained_dir / "adapter", tmp_path / "a"))
    other = make_random_model(tmp_path / "other", merges=[("a", "b")])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, adapter / name)
    with pytest.raises(InputError, match=r"another vocabulary|has the id"):
        load_tokenizer(random_model_dir, adapter)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_number_format_of_a_base_is_what_its_config_or_its_weights_say(folder, key, dtype):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("dtype", None)
    path.write_text(json.dumps(config | {key: dtype}))
    assert find_number_format(folder) == dtype
    path.write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    save_file({k: v.to(getattr(torch, dtype)) for k, v in load_file(weights).items()}, weights)
    assert find_number_format(folder) == dtype
