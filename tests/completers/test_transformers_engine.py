import pytest
import torch

from medkd.completers.transformers_engine import GumbelNoise, TransformersEngine
from medkd.core import thinking
from medkd.core.errors import StoppedError
from medkd.core.records import FinishReason, Message, Request, Sampling
from medkd.models.load import load_model


@pytest.fixture(scope="module")
def trained(random_model_dir, trained_dir):
    return load_model(str(random_model_dir), trained_dir / "adapter", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    return [
        f"<|im_start|>user\ncase {n}: sign {'abc'[n % 3]}{'!' * (n % 5)}<|im_end|>\n<|im_start|>assistant\n"
        for n in range(11)
    ]


def generate(model, prompts, sampling, sample=0):
    return [text for _, text in sorted(model.generate(prompts, sampling, sample))]


def test_greedy_text_equals_that_of_plain_generate(trained, prompts):
    model, tokenizer = trained
    stops = TransformersEngine(trained).stop_ids
    expected = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**inputs, max_new_tokens=60, do_sample=False, eos_token_id=stops)[
            0, inputs["input_ids"].shape[1] :
        ].tolist()
        expected.append(tokenizer.decode([token for token in ids if token not in stops]))
    assert [
        g.text
        for g in generate(
            TransformersEngine(trained, batch_size=4), prompts, Sampling(max_tokens=60)
        )
    ] == expected


def test_texts_do_not_depend_on_the_batch(trained, prompts):
    for sampling in (
        Sampling(max_tokens=40),
        Sampling(max_tokens=40, temperature=1.0, seed=3),
        Sampling(max_tokens=40, temperature=2.0, top_p=0.9, seed=3),
    ):
        alone = generate(TransformersEngine(trained, 1), prompts, sampling)
        for batch_size in (3, 8, 32):
            assert generate(TransformersEngine(trained, batch_size), prompts, sampling) == alone


def test_draws_are_distributed_as_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    n = 4000
    for top_p, expected in (
        (None, (logits / 0.7).softmax(-1)),
        (0.5, torch.tensor([1.0, 0, 0, 0])),
    ):
        sampling = Sampling(temperature=0.7, top_p=top_p)
        noise = GumbelNoise(range(n), sampling, torch.device("cpu"))
        drawn = noise(torch.zeros(n, 1, dtype=torch.long), logits.repeat(n, 1)).argmax(-1)
        shares = torch.bincount(drawn, minlength=4) / n
        assert torch.allclose(shares, expected, atol=0.03)


def test_samples_differ_by_seed_and_number_and_repeat_otherwise(trained, prompts):
    model = TransformersEngine(trained)
    hot = Sampling(max_tokens=20, temperature=2.0, seed=1)
    first = generate(model, prompts, hot)
    assert first == generate(model, prompts, hot)
    assert first != generate(model, prompts, hot, sample=1)
    assert first != generate(model, prompts, hot.model_copy(update={"seed": 2}))


def test_a_tiny_top_p_is_greedy(trained, prompts):
    model = TransformersEngine(trained)
    assert generate(
        model, prompts, Sampling(max_tokens=30, temperature=1.5, top_p=1e-6)
    ) == generate(model, prompts, Sampling(max_tokens=30))


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_nothing_is_lost(
    trained, prompts, monkeypatch, capsys
):
    whole = generate(TransformersEngine(trained, 8), prompts, Sampling(max_tokens=40))
    together = TransformersEngine.generate_batch

    def run_out_of_memory(engine, encoded, *others):
        if len(encoded) > 2:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return together(engine, encoded, *others)

    monkeypatch.setattr(TransformersEngine, "generate_batch", run_out_of_memory)
    model = TransformersEngine(trained, 8)
    assert generate(model, prompts, Sampling(max_tokens=40)) == whole
    assert model.batch_size == 2 and "going on with 4" in capsys.readouterr().err
    for error, wanted in (
        (MemoryError(), (StoppedError, "one question at a time")),
        (RuntimeError("another fault"), (RuntimeError, "another fault")),
    ):
        monkeypatch.setattr(
            TransformersEngine, "generate_batch", lambda *_, e=error: (_ for _ in ()).throw(e)
        )
        with pytest.raises(wanted[0], match=wanted[1]):
            generate(TransformersEngine(trained, 8), prompts, Sampling(max_tokens=40))


def test_why_it_ended_is_told(trained, prompts):
    done = generate(TransformersEngine(trained), prompts[:2], Sampling(max_tokens=80))
    assert {g.finish_reason for g in done} == {FinishReason.STOP}
    cut = generate(TransformersEngine(trained), prompts[:2], Sampling(max_tokens=3))
    assert [(g.finish_reason, g.n_tokens) for g in cut] == [(FinishReason.LENGTH, 3)] * 2


def test_a_loop_is_stopped_early(random_model_dir, prompts):
    base = TransformersEngine(
        load_model(str(random_model_dir), device="cpu"), is_looping=lambda text: True
    )
    cut = generate(base, prompts[:2], Sampling(max_tokens=400))
    assert all(
        g.finish_reason == FinishReason.STOP
        or (g.finish_reason == FinishReason.LOOP and g.n_tokens == 64)
        for g in cut
    )


def test_requests_are_answered_in_their_order_under_the_models_own_template(trained):
    questions = [f"case {n}: sign {'abc'[n % 3]}" for n in range(4)]
    requests = [
        Request(
            messages=(Message(role="user", content=q),), sampling=Sampling(max_tokens=80 - n % 2)
        )
        for n, q in enumerate(questions)
    ]
    answers = TransformersEngine(trained).complete(requests)
    assert [thinking.read(a.text).answer for a in answers] == ["flu", "mumps", "croup", "flu"]
    assert all(a.complete and a.usage.prompt and a.usage.completion for a in answers)
