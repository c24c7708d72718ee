"""What is written while a training runs: a line of metrics a logged step, what the student says at
each save, the expected time.

In: the trainer's own calls. Out: `metrics.jsonl`, `samples.jsonl`, a bar on the screen. Not done
here: the page made of them (`train.report`). This module imports transformers: import it inside
functions only.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core import thinking
from medkd.core.completer import Sampling
from medkd.core.errors import StoppedError
from medkd.core.progress import Bar
from medkd.core.records import Example, FinishReason
from medkd.models.chat_template import make_messages, render
from medkd.models.load import LoadedModel

MEASURED_STEPS = 5
"""Steps after which the expected time is told."""
N_SAMPLES = 2
SAMPLE_TOKENS = 256


class MetricsWriter(TrainerCallback):
    """Write one line of metrics a logged step, move the bar, and tell the expected time."""

    def __init__(self, path: Path, bar: Bar, resumed_step: int) -> None:
        self.path, self.bar, self.resumed_step = path, bar, resumed_step
        kept = keep_lines(path, resumed_step)
        self._spent = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self._started = time.monotonic()
        self._first_step_done = self._started
        self.expected_s: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar.reach(state.global_step, self.resumed_step)
        n_done = state.global_step - self.resumed_step
        if n_done == 1:
            self._first_step_done = time.monotonic()
        if n_done == MEASURED_STEPS:
            # The first step also pays for what is done once.
            a_step = (time.monotonic() - self._first_step_done) / (MEASURED_STEPS - 1)
            self.expected_s = round(a_step * state.max_steps, 1)
            left = a_step * (state.max_steps - state.global_step)
            print(
                f"{self.bar.name}: about {tell_time(left)} for the other {state.max_steps - state.global_step} steps",
                file=sys.stderr,
                flush=True,
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or not state.is_world_process_zero or not ({"loss", "eval_loss"} & logs.keys()):
            return
        if "loss" in logs:
            self.bar.advance(0, note=f"loss {float(logs['loss']):.3f}")
        line = {
            "step": state.global_step,
            "seconds": round(self._spent + time.monotonic() - self._started, 2),
        }
        line |= {key: value for key, value in logs.items() if isinstance(value, int | float)}
        append_line(self.path, line)


class SampleWriter(TrainerCallback):
    """Ask the student a few unseen questions at each save, and write down what it says.

    Not where the weights are spread over several processes: there, all of them would have to
    generate together.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
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

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not self.prompts:
            return
        student = getattr(model, "module", model)
        was_training = student.training
        student.eval()
        local = TransformersEngine(LoadedModel(student, self.tokenizer), batch_size=N_SAMPLES)
        for at, generation in local.generate(self.prompts, Sampling(max_tokens=SAMPLE_TOKENS)):
            line = {
                "step": state.global_step,
                "id": self.examples[at].id,
                "question": self.examples[at].input,
                "reference": self.examples[at].reference,
                "text": generation.text,
                "thinks": thinking.is_well_formed(generation.text),
                "stops": generation.finish_reason == FinishReason.STOP,
            }
            append_line(self.path, line)
        student.train(was_training)


class Interruption(TrainerCallback):
    """Let an interruption (Ctrl-C, `medkd stop`) end the step and keep a checkpoint first; a second
    one ends at once."""

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

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.is_wanted:
            control.should_save = control.should_training_stop = True


class Leaving(TrainerCallback):
    """End a launched process at its next step once its launcher is gone: nobody is left to stop it,
    or to hear what it says."""

    def __init__(self) -> None:
        self.launcher = os.getppid()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if os.getppid() != self.launcher:
            raise StoppedError(
                "train: what launched this process is gone; run the same command again, it goes on from the last checkpoint"
            )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that a kill may have torn; what cannot be read is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(cast(dict[str, Any], json.loads(text)))
        except ValueError:
            continue
    return lines


def keep_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Keep the lines up to a step: what came after it is done again."""
    kept = [line for line in read_lines(path) if line["step"] <= last_step]
    path.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8"
    )
    return kept


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def tell_time(seconds: float) -> str:
    """Say a duration as a person would.

    >>> tell_time(50), tell_time(5000), tell_time(50000)
    ('50 s', '83 min', '13.9 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
