import json
import shutil
import signal
from types import SimpleNamespace

import pytest

from medkd.models.chat_template import find_templates
from medkd.models.load import load_model
from medkd.train.checkpoints import (
    MARK,
    CheckpointKeeper,
    Interruption,
    SampleWriter,
    delete_checkpoints,
    find_checkpoint,
    is_complete,
)
from medkd.train.stage import Config, run
from student_samples import make_example, read_lines


@pytest.fixture
def checkpoints(trained_dir, tmp_path):
    return shutil.copytree(trained_dir / "checkpoints", tmp_path / "checkpoints")


@pytest.fixture
def settings(random_model_dir, merged_dir, tmp_path):
    fields = {"model": str(random_model_dir), "input": merged_dir, "max_length": 256, "epochs": 2}
    return fields | {"trainer": {"save_steps": 2}, "out": tmp_path / "out"}


def newest(checkpoints):
    return max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def make_foreign(folder, files):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"somebody's")
    return folder


def read_tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FOREIGN = {
    "sharded FSDP": [
        "pytorch_model_fsdp_0/__0_0.distcp",
        "optimizer_0/__0_0.distcp",
        "scheduler.pt",
        "rng_state_0.pth",
        "trainer_state.json",
    ],
    "ZeRO": ["global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_to_fp32.py", "latest"],
    "a model": ["model.safetensors", "config.json"],
    "anything": ["thesis.docx"],
    "nothing": [],
    "with our mark": [MARK],
}


def test_the_newest_whole_one_is_found(checkpoints):
    assert find_checkpoint(checkpoints) == newest(checkpoints)


def test_none_is_found_where_none_is(tmp_path):
    assert find_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
    ],
)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99, None])
def test_a_torn_one_is_passed_over_left_alone_and_named(checkpoints, name, keep, capsys):
    torn = newest(checkpoints)
    if keep is None:
        (torn / name).unlink()
    else:
        content = (torn / name).read_bytes()
        (torn / name).write_bytes(content[: int(len(content) * keep)])
    before = read_tree(checkpoints)
    assert find_checkpoint(checkpoints) not in {torn, None}
    assert read_tree(checkpoints) == before
    assert f"{torn}: not a checkpoint that this program finished" in capsys.readouterr().err


def test_a_sharded_checkpoint_of_ours_is_gone_on_from(checkpoints):
    sharded = newest(checkpoints)
    (sharded / "optimizer.pt").unlink()
    make_foreign(sharded / "optimizer_0", ["__0_0.distcp"])
    keeper = CheckpointKeeper(checkpoints, SimpleNamespace(save_total_limit=9))
    step = int(sharded.name.rpartition("-")[2])
    state = SimpleNamespace(
        global_step=step, is_world_process_zero=True, best_model_checkpoint=None
    )
    keeper.on_save(None, state, None)
    assert is_complete(sharded) and find_checkpoint(checkpoints) == sharded


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_one_is_left_alone_by_a_training_that_saves_around_it_and_at_its_step(
    settings, kind, capsys
):
    folder = settings["out"] / "checkpoints"
    foreign = [make_foreign(folder / f"checkpoint-{n}", FOREIGN[kind]) for n in (1, 4, 900)]
    before = [read_tree(path) for path in foreign]
    run(Config(**settings))
    assert [read_tree(path) for path in foreign] == before
    said = capsys.readouterr().err
    assert all(str(path) in said for path in foreign)


@pytest.mark.slow
def test_only_the_best_the_newest_and_one_more_are_kept(settings):
    run(Config(**settings | {"trainer": {"save_steps": 1}}))
    kept = list((settings["out"] / "checkpoints").glob("*-*"))
    assert len(kept) == 3 and all(is_complete(path) for path in kept)
    assert "checkpoint-6" in {path.name for path in kept}


@pytest.mark.slow
def test_another_config_begins_again_and_goes_on_from_nothing(settings):
    run(Config(**settings | {"trainer": {"save_steps": 1}}))
    state = run(Config(**settings, seed=1, overwrite=True))
    assert state.facts["resumed_from_step"] == 0


def test_deletion_spares_what_is_not_ours(checkpoints):
    torn = newest(checkpoints)
    (torn / "optimizer.pt").unlink()
    make_foreign(checkpoints / "checkpoint-7", FOREIGN["anything"])
    delete_checkpoints(checkpoints)
    assert {path.name for path in checkpoints.glob("*-*")} == {torn.name, "checkpoint-7"}


def test_an_adapter_folder_that_no_training_wrote_is_refused_before_a_step(settings):
    mine = make_foreign(settings["out"] / "adapter", ["notes.txt"])
    with pytest.raises(Exception, match="was not made by train"):
        run(Config(**settings))
    assert json.dumps([p.name for p in mine.iterdir()]) == '["notes.txt"]'


@pytest.mark.parametrize("n_written", [0, 1, 2])
def test_samples_that_a_kill_left_out_behind_a_checkpoint_are_made_when_the_run_goes_on(
    random_model_dir, tmp_path, n_written
):
    model, tokenizer = load_model(str(random_model_dir), device="cpu", dtype="float32")
    path, examples = tmp_path / "samples.jsonl", [make_example(n) for n in range(2)]
    steps = [2, 2, *[4] * n_written, 6]
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    state = SimpleNamespace(global_step=4, is_world_process_zero=True)
    writer = SampleWriter(path, tokenizer, find_templates(tokenizer).plain, examples)
    writer.on_train_begin(None, state, None, model=model)
    assert [line["step"] for line in read_lines(path)] == [2, 2, 4, 4]


def test_an_interruption_before_the_first_step_ends_at_once_and_one_within_a_step_is_noted(capsys):
    with Interruption("reinforce") as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interruption.on_step_begin(None, None, None)
        signal.raise_signal(signal.SIGINT)
    assert interruption.is_wanted
    assert capsys.readouterr().err.count("keeping a checkpoint first") == 1
