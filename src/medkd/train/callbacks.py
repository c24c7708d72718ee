"""Observers of a training: metrics, samples, interruption.

In: the trainer's events. Out: `metrics.jsonl`, `samples.jsonl`, a bar. Plain classes with the
events of transformers' `TrainerCallback`, so that nothing heavy is imported here. Not done here:
checkpoints (`train.checkpoints`), reports (`medkd.report`).
"""

import json
import os
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
from medkd.core.jsonl import write_text
from medkd.core.progress import Bar
from medkd.core.records import Example, FinishReason, Sampling
from medkd.models.chat_template import make_messages, render
from medkd.models.load import LoadedModel
from medkd.report.material import read_lines

MEASURED_STEPS = 5
"""Steps after which the expected time is told."""
N_SAMPLES = 2
SAMPLE_TOKENS = 256
ORPHANS_WAIT_S = 120.0
"""Seconds that processes may keep the run's directory whose launcher was killed."""


class Callback:
    """An observer of a trainer; events of `TrainerCallback` that a subclass leaves out do
    nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return _ignore
        raise AttributeError(name)


def _ignore(*_: Any, **__: Any) -> None:
    pass


class MetricsWriter(Callback):
    """Writes one line of metrics a logged step, moves the bar, and tells the expected time."""

    def __init__(self, path: Path, bar: Bar, resumed_step: int) -> None:
        self.path, self.bar, self.resumed_step = path, bar, resumed_step
        kept = keep_lines(path, resumed_step)
        self._seconds_before = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._started = self._first_step_done = time.monotonic()
        self.expected_s: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.total = state.max_steps
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.reach(state.global_step, self.resumed_step)
        n_done = state.global_step - self.resumed_step
        if n_done == 1:
            self._first_step_done = time.monotonic()
        if n_done == MEASURED_STEPS:
            # The first step also pays for what is done once.
            step_s = (time.monotonic() - self._first_step_done) / (MEASURED_STEPS - 1)
            self.expected_s = round(step_s * state.max_steps, 1)
            n_left = state.max_steps - state.global_step
            print(
                f"{self.bar.name}: about {tell_time(step_s * n_left)} for the other {n_left} steps",
                file=sys.stderr,
                flush=True,
            )

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
        self,
        path: Path,
        tokenizer: Any,
        plain_template: str,
        examples: Sequence[Example],
        resumed_step: int,
    ) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.examples = examples[:N_SAMPLES]
        self.prompts = [
            render(tokenizer, make_messages(example.input), plain_template)
            for example in self.examples
        ]
        keep_lines(path, resumed_step)

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
    second one ends at once."""

    def __init__(self, name: str = "train") -> None:
        self.name, self.is_wanted = name, False

    def __enter__(self) -> "Interruption":
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: object) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt
        self.is_wanted = True
        print(f"{self.name}: interrupted; keeping a checkpoint first", file=sys.stderr, flush=True)

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


def keep_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Keep the lines up to a step; the steps after it are done again."""
    kept = [line for line in read_lines(path) if line["step"] <= last_step]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    return kept


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def tell_time(seconds: float) -> str:
    """Write a duration as a person would.

    >>> tell_time(50), tell_time(5000), tell_time(50000)
    ('50 s', '83 min', '13.9 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
