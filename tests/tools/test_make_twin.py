"""Twins of published models: the true tokenizer, and the road's tokens under each template."""

import json
import urllib.request

import pytest

from make_twin import TWINS, byte_characters, find_merges, make_twin, merge_below
from medkd.completers.llamacpp_engine import read_tokenizer
from medkd.core.records import Message
from medkd.core.thinking import PREFIX
from medkd.export.gguf import write_gguf
from medkd.models.chat_template import (
    encode,
    find_plain_template,
    find_prefix_mismatch,
    find_stop_ids,
    find_templates,
    make_messages,
    render,
)
from medkd.models.inspect import read_generation_config, read_model_shape
from medkd.models.load import load_tokenizer

QUESTION = "患者为中年男性，头痛"


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Make a twin of a kind, once."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = make_twin(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def test_a_token_falls_into_the_two_that_were_merged_last():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"abc": 4}
    assert find_merges(ranks) == [(b"a", b"b"), (b"ab", b"c")]
    assert merge_below(b"abcab", ranks, 4) == [b"ab", b"c", b"ab"]


def test_every_byte_has_a_printable_character_of_its_own():
    characters = byte_characters()
    assert sorted(characters) == list(range(256))
    assert len(set(characters.values())) == 256
    assert all(each.isprintable() for each in characters.values())


@pytest.mark.slow
def test_the_tokenizer_gives_the_ids_that_qwen_publishes(twin):
    tokenizer = load_tokenizer(twin("qwen2.5-instruct"))
    assert encode(tokenizer, QUESTION) == [101924, 17714, 15946, 7948, 105106, 3837, 109180]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|file_sep|>"]
    assert tokenizer.convert_tokens_to_ids(specials) == [151643, 151644, 151645, 151664]
    thinking = load_tokenizer(twin("qwen3"))
    assert thinking.convert_tokens_to_ids(["<think>", "</think>"]) == [151667, 151668]


@pytest.mark.slow
def test_a_twin_has_the_shape_and_the_stop_tokens_of_its_model(twin):
    shape = read_model_shape(twin("qwen2.5-7b-instruct"))
    assert shape.vocabulary == 152_064
    assert shape.output_name != shape.input_name
    assert read_generation_config(twin("qwen2.5-base")).eos_token_id == [151_643]
    assert read_generation_config(twin("qwen2.5-instruct")).eos_token_id == [151_645, 151_643]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TWINS)
def test_training_serving_and_llama_cpp_write_the_same_tokens(twin, kind, tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    folder = twin(kind)
    tokenizer = load_tokenizer(folder)
    plain = find_plain_template(tokenizer)
    tokenizer.chat_template = find_templates(tokenizer).thinking
    assert find_stop_ids(tokenizer, read_generation_config(folder))[0] == 151_645
    write_gguf(folder, tmp_path / "model.gguf", "q8_0", tokenizer)
    read = read_tokenizer(tmp_path / "model.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(tmp_path / "model.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 512, 1, 0
    parameters.warmup, parameters.use_jinja = False, True
    server = xllamacpp.Server(parameters)

    def post(path, body):
        request = urllib.request.Request(
            server.listening_address + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    answered = [Message(role="assistant", content="flu"), *make_messages("and now?")]
    for turns in (
        make_messages(QUESTION),
        make_messages(QUESTION, "说理由。"),
        [*make_messages(QUESTION), *answered],
    ):
        trained, served = render(tokenizer, turns, plain), render(tokenizer, turns)
        assert served == trained + PREFIX
        assert served.count("<think>") == 1
        assert find_prefix_mismatch(tokenizer, turns, plain) == ""
        messages = [turn.model_dump() for turn in turns]
        assert post("/apply-template", {"messages": messages})["prompt"] == served
        asked = {"content": served, "add_special": False, "parse_special": True}
        assert post("/tokenize", asked)["tokens"] == encode(tokenizer, served)
        assert encode(read, served) == encode(tokenizer, served)
