import shutil

import pytest

from medkd.train.checkpoints import find_checkpoint, is_whole


@pytest.fixture
def checkpoints(trained_dir, tmp_path):
    return shutil.copytree(trained_dir / "checkpoints", tmp_path / "checkpoints")


def newest(checkpoints):
    return max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


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
def test_a_torn_one_is_passed_over(checkpoints, name, keep):
    torn = newest(checkpoints)
    if keep is None:
        (torn / name).unlink()
    else:
        content = (torn / name).read_bytes()
        (torn / name).write_bytes(content[: int(len(content) * keep)])
    assert not is_whole(torn)
    assert find_checkpoint(checkpoints) not in {torn, None}
    assert not torn.exists()


@pytest.mark.parametrize("torn", [None, "optimizer.bin", "pytorch_model_fsdp.bin"])
def test_a_checkpoint_whose_shared_out_state_was_gathered_is_whole_if_both_files_are(
    checkpoints, torn
):
    gathered = newest(checkpoints)
    (gathered / "optimizer.pt").rename(gathered / "optimizer.bin")
    shutil.copy(gathered / "optimizer.bin", gathered / "pytorch_model_fsdp.bin")
    if torn:
        content = (gathered / torn).read_bytes()
        (gathered / torn).write_bytes(content[: len(content) // 2])
    assert is_whole(gathered) is (torn is None)
