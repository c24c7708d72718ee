import time

import pytest

from medkd.completers import ctranslate2_engine
from medkd.completers.ctranslate2_engine import _Batch, is_usable, open_ctranslate2
from medkd.completers.transformers_engine import (
    LOOP_CHECK_INTERVAL,
    EngineUnavailableError,
    TransformersEngine,
)
from medkd.core.completer import Sampling
from medkd.core.records import FinishReason
from medkd.models.load import load_model


@pytest.fixture(scope="module")
def trained(random_model_dir, trained_dir):
    return load_model(str(random_model_dir), trained_dir / "adapter", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tiny():
    return load_model("medkd:tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    return [
        f"<|im_start|>user\ncase {n}: 发热{'咳嗽' * (n % 4)}{'!' * (n % 5)}<|im_end|>\n<|im_start|>assistant\n"
        for n in range(21)
    ]


def generate(model, prompts, sampling):
    return [text for _, text in sorted(model.generate(prompts, sampling))]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("which", ["trained", "tiny"])
def test_every_token_and_every_end_is_that_of_the_other_generator(
    which, batch_size, prompts, request
):
    loaded = request.getfixturevalue(which)
    sampling = Sampling(max_tokens=70)
    expected = generate(TransformersEngine(loaded), prompts, sampling)
    assert {g.finish_reason for g in expected} <= {FinishReason.STOP, FinishReason.LENGTH}
    assert generate(open_ctranslate2(loaded, batch_size), prompts, sampling) == expected


def test_a_loop_is_stopped_at_the_token_where_the_other_generator_stops_it(trained, prompts):
    def loops(text):
        return "!" in text or len(text) % 2 == 0

    sampling = Sampling(max_tokens=2 * LOOP_CHECK_INTERVAL + 5)
    expected = generate(TransformersEngine(trained, 4, loops), prompts, sampling)
    assert FinishReason.LOOP in {g.finish_reason for g in expected}
    assert generate(open_ctranslate2(trained, 4, loops), prompts, sampling) == expected


def test_an_answer_is_given_out_before_the_others_are_begun(trained, prompts):
    model = open_ctranslate2(trained, 1)
    seen = []
    submit = model._submit
    model._submit = lambda indices, *rest: seen.append(indices) or submit(indices, *rest)
    next(model.generate(prompts, Sampling(max_tokens=8)))
    assert 0 < len(seen) < len(prompts)


def test_whoever_stops_listening_stops_the_work(trained, prompts, monkeypatch):
    sampling = Sampling(max_tokens=2000)
    model = open_ctranslate2(trained, 2)
    asked = prompts[: 2 * model.n_threads * model.n_rows]  # all are submitted at once
    n_whole = sum(g.n_tokens for g in generate(model, asked, sampling))
    taken = []
    monkeypatch.setattr(
        ctranslate2_engine._Batch,
        "take",
        lambda batch, step, take=_Batch.take: taken.append(step) or take(batch, step),
    )
    answers = model.generate(asked, sampling)
    next(answers)
    answers.close()
    n_taken = len(taken)
    time.sleep(0.2)
    assert n_taken == len(taken) < n_whole


def test_only_greedy_answers_on_a_processor_are_its_work(trained, monkeypatch):
    assert is_usable("cpu", "auto", 0.0)
    assert is_usable("cpu", "float32", 0.0)
    assert not is_usable("cpu", "bfloat16", 0.0)
    assert not is_usable("cuda", "auto", 0.0)
    assert not is_usable("cpu", "auto", 0.6)
    with pytest.raises(ValueError, match="greedily"):
        list(open_ctranslate2(trained, 2).generate(["?"], Sampling(max_tokens=1, temperature=0.6)))
    monkeypatch.setattr(ctranslate2_engine.importlib.util, "find_spec", lambda name: None)
    assert not is_usable("cpu", "auto", 0.0)


def test_a_large_model_and_an_unknown_shape_cannot_be_opened(trained, monkeypatch):
    from transformers import BertConfig, BertForMaskedLM

    unknown = BertForMaskedLM(
        BertConfig(
            vocab_size=64,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    )
    with pytest.raises(EngineUnavailableError, match="BertConfig"):
        open_ctranslate2(trained._replace(model=unknown), 2)
    monkeypatch.setattr(ctranslate2_engine, "MOST_PARAMETERS", 1000)
    with pytest.raises(EngineUnavailableError, match="more than 1,000 parameters"):
        open_ctranslate2(trained, 2)


def test_a_model_that_was_not_converted_truly_or_runs_code_of_its_own_cannot_be_opened(
    trained, random_model_dir, monkeypatch
):
    other = load_model(str(random_model_dir), device="cpu", dtype="float32")
    with monkeypatch.context() as patch:
        patch.setattr(
            ctranslate2_engine, "TransformersEngine", lambda loaded: TransformersEngine(other)
        )
        with pytest.raises(EngineUnavailableError, match="writes otherwise"):
            open_ctranslate2(trained, 2)

    class Odd(type(trained.model)):
        pass

    odd = Odd(trained.model.config)
    with pytest.raises(EngineUnavailableError, match="code of its own"):
        open_ctranslate2(trained._replace(model=odd), 2)
