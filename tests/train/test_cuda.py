"""What a machine with GPUs would meet, held on a processor: the device is a stub, the libraries are
their own."""

import importlib.metadata
import re
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trl.trainer.sft_config import SFTConfig

from medkd.core.errors import InputError
from medkd.train import config as config_module
from medkd.train import reinforce, stage
from medkd.train.config import ProcessInfo, build_trainer_config
from medkd.train.stage import Config


@pytest.fixture
def config(random_model_dir, merged_dir, tmp_path):
    return Config(
        model=str(random_model_dir), input=merged_dir, max_length=256, out=tmp_path / "out"
    )


def test_a_model_is_on_the_gpu_before_its_packed_loss_is_compared(config, monkeypatch):
    """With flash-attn installed rows are packed by default, and its kernels run on a GPU alone."""
    places = []
    model = SimpleNamespace(to=places.append)
    monkeypatch.setattr(
        stage, "compare_packed", lambda model, rows: places.append("compared") or []
    )
    job = SimpleNamespace(device="cuda", preflight=SimpleNamespace(rows=[], findings=[]))
    assert stage._is_packable(config, job, ProcessInfo(), model)
    assert places == ["cuda", "compared"]


def test_four_bit_weights_are_stored_so_that_fsdp_can_shard_them(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.49.0" if name == "bitsandbytes" else version(name),
    )
    monkeypatch.setattr(stage, "find_spec", lambda name: name)
    made = stage.make_four_bits("cuda", torch.bfloat16)
    assert made.bnb_4bit_quant_storage == made.bnb_4bit_compute_dtype == torch.bfloat16


def test_trls_config_is_made_before_the_weights_are_loaded(config, monkeypatch):
    """Under ZeRO-3 it decides that each process loads a share alone."""
    order = []
    make = stage.make_trainer_config
    monkeypatch.setattr(
        stage,
        "make_trainer_config",
        lambda *given, **more: order.append("config") or make(*given, **more),
    )

    def load(*_):
        order.append("weights")
        raise InputError("enough")

    monkeypatch.setattr(stage, "load_student", load)
    with pytest.raises(InputError, match="enough"):
        stage.run(config)
    assert order == ["config", "weights"]


def test_one_process_trains_on_one_gpu_of_several_and_without_fields_that_trl_gave_up(
    config, monkeypatch
):
    settings = {}

    def make_arguments_of_three_gpus(**given):
        settings.update(given)
        return SimpleNamespace(n_gpu=3, _n_gpu=3)

    monkeypatch.setattr(config_module, "choose_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(config_module, "read_trainer_keys", lambda *_: {})
    assert build_trainer_config(make_arguments_of_three_gpus, config, "cuda", 24, {})._n_gpu == 1
    assert settings["gradient_checkpointing"] and settings["bf16"]
    assert "use_liger_kernel" not in settings


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize(("value", "expected"), [("false", False), (True, True)])
def test_activations_are_computed_again_as_told_under_either_name_and_without_a_warning(
    config, name, value, expected
):
    told = type(config).model_validate(config.model_dump() | {"trainer": {name: value}})
    assert told.trainer == {"activation_checkpointing": value}, "as a run of either name says"
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        built = build_trainer_config(SFTConfig, told, "cpu", 24, {})
    assert built.gradient_checkpointing is expected
    assert stage.make_workload(told, "cpu", 64, 1).is_checkpointed is expected


def test_trl_is_wanted_from_the_version_whose_distillation_is_stable():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    optional = project["project"].get("optional-dependencies", {}).values()
    wanted = [*project["project"]["dependencies"], *(each for group in optional for each in group)]
    [bound] = {line for line in wanted if re.match(r"trl\b", line)}
    assert tuple(map(int, re.findall(r"\d+", bound)))[:2] >= (1, 10)


def test_a_judge_is_asked_by_one_process(config, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    fields = {"adapter": "a", "judge": "qwen", "rewards": {"judge": 1.0}}
    with pytest.raises(InputError, match="is asked by one process"):
        reinforce.run(reinforce.Config(model="m", input="i", out=config.out, **fields))
