"""What is kept of a training: checkpoints that survive a kill, and at its end the whole folder.

In: the directory a trainer saves into, a finished trainer. Out: the newest complete checkpoint;
`adapter/` or `model/` with all that serving takes. A checkpoint that this program did not write and
finish is named, and never changed or deleted. Not done here: merging and proving (`medkd.export`).
"""

import json
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.errors import MedkdError, StoppedError, from_os_error, is_disk_full
from medkd.core.jsonl import write_json
from medkd.core.progress import Bar
from medkd.core.records import Example
from medkd.core.stage_output import StageOutput, open_stage_output
from medkd.models.inspect import read_json
from medkd.models.load import open_to_readers
from medkd.train.callbacks import ORPHANS_WAIT_S, Callback, Interruption, MetricsWriter
from medkd.train.config import CHECKPOINTS, StudentConfig, Target, explain_refusal

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

ADAPTER, QUESTIONS, LINEAGE = "adapter", "questions.json", "lineage.json"
N_QUESTIONS = 20
"""Unseen questions kept beside the weights, for `export` to prove the model on."""
MARK = "medkd_checkpoint.json"
"""Written empty before a save, and with the size of every file after it."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")
WRITES = (
    ADAPTER,
    "model",
    "metrics.jsonl",
    "samples.jsonl",
    "held_out.jsonl",
    "start.json",
    "report.html",
    ".adapter.tmp",
    ".model.tmp",
)
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
    stage: str, config: StudentConfig, inputs: Mapping[str, Path | None]
) -> Generator[StageOutput]:
    """Open the directory of a stage that trains; to begin again, its own checkpoints are deleted.

    `checkpoints` is not among what the stage writes: of it only this module deletes anything.
    """
    model = config.resolve_model() if Path(config.model).is_dir() else None
    roles = {role: [path] if path else [] for role, path in {**inputs, "model": model}.items()}
    with open_stage_output(
        stage, config, roles, WRITES, libraries=LIBRARIES, wait_s=ORPHANS_WAIT_S
    ) as output:
        if config.overwrite and not output.is_finished:
            delete_checkpoints(output.path(CHECKPOINTS))
        yield output


def run_trainer(
    trainer: "Trainer",
    name: str,
    out: Path,
    checkpoint: Path | None,
    callbacks: Sequence[Callback] = (),
    is_main: bool = True,
) -> MetricsWriter | None:
    """Train from the start or from a checkpoint; an interruption ends the step and saves a
    checkpoint first. Returns the writer of metrics, which the main process alone has.

    Raises InputError for a setting that only the optimizer finds wrong, before the first step.
    """
    bar = Bar(name, unit="steps") if is_main else nullcontext()
    step = read_step(checkpoint)
    with bar as shown, Interruption(name) as interruption:
        metrics = MetricsWriter(out / "metrics.jsonl", shown, step) if shown else None
        keeper = CheckpointKeeper(out / CHECKPOINTS, trainer.args)
        for callback in (metrics, interruption, keeper, *callbacks):
            if callback is not None:
                trainer.add_callback(cast(Any, callback))
        if checkpoint and _is_over(checkpoint, trainer.args):
            # Resumed in the middle of an epoch, a trainer takes a step before it counts them.
            trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except ValueError as error:
            is_optimizers = "Invalid" in str(error) and trainer.state.global_step <= step
            raise explain_refusal(error) if is_optimizers else error from error
        if interruption.is_wanted:
            raise KeyboardInterrupt
    return metrics


def _is_over(checkpoint: Path, args: "TrainingArguments") -> bool:
    """Tell whether a checkpoint is the last one of a training."""
    state = json.loads((checkpoint / _STATE).read_bytes())
    if args.max_steps > 0:
        return state["global_step"] >= args.max_steps
    return state["epoch"] >= args.num_train_epochs


@contextmanager
def explaining(out: Path, limit: str = "--max-length") -> Generator[None]:
    """Turn what can happen in a long training into one line with the next step; a bug stays
    itself."""
    try:
        yield
    except MedkdError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise StoppedError(
                "{}: the disk is full; free some space and run the same command again, the "
                "last whole checkpoint is kept",
                out,
            ) from error
        if isinstance(error, OSError):
            raise from_os_error(error, out) from error
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
            raise StoppedError(
                "{}: out of memory; lower --batch-size or {}, or give "
                "--trainer.gradient-checkpointing true, and run again with --resume: the "
                "last checkpoint is kept",
                out,
                limit,
            ) from error
        raise


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
    return bool(weights and random_states) and is_whole and all(map(_can_be_opened, weights))


def _can_be_opened(weights: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _tell_left_alone(path: Path, result: str = "") -> None:
    line = f"{path}: not a checkpoint that this program finished; it is left alone"
    print(f"{line}, and {result}" if result else line, file=sys.stderr, flush=True)


def save_weights(trainer: "Trainer", final: Path, base: str, is_main: bool = True) -> Path:
    """Write the weights into a folder beside the final one; every process takes part where they
    are sharded."""
    temporary = final.with_name(f".{final.name}.tmp")
    if is_main:
        shutil.rmtree(temporary, ignore_errors=True)
    trainer.save_model(str(temporary))
    if is_main:
        open_to_readers(temporary)
        config_path = temporary / "adapter_config.json"
        if config := read_json(config_path):
            write_json(config_path, config | {"base_model_name_or_path": base})
        # Training switches the cache off; whoever generates with the folder wants it on.
        config_path = temporary / "config.json"
        if config := read_json(config_path):
            write_json(config_path, config | {"use_cache": True})
        for name in ("training_args.bin", "README.md"):
            (temporary / name).unlink(missing_ok=True)
        # The start from which reinforcement measures its divergence.
        shutil.rmtree(temporary / "ref", ignore_errors=True)
    return temporary


def save_metadata(
    trainer: "Trainer",
    temporary: Path,
    final: Path,
    template: str,
    stop_ids: Sequence[int],
    questions: dict[str, Any],
    lineage: dict[str, Any],
) -> None:
    """Write everything else that serving takes beside the weights, and put the folder in its
    place."""
    tokenizer = cast(Any, trainer.processing_class)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(temporary))
    model = cast(Any, trainer.accelerator.unwrap_model(cast(Any, trainer.model)))
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = list(stop_ids), tokenizer.pad_token_id
    generation.save_pretrained(str(temporary))
    write_json(temporary / QUESTIONS, questions)
    write_json(temporary / LINEAGE, lineage)
    _replace(final, temporary)


def _replace(final: Path, temporary: Path) -> None:
    """Put a folder in the place of another; files that a person put into the other one stay."""
    if final.is_dir():
        for path in final.iterdir():
            if not (temporary / path.name).exists():
                path.rename(temporary / path.name)
        shutil.rmtree(final)
    temporary.rename(final)


def choose_questions(
    examples: Sequence[Example], val_examples: Sequence[Example]
) -> dict[str, Any]:
    """Choose bare questions to prove the model on: from rows it never saw, or else from the last
    ones it was trained on."""
    source = val_examples or examples[-N_QUESTIONS:]
    return {
        "unseen": bool(val_examples),
        "questions": [{"id": e.id, "question": e.input} for e in source[:N_QUESTIONS]],
    }


def trace_lineage(examples: Sequence[Example], model: str, target: Target) -> dict[str, Any]:
    """Sum up where the training rows come from: sources, licences, teachers, what they cost, how
    they were de-identified."""
    costs: Counter[str] = Counter()
    for example in examples:
        costs[example.lineage.cost.currency] += example.lineage.cost.amount  # pyright: ignore[reportArgumentType]
    return {
        "base_model": model,
        "target": target,
        "rows": len(examples),
        "sources": dict(Counter(e.source for e in examples)),
        "licences": dict(Counter(e.lineage.licence or "unknown" for e in examples)),
        "teachers": dict(Counter(e.lineage.teacher or "none" for e in examples)),
        "deidentified_by": dict(
            Counter(e.lineage.deidentified_by or "not patient text" for e in examples)
        ),
        "styles": dict(Counter(str(e.style) for e in examples)),
        "cost": {currency: round(amount, 6) for currency, amount in costs.items() if amount},
    }
