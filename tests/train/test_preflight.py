import json
import shutil

import pytest
import torch

from medkd.core.errors import InputError
from medkd.models.chat_template import add_thinking_prefix
from medkd.models.inspect import read_model_shape
from medkd.models.load import load_model, load_tokenizer
from medkd.train.doctor import examine_served
from medkd.train.preflight import (
    IGNORED,
    Cause,
    TokenizedExample,
    examine,
    find_untrained_ids,
    refuse,
)
from medkd.train.stage import compare_packed
from student_samples import make_example


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


@pytest.fixture
def model_dir(random_model_dir, tmp_path):
    return shutil.copytree(random_model_dir, tmp_path / "model")


def look(folder, examples=None, target="reasoned", max_length=256, tokenizer=None):
    examples = [make_example(n) for n in range(4)] if examples is None else examples
    return examine(
        folder,
        read_model_shape(folder),
        examples,
        tokenizer or load_tokenizer(folder),
        target,
        max_length,
    )


def causes(flight):
    return {finding.cause for finding in flight.findings}


def mend_stops(folder):
    """Write every stop token into the generation config, as a sound model has it."""
    path = folder / "generation_config.json"
    stops = load_tokenizer(folder).convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": stops}))


def test_a_sound_model_and_sound_rows_give_no_finding(model_dir):
    mend_stops(model_dir)
    flight = look(model_dir)
    assert flight.findings == []
    assert all(row.labels[-1] == flight.end_id for row in flight.rows)


def test_long_rows_are_dropped_whole_and_counted(model_dir):
    flight = look(model_dir, [make_example(0), make_example(1, input="long " * 400)])
    finding = next(f for f in flight.findings if f.cause == Cause.ROWS_TOO_LONG)
    assert (finding.n_rows, finding.is_repaired, len(flight.rows)) == (1, True, 1)
    assert "--max-length" in finding.fix


def test_nothing_left_is_refused_and_says_why(model_dir):
    flight = look(model_dir, [make_example(0)], max_length=16)
    with pytest.raises(InputError, match="too_long 1"):
        refuse(flight.findings, "model")


def test_a_generation_that_stops_elsewhere_is_found_and_every_stop_listed(model_dir):
    flight = look(model_dir)
    assert Cause.STOPS_ELSEWHERE in causes(flight)
    assert load_tokenizer(model_dir).convert_ids_to_tokens(flight.stop_ids) == [
        "<|im_end|>",
        "<|endoftext|>",
    ]


def test_a_pad_token_that_ends_turns_is_found_and_replaced(model_dir):
    tokenizer = load_tokenizer(model_dir)
    tokenizer.pad_token = "<|im_end|>"
    flight = look(model_dir, tokenizer=tokenizer)
    assert Cause.PAD_ENDS_TURN in causes(flight)
    assert tokenizer.pad_token == "<|endoftext|>"


def test_a_model_without_a_template_is_refused_with_a_next_step(model_dir):
    tokenizer = load_tokenizer(model_dir)
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    flight = look(model_dir, tokenizer=tokenizer)
    assert causes(flight) == {Cause.NO_TEMPLATE}
    with pytest.raises(InputError, match="ChatML"):
        refuse(flight.findings, "model")


def test_a_dataset_that_asks_mostly_with_instructions_is_told(model_dir):
    examples = [make_example(n, style="instructed", instruction="Think first.") for n in range(4)]
    assert Cause.FEW_BARE_QUESTIONS in causes(look(model_dir, examples))
    assert Cause.FEW_BARE_QUESTIONS not in causes(look(model_dir))


