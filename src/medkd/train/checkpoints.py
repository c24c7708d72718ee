"""What a training writes while it runs, and what ends it early: metrics, samples, checkpoints that
survive a kill.

In: the trainer's events; the directory it saves into. Out: `metrics.jsonl`, `samples.jsonl`, a bar;
the newest complete checkpoint. A checkpoint that this program did not write and finish is named,
and never changed or deleted. Not done here: the final folder (`train.student`), reports.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core import thinking
from medkd.core.errors import StoppedError
from medkd.core.jsonl import write_json, write_text
from medkd.core.progress import Bar
from medkd.core.records import Example, FinishReason, Sampling
from medkd.models.chat_template import make_messages, render
from medkd.models.load import LoadedModel
from medkd.report.material import read_lines

N_SAMPLES = 2
SAMPLE_TOKENS = 256
MARK = "medkd_checkpoint.json"
"""Written empty before a save, and with the size of every file after it."""
STATE = "trainer_state.json"


class Callback:
    """An observer of a trainer; events of `TrainerCallback` that a subclass leaves out do
    nothing."""

    def has_ended(self, step: int) -> bool:
        """Tell whether an earlier run that got to a step was ended by this observer there."""
        return False

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return _ignore
        raise AttributeError(name)


def _ignore(*_: Any, **__: Any) -> None:
    pass


class MetricsWriter(Callback):
    """Writes one line of metrics a logged step, and moves the bar."""

    def __init__(self, path: Path, bar: Bar) -> None:
        self.path, self.bar = path, bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.total, self._resumed_step = state.max_steps, state.global_step
        kept = keep_lines(self.path, state.global_step)
        self._seconds_before = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.reach(state.global_step, self._resumed_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if not logs or not state.is_world_process_zero or not ({"loss", "eval_loss"} & logs.keys()):
            return
        if "loss" in logs:
            self.bar.advance(0, note=f"loss {float(logs['loss']):.3f}")
        seconds = self._seconds_before + time.monotonic() - self._started
        numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
        append_line(self.path, {"step": state.global_step, "seconds": round(seconds, 2)} | numbers)


class SampleWriter(Callback):
    """Asks the student a few unseen questions at each save, and writes its answers down.

    Not where weights are sharded: there, all processes would have to generate together.
    """

    def __init__(
        self, path: Path, tokenizer: Any, plain_template: str, examples: Sequence[Example]
    ) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.examples = examples[:N_SAMPLES]
        self.prompts = [
            render(tokenizer, make_messages(example.input), plain_template)
            for example in self.examples
        ]

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        step = state.global_step
        n_shown = sum(line["step"] == step for line in read_lines(self.path))
        is_late = step > 0 and n_shown < len(self.prompts)
        keep_lines(self.path, step - is_late)
        if is_late:  # a kill came between the checkpoint and its samples
            self.on_save(args, state, control, **more)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not self.prompts:
            return
        student = getattr(model, "module", model)
        was_training = student.training
        student.eval()
        engine = TransformersEngine(LoadedModel(student, self.tokenizer), batch_size=N_SAMPLES)
        for at, generation in engine.generate(self.prompts, Sampling(max_tokens=SAMPLE_TOKENS)):
            example = self.examples[at]
            line = {
                "step": state.global_step,
                "id": example.id,
                "question": example.input,
                "reference": example.reference,
                "text": generation.text,
                "thinks": thinking.is_well_formed(generation.text),
                "stops": generation.finish_reason == FinishReason.STOP,
            }
            append_line(self.path, line)
        student.train(was_training)


class Interruption(Callback):
    """Lets an interruption (Ctrl-C, `medkd stop`) end the step and save a checkpoint first; a
    second one ends at once, and so does the first where no step has begun."""

    def __init__(self, name: str = "train") -> None:
        self.name, self.is_wanted, self.has_begun = name, False, False

    def __enter__(self) -> "Interruption":
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: object) -> None:
        if self.is_wanted or not self.has_begun:
            raise KeyboardInterrupt
        self.is_wanted = True
        print(f"{self.name}: interrupted; keeping a checkpoint first", file=sys.stderr, flush=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.has_begun = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.is_wanted:
            control.should_save = control.should_training_stop = True


class StopIfOrphaned(Callback):
    """Ends a launched process at its next step once its launcher is gone: nobody is left to stop
    it, or to read its output."""

    def __init__(self) -> None:
        self.launcher = os.getppid()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if os.getppid() != self.launcher:
            raise StoppedError(
                "train: what launched this process is gone; run the same command again, it goes on "
                "from the last checkpoint"
            )


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
        if not is_complete(path):
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
    return int(json.loads((checkpoint / STATE).read_bytes())["global_step"]) if checkpoint else 0


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
    return has_optimizer and (checkpoint / STATE).is_file()


def _tell_left_alone(path: Path, result: str = "") -> None:
    line = f"{path}: not a checkpoint that this program finished; it is left alone"
    print(f"{line}, and {result}" if result else line, file=sys.stderr, flush=True)


def keep_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Keep the lines up to a step; the steps after it are done again."""
    kept = [line for line in read_lines(path) if line["step"] <= last_step]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    return kept


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
