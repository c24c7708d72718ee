"""Observers of a training (metrics, samples, interruption), and the page drawn of what they wrote.

In: the trainer's events. Out: `metrics.jsonl`, `samples.jsonl`, a bar, `report.html`. Plain
classes with the events of transformers' `TrainerCallback`, so that nothing heavy is imported here.
Not done here: checkpoints (`train.checkpoints`), the report of a whole run (`medkd.report`).
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core import thinking
from medkd.core.completer import Sampling
from medkd.core.errors import MedkdError, StoppedError
from medkd.core.html import histogram, line_figure, write_page, write_svg
from medkd.core.jsonl import write_text
from medkd.core.progress import Bar
from medkd.core.records import Example, FinishReason
from medkd.models.chat_template import make_messages, render
from medkd.models.load import LoadedModel

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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines that a kill may have torn, without the lines that cannot be read."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(cast(dict[str, Any], json.loads(text)))
        except ValueError:
            continue
    return lines


def keep_lines(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Keep the lines up to a step; the steps after it are done again."""
    kept = [line for line in read_lines(path) if line["step"] <= last_step]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    return kept


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def take_curve(lines: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Take the steps at which something was measured, and its values."""
    points = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in points], [value for _, value in points]


Curves = Mapping[str, Mapping[str, str]]
"""Title of a plot to the names of its curves and their keys in `metrics.jsonl`."""


def write_training_page(
    out: Path,
    model: str,
    findings: Sequence[str],
    lengths: Mapping[str, Sequence[int]],
    dropped: Mapping[str, int],
    curves: Curves = MappingProxyType({}),
    **more: Any,
) -> None:
    """Write the page of whatever is there; a page that cannot be drawn hides no failure. `lengths`
    are those of the rows, in tokens; `more` are other values of the template."""
    lines = read_lines(out / "metrics.jsonl")
    plots: list[Any] = []
    losses = {"Loss": {"training": "loss", "validation": "eval_loss"}}
    for title, keys in {**losses, **curves}.items():
        series = {name: take_curve(lines, key) for name, key in keys.items()}
        drawn = {name: points for name, points in series.items() if points[0]}
        plots += [line_figure(drawn, title, "step", title.lower())] if drawn else []
    samples: dict[int, list[dict[str, object]]] = {}
    for sample in read_lines(out / "samples.jsonl"):
        samples.setdefault(int(sample["step"]), []).append(sample)
    flat = sorted(n for each in lengths.values() for n in each)
    if flat:
        n_tokens = {name: [float(n) for n in each] for name, each in lengths.items()}
        plots.append(histogram(n_tokens, "Length of rows", "tokens", "rows"))
        more["lengths"] = {
            "tokens": sum(flat),
            "median": flat[len(flat) // 2],
            "longest": flat[-1],
        }
    is_failing = sys.exception() is not None
    with suppress(MedkdError, OSError, ImportError, MemoryError) if is_failing else nullcontext():
        write_page(
            out / "report.html",
            "medkd.train",
            "report.html.jinja",
            title=f"Training of {model}",
            findings=findings,
            plots=[write_svg(plot) for plot in plots],
            dropped=dropped,
            samples=samples,
            last=lines[-1] if lines else {},
            **more,
        )


def tell_time(seconds: float) -> str:
    """Write a duration as a person would.

    >>> tell_time(50), tell_time(5000), tell_time(50000)
    ('50 s', '83 min', '13.9 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