@pytest.mark.parametrize("is_tied", [True, False])
def test_tokens_that_nobody_trained_are_found_in_the_files_as_input_and_as_output(
    model_dir, is_tied
):
    loaded = load_model(str(model_dir), device="cpu", dtype="float32")
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = loaded.model.get_output_embeddings()
    if not is_tied:
        loaded.model.config.tie_word_embeddings = False
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    assert look(model_dir).untrained_ids == []
    with torch.no_grad():
        head.weight[end] *= 0.01
    loaded.model.save_pretrained(model_dir)
    shape = read_model_shape(model_dir)
    assert (shape.input_name == shape.output_name) is is_tied
    assert look(model_dir).untrained_ids == [end]


def test_embedding_rows_that_were_never_trained_are_found(random_model_dir):
    loaded = load_model(str(random_model_dir), device="cpu", dtype="float32")
    end, start = loaded.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    row = TokenizedExample([start, 40, 41, 42, 43, end], [IGNORED] * 5 + [end])
    weights = loaded.model.get_input_embeddings().weight.detach().clone()
    assert find_untrained_ids(weights, [row], [start, end]) == []
    weights[end] *= 0.01
    assert find_untrained_ids(weights, [row], [start, end]) == [end]
    weights[start] = weights[200]
    assert find_untrained_ids(weights, [row], [start, end]) == [start, end]


def test_packed_rows_that_see_each_other_are_found(random_model_dir, monkeypatch):
    model = load_model(str(random_model_dir), device="cpu", dtype="float32").model
    rows = look(random_model_dir).rows
    assert compare_packed(model, rows) == []
    inner = model.forward

    def forget_bounds(input_ids, position_ids, **options):
        return inner(
            input_ids=input_ids, position_ids=torch.arange(input_ids.shape[1])[None], **options
        )

    monkeypatch.setattr(model, "forward", forget_bounds)
    assert [finding.cause for finding in compare_packed(model, rows)] == [Cause.PACKED_OTHERWISE]


def test_a_model_to_be_served_must_begin_to_think_and_stop_with_its_turn(model_dir):
    found = {finding.cause for finding in examine_served(model_dir, load_tokenizer(model_dir))}
    assert found == {Cause.SERVED_OTHERWISE, Cause.STOPS_ELSEWHERE}
    tokenizer = load_tokenizer(model_dir)
    tokenizer.chat_template = add_thinking_prefix(tokenizer.chat_template)
    mend_stops(model_dir)
    assert examine_served(model_dir, tokenizer) == []


THOUGHT = "{{- '<think>\\n\\n</think>\\n\\n' }}"
TEMPLATES = {
    "thinks only if told": "{%- if not (enable_thinking is defined and enable_thinking) %}"
    + THOUGHT
    + "{%- endif %}",
    "thinks unless told": "{%- if enable_thinking is defined and not enable_thinking %}"
    + THOUGHT
    + "{%- endif %}",
    "always writes an empty thought": THOUGHT,
    "opens the thought": "{{- '<think>\\n' }}",
    "opens it without a line break": "{{- '<think>' }}",
    "plain": "",
}


@pytest.mark.parametrize("ending", TEMPLATES.values(), ids=TEMPLATES)
def test_a_row_holds_one_thought_whatever_the_template_writes(model_dir, ending):
    tokenizer = load_tokenizer(model_dir)
    tokenizer.chat_template += "{%- if add_generation_prompt %}" + ending + "{%- endif %}"
    flight = look(model_dir, tokenizer=tokenizer)
    refuse(flight.findings, "model")
    for row in flight.rows:
        text = tokenizer.decode(row.input_ids)
        assert text.count("<think>") == text.count("</think>") == 1
        assert text.endswith("<|im_end|>")


def test_a_template_without_system_is_one_line_and_keeps_the_text(model_dir):
    tokenizer = load_tokenizer(model_dir)
    refusal = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{%- endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    flight = look(model_dir, [make_example(0, system="You are kind.")], tokenizer=tokenizer)
    [finding] = [f for f in flight.findings if f.cause == Cause.NO_SYSTEM_TURN]
    assert "takes no system text" in finding.tell() and "\n" not in finding.tell()
    assert "You are kind." in tokenizer.decode(flight.rows[0].input_ids)
