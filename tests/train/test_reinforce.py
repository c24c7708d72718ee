import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from medkd.core.errors import InputError, StoppedError
from medkd.core.records import Cost, Example
from medkd.core.stage_output import Manifest, StageOutput
from medkd.models.chat_template import has_thinking_prefix
from medkd.models.load import load_model, load_tokenizer
from medkd.train import reinforce, rollouts
from medkd.train.checkpoints import find_checkpoint, is_complete, read_step
from medkd.train.preflight import Machine
from medkd.train.reinforce import Config, run
from medkd.train.student import find_inputs
from scripted import Scripted
from student_samples import (
    make_example,
    make_random_model,
    read_lines,
    save_base,
    write_examples,
)

SCRIPT = """
import sys, time
from trl.trainer.grpo_trainer import GRPOTrainer
from medkd.train.reinforce import Config, run
step = GRPOTrainer.training_step
def slowly(self, *a, **k):
    time.sleep(0.2)
    return step(self, *a, **k)
GRPOTrainer.training_step = slowly
run(Config.model_validate_json(sys.argv[1]))
"""

GOOD = json.dumps({"grounded": "5", "sound": "5", "complete": "3", "leads_there": "5", "why": "ok"})


class ScriptedJudge(Scripted):
    """A judge in memory that costs nothing."""

    def tell_cost(self):
        return Cost()


@pytest.fixture(scope="module")
def settings(random_model_dir, merged_dir, trained_dir):
    return {
        "model": str(random_model_dir),
        "adapter": trained_dir,
        "input": merged_dir,
        "steps": 4,
        "questions": 2,
        "group_size": 4,
        "batch_size": 4,
        "max_tokens": 96,
        "learning_rate": 1e-3,
        "trainer": {"temperature": 0.7},
    }


