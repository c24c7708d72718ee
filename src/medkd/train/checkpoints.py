"""Checkpoints that survive a kill: the newest whole one is found, torn ones are put away.

In: the directory the trainer saves into. Out: the checkpoint to go on from. Not done here: saving
(the trainer does).
"""

import json
import shutil
import zipfile
from pathlib import Path

_STATE = "trainer_state.json"
_SPREAD = ("global_step*", "optimizer_0", "pytorch_model_fsdp_0")
"""What stands in the place of one optimizer file where its state is shared out among processes."""
_GATHERED = ("optimizer.bin", "pytorch_model_fsdp.bin")
"""The same, where FSDP gathers it into one file, as the shipped config says."""


def find_checkpoint(directory: Path) -> Path | None:
    """Find the newest checkpoint that is whole, and delete the newer, torn ones, so that nobody
    goes on from them."""
    numbered = [
        (int(path.name.rpartition("-")[2]), path)
        for path in directory.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        if is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def read_step(checkpoint: Path) -> int:
    """Read how many steps were done at a checkpoint."""
    return int(json.loads((checkpoint / _STATE).read_bytes())["global_step"])


def is_whole(checkpoint: Path) -> bool:
    """Tell whether every file of a checkpoint is there to its end; a kill can come in the middle of
    any of them."""
    weights, random_states = (
        sorted(checkpoint.glob("*.safetensors")),
        sorted(checkpoint.glob("rng_state*.pth")),
    )
    if not weights or not random_states or not _has_all_shards(checkpoint):
        return False
    single = [checkpoint / name for name in ("scheduler.pt", *_list_optimizer_files(checkpoint))]
    try:
        read_step(checkpoint)
    except (OSError, ValueError, KeyError):
        return False
    return all(
        path.exists() and _is_whole_file(path) for path in [*weights, *random_states, *single]
    )


def _list_optimizer_files(checkpoint: Path) -> tuple[str, ...]:
    if any(any(checkpoint.glob(pattern)) for pattern in _SPREAD):
        return ()
    return _GATHERED if (checkpoint / _GATHERED[0]).exists() else ("optimizer.pt",)


def _has_all_shards(checkpoint: Path) -> bool:
    """Tell whether every file that an index of sharded weights names is there."""
    index = checkpoint / "model.safetensors.index.json"
    if not index.exists():
        return True
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError):
        return False
    return all((checkpoint / name).exists() for name in names)


def _is_whole_file(path: Path) -> bool:
    """Tell whether a file is complete: torch saves zip archives, whose directory comes last;
    safetensors names its own length."""
    if path.suffix in {".pt", ".pth", ".bin"}:
        return zipfile.is_zipfile(path)
    if path.suffix == ".safetensors":
        return _has_full_length(path)
    return True


def _has_full_length(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if size < 8 + n_header:
            return False
        try:
            header = json.loads(file.read(n_header))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + n_header + max(ends, default=0)
