"""The stage `evaluate`: what a model can do on questions it never saw, asked bare.

In: a model, an adapter of `train` if any, `test.jsonl` of `merge`. Out: `predictions.jsonl`, `unprompted.jsonl` (the same under
the plain template, where that is another one), `scores.json`, `report.html`.
Not done here: comparing several evaluations, exams, judges.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from medkd.core.artifacts import RecordAppender, RecordReader, resolve_input, write_json
from medkd.core.completer import Sampling
from medkd.core.errors import InputError
from medkd.core.progress import Bar
from medkd.core.recipe import HOW, StageConfig
from medkd.core.records import Example, Prediction
from medkd.core.workspace import Manifest, Workspace, open_workspace
from medkd.models.load import Device, Dtype, Hub, load_model, resolve_adapter, resolve_model

TIMES = "generation.json"


class Config(StageConfig):
    """Ask a model the questions of `test.jsonl` and score its answers."""

    model: str
    """Model: medkd:tiny, a folder, or a name on a hub."""
    adapter: Annotated[Path | None, HOW] = None
    """Directory of `train`, or an adapter folder; its tokenizer and template are used."""
    input: Annotated[Path, HOW]
    """Directory of `merge`, or a file of examples."""
    hub: Annotated[Hub, HOW] = "huggingface"
    """Where a model that is only named is fetched from."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest answer in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token; R1 models are often sampled at 0.6."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Share of probability to sample from."""
    seed: int = 0
    """Decides what is drawn, and the bootstrap."""
    limit: int | None = Field(default=None, ge=1)
    """Ask only the first questions."""
    batch_size: Annotated[int, HOW] = Field(default=64, ge=1)
    """Questions at a time; lower it where memory runs out."""
    dtype: Dtype = "auto"
    """Number format; auto takes bfloat16 where the processor computes in it."""
    device: Annotated[Device, HOW] = "auto"
    """Where to compute."""


def run(config: Config) -> Manifest:
    """Evaluate as configured; questions answered before a kill are not asked again."""
    test_path = resolve_input(config.input, "test.jsonl", made_by="merge")
    folder = resolve_model(config.model, config.hub)
    adapter = resolve_adapter(config.adapter) if config.adapter else None
    inputs = [test_path, *([adapter] if adapter else []), *([folder] if Path(config.model).is_dir() else [])]
    with open_workspace("evaluate", config, inputs=inputs, libraries=["torch", "transformers", "peft", "scipy"]) as space:
        if space.is_finished:
            return space.manifest
        reader = RecordReader(test_path, Example, made_by="merge")
        examples = list(reader)[: config.limit]
        space.read(reader.n_read)
        space.drop_all(reader.dropped())
        if not examples:
            raise InputError(f'{test_path}: no questions; give "medkd merge" a share for the test split')
        predictions, unprompted, speed = evaluate(config, space, examples)
        _write_scores(config, space, predictions, unprompted, speed)
        return space.manifest


def evaluate(config: Config, space: Workspace, examples: Sequence[Example]) -> tuple[list[Prediction], list[Prediction], float | None]:
    """Ask every question under the model's own template and, where that begins the thinking, under the plain one; and time it."""
    from medkd.completers.local import LocalModel
    from medkd.evaluate.tasks import ask, ask_plainly, can_be_asked_plainly, make_tasks
    from medkd.grading.checks import is_looping

    loaded = load_model(config.model, resolve_adapter(config.adapter) if config.adapter else None, config.device, config.dtype, config.hub)
    model = LocalModel(loaded, config.batch_size, is_looping)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature or None, top_p=config.top_p, seed=config.seed)
    space.manifest.facts |= {"dtype": str(loaded.model.dtype).removeprefix("torch."), "device": str(loaded.model.device)}

    done = _read_done(space.path("predictions.jsonl"), examples)
    remaining = [example for example in examples if example.id not in done]
    started = time.monotonic()
    try:
        _keep(ask(model, make_tasks(model, remaining), sampling), space.path("predictions.jsonl"), done, len(examples), "ask")
    finally:
        speed = _add_time(space, len(done) - (len(examples) - len(remaining)), time.monotonic() - started)

    plain: dict[str, Prediction] = {}
    if can_be_asked_plainly(model):
        plain = _read_done(space.path("unprompted.jsonl"), examples)
        remaining = [example for example in examples if example.id not in plain]
        answers = ask_plainly(model, remaining, done.__getitem__, sampling)
        _keep(answers, space.path("unprompted.jsonl"), plain, len(examples), "ask plainly")
    return [done[e.id] for e in examples], [plain[e.id] for e in examples if e.id in plain], speed


def _read_done(path: Path, examples: Sequence[Example]) -> dict[str, Prediction]:
    """Read the predictions that an earlier run left, a torn last line apart."""
    if not path.exists() or not path.stat().st_size:
        return {}
    with RecordAppender(path):
        pass
    if not path.stat().st_size:
        return {}
    wanted = {example.id for example in examples}
    return {p.id: p for p in RecordReader(path, Prediction, made_by="evaluate") if p.id in wanted}


def _keep(predictions: Iterable[Prediction], path: Path, done: dict[str, Prediction], total: int, name: str) -> None:
    with RecordAppender(path) as file, Bar(name, total, "questions") as bar:
        bar.advance(len(done))
        for prediction in predictions:
            file.append(prediction)
            done[prediction.id] = prediction
            bar.advance()


def _add_time(space: Workspace, n_asked: int, seconds: float) -> float | None:
    """Add to the questions and seconds that earlier runs took, and give questions a second."""
    from medkd.models.load import read_json

    before = read_json(space.path(TIMES)) or {"questions": 0, "seconds": 0.0}
    total: dict[str, Any] = {"questions": before["questions"] + n_asked, "seconds": round(before["seconds"] + seconds, 3)}
    write_json(space.path(TIMES), total)
    return total["questions"] / total["seconds"] if total["questions"] and total["seconds"] else None


def _write_scores(
    config: Config, space: Workspace, predictions: Sequence[Prediction], unprompted: Sequence[Prediction], speed: float | None
) -> None:
    from medkd.evaluate.report import write_report
    from medkd.evaluate.statistics import make_scores

    scores = make_scores(predictions, unprompted, speed, config.seed)
    write_json(space.path("scores.json"), scores)
    name = f"{config.model} + {config.adapter}" if config.adapter else config.model
    missing = [] if unprompted else ["A second template: the model's own one leaves it to begin the thinking, so both think rates are one."]
    write_report(space.path("report.html"), scores, predictions, f"Evaluation of {name}", config.model_dump(mode="json"), missing)
    space.manifest.counts.kept = len(predictions)
    space.manifest.facts |= {key: value for key, value in scores.items() if key != "intervals"}
