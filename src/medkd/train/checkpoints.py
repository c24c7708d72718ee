"""Checkpoints that survive a kill: which one to go on from, and which ones may be deleted.

In: the directory the trainer saves into. Out: the newest complete checkpoint. A checkpoint that
this program did not write and finish is named, and never changed or deleted. Not done here:
saving (the trainer does).
"""

import json
import shutil
import sys
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medkd.core.config import StageConfig
from medkd.core.jsonl import write_json
from medkd.core.stage_output import StageOutput, open_stage_output
from medkd.train.callbacks import Callback
from medkd.train.config import LIBRARIES
from medkd.train.processes import ORPHANS_WAIT_S

CHECKPOINTS = "checkpoints"
MARK = "medkd_checkpoint.json"
"""Written empty before a save, and with the size of every file after it."""
N_KEPT = 3
"""Checkpoints kept: the best, the newest, and one in case that is torn."""
_STATE = "trainer_state.json"


class CheckpointKeeper(Callback):
    """Marks each checkpoint once all its files are written, and deletes the oldest marked ones.

    The rotation of transformers deletes whatever is named `checkpoint-*`, so it is switched off:
    `save_total_limit` is taken from the trainer's config. Add it behind whatever asks for a save.
    """

    def __init__(self, directory: Path, args: Any) -> None:
        self.directory, self.limit = directory, args.save_total_limit
        args.save_total_limit = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save:
            control.should_save = self._claim(state.global_step, state.is_world_process_zero)

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            _mark_complete(self._folder(state.global_step))
            self._rotate(Path(state.best_model_checkpoint or ""))

    def _folder(self, step: int) -> Path:
        return self.directory / f"checkpoint-{step}"

    def _claim(self, step: int, is_main: bool) -> bool:
        """Mark a checkpoint as begun; False where something that is not ours stands in its place.

        The folder appears with its mark in it, so that every process comes to the same answer.
        """
        folder = self._folder(step)
        if folder.exists():
            is_ours = _read_mark(folder) is not None
            if not is_ours and is_main:
                _tell_left_alone(folder, f"no checkpoint is written at step {step}")
            return is_ours
        if is_main:
            temporary = self.directory / f".checkpoint-{step}.tmp"
            temporary.mkdir(parents=True, exist_ok=True)
            write_json(temporary / MARK, {})
            temporary.rename(folder)
        return True

    def _rotate(self, best: Path) -> None:
        if not self.limit or self.limit < 0:
            return
        complete = [path for path in list_checkpoints(self.directory) if is_complete(path)]
        protected = {complete[-1].resolve(), best.resolve()} if complete else set[Path]()
        disposable = [path for path in complete if path.resolve() not in protected]
        for path in disposable[: max(0, len(complete) - self.limit)]:
            shutil.rmtree(path)


@contextmanager
def open_training(
    stage: str, config: StageConfig, inputs: Mapping[str, Path | None], writes: Sequence[str]
) -> Generator[StageOutput]:
    """Open the directory of a stage that trains; to begin again, its own checkpoints are deleted.

    `checkpoints` is not among what the stage writes: of it only this module deletes anything.
    """
    given = {role: [path] if path else [] for role, path in inputs.items()}
    with open_stage_output(
        stage, config, given, writes, libraries=LIBRARIES, wait_s=ORPHANS_WAIT_S
    ) as output:
        if config.overwrite and not output.is_finished:
            delete_checkpoints(output.path(CHECKPOINTS))
        yield output


def list_checkpoints(directory: Path) -> list[Path]:
    """List the folders named like a checkpoint, by step."""
    numbered = [
        (int(path.name.rpartition("-")[2]), path)
        for path in directory.glob("checkpoint-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdecimal()
    ]
    return [path for _, path in sorted(numbered)]


def find_checkpoint(directory: Path) -> Path | None:
    """Find the newest checkpoint that a training can go on from, and name those left alone."""
    found = None
    for path in reversed(list_checkpoints(directory)):
        if not is_complete(path) and not _is_whole_without_mark(path):
            _tell_left_alone(path)
        elif found is None and _can_be_resumed(path):
            found = path
    return found


def delete_checkpoints(directory: Path) -> None:
    """Delete the checkpoints that this program finished, and name those left alone."""
    for path in list_checkpoints(directory):
        if is_complete(path):
            shutil.rmtree(path)
        else:
            _tell_left_alone(path)


def read_step(checkpoint: Path | None) -> int:
    """Read how many steps were done at a checkpoint; 0 without one."""
    return int(json.loads((checkpoint / _STATE).read_bytes())["global_step"]) if checkpoint else 0


def is_complete(checkpoint: Path) -> bool:
    """Tell whether this program finished a checkpoint, and no file of it was lost or cut since."""
    files = (_read_mark(checkpoint) or {}).get("files")
    return isinstance(files, dict) and _list_sizes(checkpoint, files) == files  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _mark_complete(checkpoint: Path) -> None:
    names = [p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()]
    names = [name for name in names if name != MARK]
    write_json(checkpoint / MARK, {"files": _list_sizes(checkpoint, dict.fromkeys(names))})


def _list_sizes(checkpoint: Path, names: dict[str, Any]) -> dict[str, int]:
    paths = {name: checkpoint / name for name in names}
    return {name: path.stat().st_size for name, path in paths.items() if path.is_file()}


def _read_mark(checkpoint: Path) -> dict[str, Any] | None:
    """Read the mark of a checkpoint that this program began; None where there is none."""
    try:
        mark = json.loads((checkpoint / MARK).read_bytes())
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _can_be_resumed(checkpoint: Path) -> bool:
    """Tell whether a checkpoint holds the optimizer, in one file or in shards, beside the
    weights."""
    names = [path.name for path in checkpoint.iterdir()]
    has_optimizer = any(name.startswith(("optimizer", "global_step")) for name in names)
    return has_optimizer and (checkpoint / _STATE).is_file()


def _is_whole_without_mark(checkpoint: Path) -> bool:
    """Tell whether every file of a checkpoint of version 0.1, which wrote no marks, is whole."""
    weights = sorted(checkpoint.glob("*.safetensors"))
    random_states = sorted(checkpoint.glob("rng_state*.pth"))
    optimizer = checkpoint / "optimizer.bin"
    states = [optimizer if optimizer.exists() else checkpoint / "optimizer.pt"]
    states += [checkpoint / "scheduler.pt", *random_states, *checkpoint.glob("*.bin")]
    try:
        read_step(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    is_whole = all(zipfile.is_zipfile(path) for path in states if path.name != "training_args.bin")
    return bool(weights and random_states) and is_whole and all(map(_has_full_length, weights))


def _has_full_length(weights: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says."""
    with weights.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(n_header))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_"]
        except (ValueError, KeyError, TypeError, MemoryError, OverflowError):
            return False
    return weights.stat().st_size == 8 + n_header + max(ends, default=0)


def _tell_left_alone(path: Path, result: str = "") -> None:
    line = f"{path}: not a checkpoint that this program finished; it is left alone"
    print(f"{line}, and {result}" if result else line, file=sys.stderr, flush=True)
