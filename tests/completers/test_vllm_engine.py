import sys

import pytest

from fake_vllm import FakeEngine
from medkd.completers import vllm_engine
from medkd.completers.transformers_engine import (
    EngineUnavailableError,
    TransformersEngine,
    decode,
    draw_seed,
)
from medkd.completers.vllm_engine import VllmEngine, list_parameters, open_vllm
from medkd.core.errors import StoppedError
from medkd.core.records import FinishReason, Sampling
from medkd.models.chat_template import encode
from medkd.models.load import load_model

LONG = Sampling(max_tokens=200)


@pytest.fixture(scope="module")
def base(random_model_dir):
    """A model that writes on and on, now and then to its end."""
    return TransformersEngine(load_model(str(random_model_dir), device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def prompts():
    return [
        f"<|im_start|>user\ncase {n}: sign {'abc'[n % 3]}{'!' * (n % 5)}<|im_end|>\n<|im_start|>assistant\n"
        for n in range(9)
    ]


@pytest.fixture(scope="module")
def expected(base, prompts):
    return dict(base.generate(prompts, LONG))


def make_model(base, prompts, expected, is_looping=None, max_length=2048, **settings):
    written = {
        tuple(encode(base.tokenizer, prompt)): expected[at].ids for at, prompt in enumerate(prompts)
    }
    return VllmEngine(
        FakeEngine(written, **settings), dict, base.tokenizer, base.stop_ids, max_length, is_looping
    )


@pytest.mark.parametrize("n_a_step", [1, 3])
def test_what_the_engine_draws_is_read_as_the_other_generator_reads_its_own(
    base, prompts, expected, n_a_step
):
    assert {g.finish_reason for g in expected.values()} >= {FinishReason.LENGTH}
    assert (
        dict(make_model(base, prompts, expected, n_a_step=n_a_step).generate(prompts, LONG))
        == expected
    )


def test_an_answer_that_ends_by_itself_is_read_without_its_stop_token(base, prompts, expected):
    ended = {at: g._replace(ids=[*g.ids[:5], base.stop_ids[0]]) for at, g in expected.items()}
    for at, generation in make_model(base, prompts, ended).generate(prompts, LONG):
        assert generation.finish_reason == FinishReason.STOP and generation.n_tokens == 6
        assert generation.text == decode(base.tokenizer, expected[at].ids[:5])


def test_an_answer_is_given_out_as_soon_as_it_is_done(base, prompts, expected):
    model = make_model(base, prompts, expected, n_rows=2)
    next(model.generate(prompts, Sampling(max_tokens=20)))
    assert model.engine.n_steps == 20


@pytest.mark.parametrize("n_a_step", [1, 5])
def test_a_loop_is_let_go_of_at_the_token_where_the_other_generator_stops_it(
    base, prompts, expected, n_a_step
):
    model = make_model(base, prompts, expected, lambda text: True, n_a_step=n_a_step)
    found = dict(model.generate(prompts, LONG))
    stopping = TransformersEngine((base.model, base.tokenizer), is_looping=lambda text: True)
    assert found == dict(stopping.generate(prompts, LONG))
    assert FinishReason.LOOP in {g.finish_reason for g in found.values()}
    assert not model.engine.rows


def test_whoever_stops_listening_leaves_no_work_behind(base, prompts, expected):
    model = make_model(base, prompts, expected)
    listening = model.generate(prompts, Sampling(max_tokens=10))
    next(listening)
    listening.close()
    assert not model.engine.rows
    assert len(dict(model.generate(prompts, Sampling(max_tokens=10)))) == len(prompts)


def test_a_prompt_that_leaves_no_room_is_answered_with_nothing_and_not_asked(
    base, prompts, expected
):
    short = min(len(encode(base.tokenizer, prompt)) for prompt in prompts)
    found = dict(
        make_model(base, prompts, expected, max_length=short + 1).generate(
            prompts, Sampling(max_tokens=1)
        )
    )
    assert {(g.text, g.finish_reason, g.n_tokens) for g in found.values() if not g.ids} == {
        ("", FinishReason.LENGTH, 0)
    }
    assert len(found) == len(prompts) and any(g.ids for g in found.values())


def test_a_failing_engine_stops_the_work_with_one_line(base, prompts, expected):
    full = make_model(
        base,
        prompts,
        expected,
        error=RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
    )
    with pytest.raises(
        StoppedError, match=r"out of memory in vLLM; what was answered is kept.*--batch-size"
    ):
        dict(full.generate(prompts, LONG))
    broken = make_model(base, prompts, expected, error=ValueError("\nan illegal access\nat 0x1"))
    with pytest.raises(
        StoppedError,
        match=r"^vLLM failed \(ValueError: an illegal access\); what was answered is kept",
    ):
        dict(broken.generate(prompts, LONG))


def test_every_row_has_its_own_seed_and_nothing_is_left_to_defaults(base, prompts, expected):
    model = make_model(base, prompts, expected, n_rows=9)
    hot = Sampling(max_tokens=3, temperature=0.6, top_p=0.95, seed=5)
    dict(model.generate(prompts, hot, sample=[0, 1, 2, 0, 0, 0, 0, 0, 0]))
    assert [model.engine.parameters[str(at)]["seed"] for at in range(3)] == [
        draw_seed(5, at, prompts[at]) for at in range(3)
    ]
    wanted = {
        "temperature": 0.6,
        "top_p": 0.95,
        "seed": 7,
        "max_tokens": 3,
        "stop_token_ids": [1, 2],
        "detokenize": False,
    }
    assert list_parameters(hot, 7, [1, 2]) == wanted
    greedy = {"temperature": 0.0, "max_tokens": 9, "stop_token_ids": [1], "detokenize": False}
    assert list_parameters(Sampling(max_tokens=9, top_p=0.5), 7, [1]) == greedy


def test_why_it_cannot_be_opened_is_said_in_one_line(random_model_dir, base, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        EngineUnavailableError,
        match=r"^ModuleNotFoundError: import of vllm halted; None in sys.modules$",
    ):
        open_vllm(random_model_dir, base.tokenizer, "float32", 100, 4)


def test_a_model_that_opens_and_cannot_draw_a_token_cannot_be_opened(
    random_model_dir, base, monkeypatch
):
    class Broken(FakeEngine):
        def step(self):
            raise RuntimeError(
                "Unsupported CPU attention configuration: head_dim=16 isa=2 kv_cache_idx=0"
            )  # as it came

    engine = Broken({tuple(encode(base.tokenizer, "?")): [5]})
    monkeypatch.setattr(vllm_engine, "_open_engine", lambda *_: (engine, dict))
    with pytest.raises(
        EngineUnavailableError,
        match=r"^RuntimeError: Unsupported CPU attention configuration: head_dim=16",
    ):
        open_vllm(random_model_dir, base.tokenizer, "float32", 100, 4)


def test_a_model_that_vllm_does_not_know_is_told_in_its_own_words(
    random_model_dir, base, monkeypatch
):
    def refuse(*_):
        raise ValueError(  # as it came, but for the list
            "1 validation error for ModelConfig\n  Value error, Model architectures ['CodeGenForCausalLM'] are not supported for now. "
            "Supported architectures: dict_keys(['AfmoeForCausalLM', 'ApertusForCausalLM'])"
        )

    monkeypatch.setattr(vllm_engine, "_open_engine", refuse)
    with pytest.raises(
        EngineUnavailableError,
        match=r"Model architectures \['CodeGenForCausalLM'\] are not supported for now$",
    ):
        open_vllm(random_model_dir, base.tokenizer, "float32", 100, 4)
