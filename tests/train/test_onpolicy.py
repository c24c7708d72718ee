import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers.processors import TemplateProcessing

from medkd.core.errors import InputError
from medkd.models.chat_template import encode, has_thinking_prefix
from medkd.models.inspect import read_model_shape
from medkd.models.load import load_model, load_tokenizer
from medkd.train import rollouts
from medkd.train.config import check_method
from medkd.train.onpolicy import check_teacher, encode_as_served, make_rows, make_trainer
from medkd.train.preflight import Machine, Workload, estimate_memory
from medkd.train.rollouts import check_memory
from medkd.train.stage import Config, run
from medkd.train.student import load_student
from student_samples import (
    have_equal_weights,
    make_example,
    make_random_model,
    read_lines,
    read_losses,
    save_base,
    undo_last_steps,
)


@pytest.fixture(scope="module")
def teacher_dir(random_model_dir, trained_dir, tmp_path_factory):
    """The student that knows the short rows by heart, as a whole model."""
    adapter = trained_dir / "adapter"
    loaded = load_model(str(random_model_dir), adapter, device="cpu", dtype="float32")
    return save_base(loaded, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def settings(short_training, start, teacher_dir, tmp_path_factory):
    begun = tmp_path_factory.mktemp("start")
    longer = {"epochs": 15, "batch_size": 8, "learning_rate": 1e-2}
    run(Config(**short_training | longer, out=begun))
    return start | {
        "method": "on-policy",
        "adapter": begun,
        "teacher_model": str(teacher_dir),
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "max_tokens": 48,
    }


def test_the_student_comes_closer_to_its_teacher_on_its_own_answers(settings, tmp_path):
    manifest = run(Config(**settings, out=tmp_path))
    losses = [line["loss"] for line in read_lines(tmp_path / "metrics.jsonl") if "loss" in line]
    assert len(losses) == manifest.facts["steps"] == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert has_thinking_prefix(load_tokenizer(tmp_path / "adapter"))
    lineage = json.loads((tmp_path / "adapter/lineage.json").read_text())
    assert (lineage["sources"], lineage["on_policy"]["questions"]) == ({"made": 24}, 24)


def test_a_teacher_that_does_not_fit_beside_the_student_is_refused(settings, tmp_path, monkeypatch):
    student = read_model_shape(Path(settings["model"]))
    batch = Workload(16, 8 * 100, weight_bytes=4, is_checkpointed=False, on_gpu=False)
    room = int(1.1 * estimate_memory(student, "lora", batch))
    monkeypatch.setattr(rollouts, "measure_machine", lambda _: Machine("processor", 1, room))
    config = Config(**settings, out=tmp_path)
    begun = load_student(config, settings["adapter"] / "adapter")
    check_memory(config, begun, ["short"])
    with pytest.raises(InputError, match="choose a smaller model"):
        check_memory(config, begun, ["short"], student._replace(n_parameters=10**9))
    monkeypatch.setattr(rollouts, "measure_machine", lambda _: Machine("processor", 1, 2**20))
    with pytest.raises(InputError, match="lower --batch-size or --max-tokens"):
        run(config)


def test_prompts_begin_with_the_token_of_the_template_once(random_model_dir, tmp_path):
    """The tokenizer too begins each text with it, as those of Llama 3 do."""
    loaded = load_model(str(random_model_dir), device="cpu", dtype="float32")
    tokenizer, first = loaded.tokenizer, "<|endoftext|>"
    special = [(first, tokenizer.convert_tokens_to_ids(first))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=special
    )
    tokenizer.chat_template = first + tokenizer.chat_template
    base = str(save_base(loaded, tmp_path / "base"))
    fields = {"method": "on-policy", "teacher_model": base, "input": tmp_path, "device": "cpu"}
    config = Config(model=base, **fields, out=tmp_path / "out")
    student = load_student(config, None)
    rows = make_rows(config, student, [make_example(0)])
    trainer = make_trainer(config, student, load_model(base, device="cpu").model, rows)
    [ids], *_ = trainer._tokenize_prompts([rows[0]["prompt"]])
    assert ids.count(special[0][1]) == 1 and ids == encode(tokenizer, rows[0]["prompt"])


def test_a_teacher_of_another_tokenizer_is_refused(settings, tmp_path):
    foreign = make_random_model(tmp_path / "foreign", merges=[("s", "i"), ("g", "n")])
    with pytest.raises(InputError, match="has another tokenizer than the student") as caught:
        run(Config(**settings | {"teacher_model": str(foreign)}, out=tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/adapter").exists()


def test_a_wider_teacher_is_cut_to_the_students_size_and_a_narrower_one_refused(
    settings, teacher_dir, tmp_path
):
    loaded = load_model(str(teacher_dir), device="cpu", dtype="float32")
    size = loaded.model.config.vocab_size
    loaded.model.resize_token_embeddings(size + 24)
    save_base(loaded, tmp_path / "wide")
    few = settings | {"trainer": {"max_steps": 1}}
    run(Config(**few | {"teacher_model": str(tmp_path / "wide")}, out=tmp_path / "out"))
    assert (tmp_path / "out/adapter/adapter_model.safetensors").exists()
    shape, tokenizer = read_model_shape(teacher_dir), loaded.tokenizer
    with pytest.raises(InputError, match="narrow: knows 100 tokens"):
        check_teacher(tokenizer, tokenizer, shape, shape._replace(vocabulary=100), "narrow")


def test_the_seed_decides_the_first_weights_of_a_new_adapter(random_model_dir, tmp_path):
    first = []
    for seed in (1, 1, 2):
        config = Config(model=str(random_model_dir), input=tmp_path, out=tmp_path, seed=seed)
        weights = load_student(config, None).model.state_dict()
        first.append(next(weights[name] for name in weights if "lora_A" in name))
    assert first[0].equal(first[1]) and not first[0].equal(first[2])


def test_an_adapter_of_another_base_is_refused(settings, teacher_dir, tmp_path):
    with pytest.raises(InputError, match="was trained on"):
        run(Config(**settings | {"model": str(teacher_dir)}, out=tmp_path / "out"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(settings, tmp_path):
    short = settings | {"trainer": {"max_steps": 4, "save_steps": 2}}
    run(Config(**short, out=tmp_path / "whole"))
    run(Config(**short, out=tmp_path / "killed"))
    undo_last_steps(tmp_path / "killed", 4)
    run(Config(**short, out=tmp_path / "killed"))
    assert have_equal_weights(tmp_path / "whole", tmp_path / "killed")
    assert list(read_losses(tmp_path / "killed")) == [1, 2, 3, 4]


def test_a_teacher_that_is_not_there_is_named_by_its_own_flag(settings, tmp_path):
    with pytest.raises(InputError, match="check --teacher-model"):
        run(Config(**settings | {"teacher_model": str(tmp_path / "no/such")}, out=tmp_path / "out"))


def test_a_trainer_that_encodes_prompts_by_another_method_is_noticed():
    with pytest.raises(RuntimeError, match="TRL names the method"):
        encode_as_served(SimpleNamespace(processing_class=None))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_length": 512}, "--max-length: --method on-policy has no use for it"),
        ({"method": "dpo", "teacher_model": "", "lora_rank": 8}, "--lora-rank: the adapter"),
    ],
)
def test_a_field_that_changes_nothing_is_a_warning(settings, tmp_path, capsys, changes, says):
    check_method(Config(**settings | changes, out=tmp_path / "out"))
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher_model": ""}, "needs one teacher"),
        ({"teacher": "self"}, "needs one teacher"),
        ({"adapter": None}, "needs --adapter"),
        ({"method": "lora", "adapter": None}, "--teacher-model: only"),
        ({"method": "lora", "teacher_model": ""}, "--adapter: --method lora trains from the base"),
        ({"method": "dpo", "teacher_model": "", "teacher": "self"}, "--teacher: only"),
        ({"method": "kto", "teacher_model": "", "batch_size": 1}, "set --batch-size 2"),
        ({"target": "answers"}, "--target: --method on-policy learns from reasoned answers"),
    ],
)
def test_each_method_names_what_it_lacks_or_does_not_take(settings, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        run(Config(**settings | changes, out=tmp_path / "out"))
