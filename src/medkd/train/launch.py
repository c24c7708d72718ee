"""One training on many processes: who starts them, and how they agree.

In: what to launch with, the machine's GPUs. Out: the exit of a launched command, or this process's
place among the others. Any launcher that sets RANK and WORLD_SIZE will do: `accelerate launch`,
`torchrun`. Not done here: training.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medkd.core.errors import InputError, StoppedError
from medkd.core.stage_output import MANIFEST, read_manifest

SPREADS = ("zero2", "zero3", "fsdp2")
"""Configs for `accelerate launch` that are shipped beside this file."""
ERROR_MARK = "error: "


class Place(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    local_rank: int = 0
    n_processes: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def find_place() -> Place:
    """Read what the launcher said; alone where there was none."""
    numbers = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))
    )
    return Place(*numbers)


def is_launched() -> bool:
    """Tell whether a launcher started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def agree(decision: Any, device: str) -> Any:
    """Give the main process's decision to every process; waits for all of them."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=device == "cpu")
    return broadcast_object_list([decision])[0]


def find_command(launch: str, n_gpus: int, fits_one: bool) -> list[str]:
    """Make the command that starts every process; empty where this one is enough.

    `auto` starts one process a GPU, and shares the weights out among them (FSDP2) where one GPU
    cannot hold them.
    """
    if launch == "none" or (launch == "auto" and n_gpus <= 1):
        return []
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    if launch == "auto":
        spread = [
            "--multi_gpu",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
        ]
        return [
            *accelerate,
            "--num_processes",
            str(n_gpus),
            *(spread if fits_one else ["--config_file", str(find_spread("fsdp2"))]),
        ]
    if launch in SPREADS:
        return [
            *accelerate,
            "--config_file",
            str(find_spread(launch)),
            "--num_processes",
            str(max(n_gpus, 1)),
        ]
    words = shlex.split(launch)
    if words[:2] == ["accelerate", "launch"]:
        return [*accelerate, *words[2:]]
    if words[:1] == ["torchrun"]:
        return [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return words


def find_spread(name: str) -> Path:
    """Find a shipped config of `accelerate launch`."""
    return Path(__file__).parent / "spread" / f"{name}.yaml"


def run_command(command: list[str], fields: Mapping[str, Any]) -> None:
    """Start every process on `medkd train` with these fields and follow them; raises what the first
    failing one said.

    A launcher tells a failure in pages of its own: of those, only the one line of ours is passed
    on.
    """
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "train.yaml"
        recipe.write_text(
            yaml.safe_dump({"train": dict(fields)}, allow_unicode=True), encoding="utf-8"
        )
        words = [*command, "-m", "medkd", "train", "--recipe", str(recipe)]
        try:
            # On stdout they say only what this process says itself when they have ended.
            process = subprocess.Popen(  # noqa: S603
                words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise InputError(
                f"--launch {shlex.join(command)}: cannot be started ({error.strerror}); is it installed?"
            ) from error
        failure = _follow(process)
        code = process.wait()
    if code:
        advice = (
            "was killed; run the same command again"
            if code < 0
            else f"ended with code {code}; start it by hand to see what it says"
        )
        message = failure or f"--launch {shlex.join(command)}: {advice}"
        out = Path(str(fields["out"]))
        was_begun = (out / MANIFEST).exists() and read_manifest(out).state != "finished"
        raise StoppedError(message) if was_begun else InputError(message)


def _follow(process: "subprocess.Popen[str]") -> str:
    """Pass on what the processes say until one reports a failure; gives that failure."""
    failure = ""
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    try:
        for line in process.stderr:
            if line.startswith(ERROR_MARK) and not failure:
                failure = line.removeprefix(ERROR_MARK).strip()
            if not failure:
                sys.stderr.write(line)
                sys.stderr.flush()
    except KeyboardInterrupt:
        process.wait()
        raise
    return failure
