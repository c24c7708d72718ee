import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.models.chat_template import (
    PLAIN_CHATML,
    add_thinking_prefix,
    encode,
    encode_rows,
    find_end_of_turn,
    find_plain_template,
    find_prefix_mismatch,
    find_stop_ids,
    find_template,
    has_thinking_prefix,
    make_messages,
    remove_thinking_prefix,
    render,
    repair_pad_token,
    special_tokens,
)
from medkd.models.load import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


def test_a_thinking_template_opens_the_thinking_and_a_plain_one_does_not(tokenizer):
    messages = make_messages("【主诉】发热")
    assert render(tokenizer, messages, add_thinking_prefix(PLAIN_CHATML)).endswith(
        "<|im_start|>assistant\n<think>\n"
    )
    assert render(tokenizer, messages, PLAIN_CHATML).endswith("<|im_start|>assistant\n")


def test_the_prefix_is_added_once_and_can_be_taken_away_again():
    once = add_thinking_prefix(PLAIN_CHATML)
    assert add_thinking_prefix(once) == once
    assert remove_thinking_prefix(once) == PLAIN_CHATML


def test_a_finished_answer_gets_no_prefix(tokenizer):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}]
    text = tokenizer.apply_chat_template(
        turns, chat_template=add_thinking_prefix(PLAIN_CHATML), tokenize=False
    )
    assert "<think>" not in text


def test_an_instruction_stands_above_the_question():
    assert [m.content for m in make_messages("问", "任务", "系统")] == ["系统", "任务\n问"]


def test_the_end_of_turn_comes_first_among_the_stops_and_the_end_of_text_is_one(tokenizer):
    names = tokenizer.convert_ids_to_tokens(find_stop_ids(tokenizer))
    assert names[0] == "<|im_end|>"
    assert "<|endoftext|>" in names


@settings(max_examples=30, deadline=None)
@given(question=st.text(max_size=60), reasoning=st.text(min_size=1, max_size=60))
def test_training_and_serving_see_the_same_tokens(tokenizer, question, reasoning):
    messages = make_messages(question)
    (row,) = encode_rows(
        tokenizer,
        [(messages, thinking.write(reasoning, "答"))],
        PLAIN_CHATML,
        find_end_of_turn(tokenizer),
    )
    served = encode(tokenizer, render(tokenizer, messages, add_thinking_prefix(PLAIN_CHATML)))
    assert (row.prompt + row.completion)[: len(served)] == served
    assert row.completion[-1] == find_end_of_turn(tokenizer)
    assert find_prefix_mismatch(tokenizer, messages, PLAIN_CHATML) == ""


def test_a_model_without_a_template_is_asked_in_chatml(tiny_model_dir):
    bare = load_tokenizer(tiny_model_dir)
    bare.chat_template = None
    assert find_template(bare) == PLAIN_CHATML
    assert not has_thinking_prefix(bare)


def test_a_template_that_always_thinks_has_plain_chatml_as_its_plain_form(tiny_model_dir):
    r1 = load_tokenizer(tiny_model_dir)
    r1.chat_template = PLAIN_CHATML.replace("assistant\\n", "assistant\\n<think>\\n")
    assert has_thinking_prefix(r1)
    asked = render(r1, make_messages("?"), find_plain_template(r1))
    assert asked == render(r1, make_messages("?"), PLAIN_CHATML)


def test_a_template_that_ends_a_turn_with_plain_text_is_refused(tiny_model_dir):
    odd = load_tokenizer(tiny_model_dir)
    odd.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(InputError, match="no token of its own"):
        find_end_of_turn(odd)


def test_padding_with_the_end_of_turn_is_repaired(tiny_model_dir):
    broken = load_tokenizer(tiny_model_dir)
    broken.pad_token = "<|im_end|>"
    assert "changed to <|endoftext|>" in repair_pad_token(broken)
    assert repair_pad_token(broken) == ""


def test_control_tokens_are_known_and_the_thinking_tags_are_not_among_them(tokenizer):
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= set(special_tokens(tokenizer))
    assert "<think>" not in special_tokens(tokenizer)
