"""The shipped student: small, its own words, and what the rehearsal needs of a base."""

import json

import pytest

from medkd.models.load import shipped_dir


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shipped_dir())


def test_the_student_is_at_most_ten_megabytes_and_holds_no_pickle():
    files = [path for path in shipped_dir().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10 * 2**20
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl"}]


def test_every_common_hanzi_is_one_token(tokenizer):
    from tiny_corpus import common_hanzi

    assert len(common_hanzi()) == 3755
    assert all(len(ids) == 1 for ids in tokenizer(common_hanzi())["input_ids"])


def test_any_text_comes_back_as_it_was(tokenizer):
    text = "饕餮 α-酮戊二酸 ×10^9/L ①\n<think>\n发热</think> \U0001f600"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tags_and_turn_ends_are_single_tokens(tokenizer):
    assert all(
        len(tokenizer(token)["input_ids"]) == 1
        for token in ("<think>", "</think>", "<|im_start|>", "<|im_end|>")
    )
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_shipped_student_stops_on_the_tokens_it_was_trained_to_end_with(tokenizer):
    stops = json.loads((shipped_dir() / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(stops) == ["<|im_end|>", "<|endoftext|>"]


def test_a_saved_tokenizer_numbers_its_tokens_as_it_did_in_training(tmp_path):
    from transformers import AutoTokenizer

    from make_tiny_student import SPECIAL_TOKENS, train_tokenizer

    made = train_tokenizer(["发热三天，咳嗽有痰。"] * 3)
    made.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert [
        read.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS
    ] == made.convert_tokens_to_ids(list(SPECIAL_TOKENS))


def test_the_context_is_four_thousand_tokens():
    assert (
        json.loads((shipped_dir() / "config.json").read_text())["max_position_embeddings"] == 4096
    )


def test_the_card_says_what_it_was_trained_on():
    card = (shipped_dir() / "README.md").read_text(encoding="utf-8")
    assert "make_tiny_student.py" in card and "No real patient" in card


@pytest.mark.slow
def test_the_script_makes_a_student_of_the_same_shape(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from make_tiny_student import make_student

    make_student(tmp_path, n_documents=150, seed=1)
    shipped = json.loads((shipped_dir() / "config.json").read_text())
    made = json.loads((tmp_path / "config.json").read_text())
    assert {k: v for k, v in made.items() if k != "vocab_size"} == {
        k: v for k, v in shipped.items() if k != "vocab_size"
    }
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("发热", return_tensors="pt")
    assert model(**ids).logits.shape[-1] == made["vocab_size"]