@pytest.fixture(scope="module")
def reinforced_dir(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("reinforced")
    run(Config(**settings, out=out))
    return out


@pytest.mark.slow
def test_the_adapter_goes_on_from_its_start_and_serves_like_it(reinforced_dir, trained_dir):
    start, end = (
        load_file(folder / "adapter/adapter_model.safetensors")
        for folder in (trained_dir, reinforced_dir)
    )
    assert start.keys() == end.keys()
    assert any(not torch.equal(start[name], end[name]) for name in start)
    assert has_thinking_prefix(load_tokenizer(reinforced_dir / "adapter"))
    lineage = json.loads((reinforced_dir / "adapter/lineage.json").read_text())
    assert lineage["sources"] == {"made": 24}
    assert lineage["reinforced"]["rewards"]["diagnosis"] == 1.0


def test_every_reward_is_logged_by_itself_beside_lengths_entropy_and_divergence(reinforced_dir):
    lines = [line for line in read_lines(reinforced_dir / "metrics.jsonl") if "reward" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    wanted = {
        f"rewards/{name}/mean"
        for name in ("diagnosis", "format", "stop", "loop", "grounded", "length")
    }
    assert (
        wanted | {"entropy", "kl", "completions/mean_length", "frac_reward_zero_std"}
        <= lines[0].keys()
    )


def test_held_out_answers_are_watched_from_before_the_first_step(reinforced_dir):
    looks = read_lines(reinforced_dir / "held_out.jsonl")
    assert [look["step"] for look in looks] == [0, 1, 2, 3, 4]
    assert {"accuracy", "no_copy", "no_hint", "no_identifier"} <= looks[0]["rates"].keys()
    page = (reinforced_dir / "report.html").read_text()
    assert "Held-out questions" in page and "no_copy" in page


def test_what_the_start_was_like_is_measured_by_sampling(reinforced_dir):
    start = json.loads((reinforced_dir / "start.json").read_text())
    assert 0 < start["accuracy"] <= 1
    assert start["groups_with_spread"] > 0
    assert start["length_p50"] <= start["length_p99"] <= 96


@pytest.mark.slow
def test_killed_and_started_again_it_comes_to_the_same_weights(settings, reinforced_dir, tmp_path):
    killed = Config(**settings, out=tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, killed.model_dump_json()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 600
    while not is_complete(killed.out / "checkpoints/checkpoint-2") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed.out / "adapter").exists()
    manifest = run(killed)
    assert manifest.facts["resumed_from_step"] > 0
    lines = {
        line["step"]: line["reward"]
        for line in read_lines(killed.out / "metrics.jsonl")
        if "reward" in line
    }
    assert lines == {
        line["step"]: line["reward"]
        for line in read_lines(reinforced_dir / "metrics.jsonl")
        if "reward" in line
    }
    one, other = (
        load_file(folder / "adapter/adapter_model.safetensors")
        for folder in (reinforced_dir, killed.out)
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    looks = [look["step"] for look in read_lines(killed.out / "held_out.jsonl")]
    assert looks == sorted(set(looks)) and looks[-1] == 4


@pytest.mark.slow
def test_an_interrupted_run_keeps_a_checkpoint_and_goes_on_from_it_to_the_same_weights(
    settings, reinforced_dir, tmp_path
):
    interrupted = Config(**settings, out=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, interrupted.model_dump_json()],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 600
    while (
        not any("reward" in line for line in read_metrics(tmp_path)) and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "reinforce: interrupted; keeping a checkpoint first" in process.communicate()[1]
    assert not (tmp_path / "adapter").exists()
    newest = find_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    step = read_step(newest)
    assert step >= max(line["step"] for line in read_metrics(tmp_path))
    assert run(interrupted).facts["resumed_from_step"] == step
    one, other = (
        load_file(folder / "adapter/adapter_model.safetensors")
        for folder in (reinforced_dir, tmp_path)
    )
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    rewards = (
        {line["step"]: line["reward"] for line in read_metrics(out) if "reward" in line}
        for out in (reinforced_dir, tmp_path)
    )
    assert next(rewards) == next(rewards)


def read_metrics(out):
    return read_lines(out / "metrics.jsonl") if (out / "metrics.jsonl").exists() else []


def test_an_answer_that_the_limit_cut_off_is_masked_and_a_loop_is_not(settings):
    from medkd.core.records import Sampling
    from medkd.train.rewards import PromptItem
    from medkd.train.rollouts import Sampler

    loaded = load_model(settings["model"], device="cpu", dtype="float32")
    sampler = Sampler(
        loaded.model, loaded.tokenizer, Sampling(max_tokens=8, temperature=1.0, seed=0)
    )
    end = sampler.engine.stop_ids[0]
    ids = {
        "ended": [*sampler.engine.tokenizer("abc")["input_ids"], end],
        "cut": sampler.engine.tokenizer("abc")["input_ids"],
    }
    ids["loop"] = sampler.engine.tokenizer("cough " * 40)["input_ids"]
    reasons = {
        name: str(sampler.read_rollout(tokens, PromptItem("", "", "", "")).finish_reason)
        for name, tokens in ids.items()
    }
    assert reasons == {"ended": "stop", "cut": "length", "loop": "loop"}


def test_equal_prompts_draw_different_answers_and_the_same_ones_again(settings):
    from medkd.core.records import Sampling
    from medkd.train.rollouts import Sampler

    loaded = load_model(settings["model"], device="cpu", dtype="float32")
    sampler = Sampler(
        loaded.model, loaded.tokenizer, Sampling(max_tokens=12, temperature=1.0, seed=3)
    )
    first = sampler.draw(["abc"] * 4, [0, 1, 2, 3])
    assert len({tuple(g.ids) for g in first}) > 1
    sampler.engine.batch_size = 1
    assert [g.ids for g in sampler.draw(["abc"] * 4, [0, 1, 2, 3])] == [g.ids for g in first]


def test_out_of_memory_in_rollouts_draws_fewer_at_once_and_says_so(settings, monkeypatch, capsys):
    from medkd.completers.transformers_engine import TransformersEngine
    from medkd.core.records import Sampling
    from medkd.train.rollouts import Sampler

    loaded = load_model(settings["model"], device="cpu", dtype="float32")
    sampler = Sampler(
        loaded.model, loaded.tokenizer, Sampling(max_tokens=6, temperature=1.0, seed=0)
    )
    expected = [g.ids for g in sampler.draw(["abc"] * 8, range(8))]
    generate = TransformersEngine.generate_batch

    def with_little_memory(self, encoded, *rest):
        if len(encoded) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, encoded, *rest)

    monkeypatch.setattr(TransformersEngine, "generate_batch", with_little_memory)
    assert [g.ids for g in sampler.draw(["abc"] * 8, range(8))] == expected
    assert "going on with 2" in capsys.readouterr().err
    monkeypatch.setattr(
        TransformersEngine, "generate_batch", lambda *_: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(StoppedError, match="out of memory"):
        sampler.draw(["abc"], [0])


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_drawn(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(rollouts, "measure_machine", lambda device: Machine("processor", 1, 2**28))
    with pytest.raises(InputError, match="lower --batch-size or --max-tokens"):
        run(Config(**settings, out=tmp_path / "out"))
    assert not (tmp_path / "out/start.json").exists()


def test_a_base_is_begun_from_only_where_it_is_named_so(settings, tmp_path):
    with pytest.raises(InputError, match="nothing to learn from"):
        run(
            Config(
                **settings
                | {
                    "adapter": "base",
                    "rewards": {"diagnosis": 1.0},
                    "max_tokens": 500,
                    "trainer": {},
                },
                out=tmp_path / "out",
            )
        )
    assert not (tmp_path / "out").exists() or not (tmp_path / "out/adapter").exists()


def test_an_adapter_of_another_base_is_refused(settings, tmp_path):
    other = make_random_model(tmp_path / "other", hidden_size=32)
    with pytest.raises(InputError, match="was trained on"):
        run(Config(**settings | {"model": str(other)}, out=tmp_path / "out"))


def test_questions_without_a_known_diagnosis_are_dropped_or_refused(settings, tmp_path):
    path = write_examples(tmp_path / "open/train.jsonl", range(4), reference="")
    with pytest.raises(InputError, match="none of 4 questions has a known answer"):
        run(Config(**settings | {"input": path}, out=tmp_path / "out"))
    path.write_text(
        path.read_text() + write_examples(tmp_path / "known/train.jsonl", range(10)).read_text()
    )
    counts = run(Config(**settings | {"input": path, "steps": 1}, out=tmp_path / "out")).counts
    assert (counts.kept, counts.dropped) == (10, {"no_reference": 4})


def test_a_limit_that_cuts_the_start_off_is_refused_and_the_next_one_named(settings, tmp_path):
    with pytest.raises(InputError, match="set --max-tokens 32"):
        run(Config(**settings | {"max_tokens": 16}, out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rewards": {"stop": 0.0}}, "no reward counts"),
        (
            {"judge": "qwen", "watch_judge": "qwen", "rewards": {"judge": 1.0}},
            "is the judge that pays",
        ),
        ({"batch_size": 3}, "does not divide"),
        ({"teacher_model": "x", "trainer": {"beta": 0.0}}, "counts for nothing"),
        ({"trainer": {"temprature": 1.0}}, "did you mean 'temperature'"),
        ({"teacher_model": "x", "trainer": {"beta": "0"}}, "counts for nothing"),
        ({"trainer": {"num_generations": 4}}, "decided by the stage"),
        ({"trainer": {"gradient_accumulation_steps": 2}}, "decided by the stage"),
        ({"trainer": {"top_k": 5, "use_vllm": "false"}}, "decided by the stage"),
        ({"questions": 32, "group_size": 2}, "only 24 are there; set --questions 24"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        run(Config(**settings | changes, out=tmp_path / "out"))


def test_fewer_questions_than_processes_are_said_to_be_so(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(reinforce, "read_process_info", lambda: SimpleNamespace(n_processes=32))
    config = Config(**settings | {"questions": 32, "group_size": 2}, out=tmp_path / "out")
    output = StageOutput(tmp_path, Manifest(stage="reinforce", config={}))
    with pytest.raises(InputError, match="24 questions for 32 processes; start fewer"):
        reinforce._read(config, find_inputs(config.input)[0], output)


@pytest.mark.parametrize(
    ("name", "value"), [("ACCELERATE_USE_FSDP", "true"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")]
)
def test_weights_that_are_shared_out_are_refused(settings, tmp_path, monkeypatch, name, value):
    for variable, said in {"RANK": "1", "WORLD_SIZE": "2", name: value}.items():
        monkeypatch.setenv(variable, said)
    with pytest.raises(InputError, match="without FSDP and ZeRO-3"):
        run(Config(**settings, out=tmp_path / "out"))


def test_an_unknown_reward_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'diagnosis'"):
        Config(model="m", adapter="a", input="i", out="o", rewards={"diagnoses": 1.0})


@pytest.fixture(scope="module")
def trainer(settings, tmp_path_factory):
    """A trainer about to make its first step, and the sampler it draws with."""
    from medkd.core.records import Sampling
    from medkd.train.reinforce import make_trainer, make_trainer_config
    from medkd.train.rewards import Band, make_rewards
    from medkd.train.rollouts import Sampler, make_prompts
    from medkd.train.student import load_student

    short = settings | {"steps": 1, "batch_size": 8, "group_size": 4, "max_tokens": 96}
    short |= {"trainer": {"bf16": False, "temperature": 0.7}}
    config = Config(**short | {"device": "cpu"}, out=tmp_path_factory.mktemp("trainer"))
    student = load_student(config, settings["adapter"] / "adapter")
    examples = [
        Example.model_validate(line) for line in read_lines(settings["input"] / "train.jsonl")
    ]
    trainer_config = make_trainer_config(config, "cpu")
    trainer_config.reward_weights = [1.0]
    sampling = Sampling(max_tokens=96, temperature=0.7, seed=0)
    sampler = Sampler(student.model, student.tokenizer, sampling)
    questions = make_prompts(student.tokenizer, examples, student.plain_template)
    rewards = make_rewards({"diagnosis": 1.0}, Band(1, 96))
    return make_trainer(student, questions, rewards, sampler, trainer_config), sampler


@pytest.fixture(scope="module")
def step(trainer):
    """What the trainer computes its loss from in its first step."""
    maker, _ = trainer
    maker.model.train()
    return maker._generate_and_score_completions(next(iter(maker.get_train_dataloader())))


def join(step):
    """The rows as the trainer scores them: ids, mask, and how many tokens at the end are the
    answer's."""
    ids = torch.cat([step["prompt_ids"], step["completion_ids"]], dim=1)
    return (
        ids,
        torch.cat([step["prompt_mask"], step["completion_mask"]], dim=1),
        step["completion_ids"].shape[1],
    )


def test_the_trainer_scores_the_very_tokens_that_were_drawn_as_likely_as_they_were(trainer, step):
    maker, sampler = trainer
    logps, _, _ = maker._get_per_token_logps_and_entropies(maker.model, *join(step))
    model = maker.model.eval()
    for row in range(len(logps)):
        prompt = step["prompt_ids"][row][step["prompt_mask"][row].bool()]
        drawn = step["completion_ids"][row][step["completion_mask"][row].bool()]
        with torch.no_grad():
            logits = (
                model(input_ids=torch.cat([prompt, drawn])[None]).logits[0, len(prompt) - 1 : -1]
                / 0.7
            )
        alone = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
        assert torch.allclose(logps[row, : len(drawn)], alone, atol=1e-4)
        if int(drawn[-1]) in sampler.engine.stop_ids:
            assert step["tool_mask"][row, len(drawn) - 1] == 1  # the end of a turn is learnt from


def test_groups_whose_rewards_do_not_differ_are_counted(trainer, step):
    maker, _ = trainer
    is_flat = step["advantages"].view(-1, 4).abs().amax(-1) < 1e-6
    share = maker._metrics["train"]["frac_reward_zero_std"][0]
    assert share == pytest.approx(float(is_flat.float().mean()))


def test_a_better_answer_than_the_others_of_its_group_becomes_likelier(trainer, step):
    maker, _ = trainer
    mask = (step["completion_mask"] * step["tool_mask"]).float()
    advantages = step["advantages"]
    assert advantages.view(-1, 4).sum(-1).abs().max() < 1e-4
    maker.model.zero_grad()
    maker.current_gradient_accumulation_steps = 1
    maker.compute_loss(maker.model, step).backward()
    before = maker._get_per_token_logps_and_entropies(maker.model, *join(step))[0].detach()
    with torch.no_grad():
        for parameter in maker.model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-2 * parameter.grad
    after = maker._get_per_token_logps_and_entropies(maker.model, *join(step))[0].detach()
    gain = ((after - before) * mask).sum(-1)
    assert (gain * advantages).sum() > 0


def test_a_teacher_of_the_same_tokenizer_draws_the_answers_too_by_the_weight_beta(
    settings, trained_dir, tmp_path
):
    loaded = load_model(settings["model"], trained_dir / "adapter", device="cpu", dtype="float32")
    start = save_base(loaded, tmp_path / "start")
    kl: dict[str, float] = {}
    for name in (settings["model"], str(start)):
        out = tmp_path / f"out-{len(kl)}"
        manifest = run(Config(**settings | {"steps": 1, "teacher_model": name}, out=out))
        assert manifest.facts["steps"] == 1
        kl[name] = read_metrics(out)[0]["kl"]
    assert kl[settings["model"]] > 0.1 > 1e-3 > abs(kl[str(start)])
    lineage = json.loads((tmp_path / "out-1/adapter/lineage.json").read_text())
    assert lineage["reinforced"]["teacher"] == str(start)


def test_a_teacher_of_another_tokenizer_is_refused_before_anything_is_drawn(settings, tmp_path):
    foreign = make_random_model(tmp_path / "foreign", merges=[("s", "i"), ("g", "n")])
    with pytest.raises(InputError, match="has another tokenizer than the student"):
        run(Config(**settings | {"teacher_model": str(foreign)}, out=tmp_path / "out"))
    assert not (tmp_path / "out/start.json").exists()


def test_rows_without_a_mark_are_shown_to_a_judge_only_where_accepted(
    settings, tmp_path, monkeypatch
):
    mark = make_example(0).lineage.model_copy(update={"deidentified_by": "rules 3"})
    path = write_examples(tmp_path / "in/train.jsonl", range(4))
    marked = write_examples(tmp_path / "marked/train.jsonl", range(4, 6), lineage=mark)
    path.write_text(path.read_text() + marked.read_text())
    judged = settings | {"input": path, "steps": 1, "judge": "custom"}
    judged |= {"rewards": {"diagnosis": 1.0, "judge": 0.5}}
    asked = ScriptedJudge(lambda _: GOOD)
    monkeypatch.setattr(reinforce, "open_judge", lambda *_: nullcontext(asked))
    with pytest.raises(InputError, match=r"4 of 6 rows have no deidentified_by.*accept-identified"):
        run(Config(**judged, out=tmp_path / "refused"))
    assert asked.asked == []
    manifest = run(Config(**judged, accept_identified=True, out=tmp_path / "accepted"))
    assert manifest.facts["accepted_identified"] == 4 and asked.asked
