import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.completers import drafts
from medkd.completers.batch import Batch
from medkd.completers.drafts import Continuations, Drafter
from medkd.completers.transformers_engine import TransformersEngine
from medkd.core.completer import Sampling
from medkd.models.load import LoadedModel, load_model

SAMPLINGS = [
    Sampling(max_tokens=40),
    Sampling(max_tokens=40, temperature=1.0, top_p=0.9, seed=3),
    Sampling(max_tokens=40, temperature=1.5),
]


@pytest.fixture(scope="module")
def trained(random_model_dir, trained_dir):
    """In double precision: what rounding differs by, in a batch of another shape, draws no other
    token."""
    model, tokenizer = load_model(
        str(random_model_dir), trained_dir / "adapter", device="cpu", dtype="float32"
    )
    return LoadedModel(model.double(), tokenizer)


@pytest.fixture(scope="module")
def prompts():
    return [
        f"<|im_start|>user\ncase {n}: sign {'abc'[n % 3]}{'!' * (n % 5)}<|im_end|>\n<|im_start|>assistant\n"
        for n in range(11)
    ]


def test_what_followed_before_is_guessed_again():
    drafter = Drafter([7, 1, 2, 3, 4, 5, 9, 1, 2, 3], Continuations())
    assert drafter.guess(3) == [4, 5, 9]


def test_the_company_is_guessed_from_too():
    company = Continuations()
    Drafter([1, 2], company).add([3, 4, 5])
    assert Drafter([8, 1, 2], company).guess(2) == [3, 4]


def test_a_longer_context_goes_before_a_shorter_one():
    assert Drafter([1, 2, 3, 50, 9, 3, 60, 1, 2, 3], Continuations()).guess(1) == [50]


def test_nothing_is_guessed_where_nothing_like_it_was_met():
    assert Drafter([1, 2, 3], Continuations()).guess(8) == []


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(drafts, "N_KEPT", 100)
    company = Continuations()
    for n in range(500):
        company.learn([n, n + 1, n + 2])
    assert len(company._next) < 110


@given(
    st.lists(st.integers(0, 5), max_size=60),
    st.lists(st.integers(0, 5), max_size=30),
    st.integers(0, 9),
)
def test_guesses_are_at_most_as_many_as_asked_and_met_before(prompt, written, n):
    drafter = Drafter(prompt, Continuations())
    drafter.add(written)
    guesses = drafter.guess(n)
    assert len(guesses) <= n and set(guesses) <= {*prompt, *written}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_no_guess_right_or_wrong_changes_a_text(trained, prompts, sampling, monkeypatch):
    honest = dict(TransformersEngine(trained, 4).generate(prompts, sampling))
    twice = dict(
        TransformersEngine(trained, 1).generate(
            [prompt for prompt in prompts for _ in "12"], sampling
        )
    )
    assert [twice[2 * at + 1] for at in range(len(prompts))] == [
        honest[at] for at in range(len(prompts))
    ], "guesses nearly all right"
    monkeypatch.setattr(Drafter, "guess", lambda *_: [])
    assert dict(TransformersEngine(trained, 4).generate(prompts, sampling)) == honest, "no guesses"
    wild = random.Random(5)
    monkeypatch.setattr(
        Drafter, "guess", lambda *_: [wild.randrange(20) for _ in range(wild.randrange(9))]
    )
    assert dict(TransformersEngine(trained, 4).generate(prompts, sampling)) == honest, (
        "wild guesses"
    )


def test_right_guesses_save_steps(trained, prompts, monkeypatch):
    judge, n_steps = Batch._judge, 0

    def count(batch, n):
        nonlocal n_steps
        n_steps += 1
        return judge(batch, n)

    monkeypatch.setattr(Batch, "_judge", count)
    first, second = (
        generation
        for _, generation in TransformersEngine(trained, 1).generate(
            [prompts[0]] * 2, Sampling(max_tokens=60)
        )
    )
    assert first == second
    assert n_steps <= first.n_tokens * 1.25
    assert first.n_tokens > 10


def test_a_model_whose_cache_forgets_is_not_guessed_for(trained, prompts):
    """A sliding window counts places in the cache, holes among them."""
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    config = trained.model.config.__class__.from_dict(
        trained.model.config.to_dict()
        | {
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 0,
            "layer_types": None,
            "initializer_range": 0.3,
        }
    )
    model = Qwen2ForCausalLM(config).double().eval()
    assert "sliding_attention" in config.layer_types
    together = dict(
        TransformersEngine(LoadedModel(model, trained.tokenizer), 4).generate(
            prompts, Sampling(max_tokens=30)
        )
    )
    for at, prompt in enumerate(prompts):
        inputs = trained.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        expected = model.generate(**inputs, max_new_tokens=30, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ].tolist()
        assert together[at].ids == expected[: together[at].n_tokens]
