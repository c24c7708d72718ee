"""Everything that one evaluation asks: each question once, again under the plain template, in
samples and in other wordings.

In: the stage's config, its directory and the examples. Out: predictions, kept on the disk as they
come, so that a killed run goes on.
Not done here: how one question is put (`evaluate.tasks`), opening a model of this machine
(`evaluate.opening`), scores.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medkd.core.completer import Sampling
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordAppender, RecordReader, write_json
from medkd.core.progress import Bar
from medkd.core.prompts import load_prompts
from medkd.core.records import Example, Lineage, Prediction
from medkd.core.stage_output import StageOutput
from medkd.models.load import read_json, resolve_adapter, resolve_model

if TYPE_CHECKING:
    from medkd.completers.dispatch import PaidCompleter
    from medkd.completers.providers import Target
    from medkd.evaluate.looped import Traced
    from medkd.evaluate.stage import Config
    from medkd.evaluate.tasks import Asker, Task
    from medkd.grading.judge import RubricName

TIMES = "generation.json"


class Asked(NamedTuple):
    """What came back."""

    predictions: list[Prediction]
    unprompted: list[Prediction]
    sampled: dict[str, dict[str, float]]
    worded: list[dict[str, Any]]
    besides: list[Prediction]
    """Answers to questions without a known one."""
    failures: dict[str, int]
    speed: float | None
    """Questions a second, of all runs in this directory together."""
    seconds: float
    loops: "Traced | None" = None
    """Where looped answers may come from, if any looped."""


def find_inputs(config: "Config") -> tuple[Path | None, list[Path]]:
    """Find the folder that lineage starts from, and the paths that decide what is made; raises
    InputError where flags do not fit."""
    if config.samples > 1 and not config.temperature:
        raise InputError(
            f"--samples {config.samples}: equal answers tell nothing; add --temperature 0.6 --top-p 0.95"
        )
    if config.endpoint:
        if config.adapter:
            raise InputError(
                "--adapter: an endpoint serves its own weights; leave --adapter out, or evaluate with --model alone"
            )
        find_target_of(config.endpoint, config.model, "--endpoint")
        return None, []
    if not config.model:
        raise InputError(
            "medkd evaluate: which model? give --model, --endpoint, or --predictions FILE"
        )
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    adapter = resolve_adapter(config.adapter) if config.adapter else None
    return adapter or folder, [
        *([adapter] if adapter else []),
        *([folder] if Path(config.model).is_dir() else []),
    ]


def find_target_of(endpoint: str, model: str, flag: str) -> "Target":
    """Find whom to ask by the name of a provider or by an address."""
    from medkd.completers.providers import find_target

    try:
        return (
            find_target("custom", model, endpoint)
            if "://" in endpoint
            else find_target(endpoint, model)
        )
    except InputError as error:
        raise InputError(
            str(error).replace("--teacher custom", f"{flag} {endpoint}").replace("--teacher", flag)
        ) from error


def open_completer(
    target: "Target",
    config: "Config",
    space: StageOutput,
    name: str,
    find_fault: Callable[[str, str], str],
    servers: ExitStack,
) -> "PaidCompleter":
    """Open a completer whose attempts stand on the directory's ledger, its cost on the screen."""
    from medkd.completers.continuation import Missing
    from medkd.completers.dispatch import PaidCompleter, Tally, Terms
    from medkd.completers.endpoint import Endpoint
    from medkd.completers.ledger import Ledger

    ledger = servers.enter_context(Ledger(space.path("ledger.sqlite")))
    bar = servers.enter_context(Bar(name, unit="answers"))
    currency = target.provider.currency if target.is_priced else ""

    def find_missing(reasoning: str, text: str) -> Missing | None:
        fault = find_fault(reasoning, text)
        return Missing(fault, is_at_end=False) if fault else None

    def show(tally: Tally) -> None:
        bar.reach(
            tally.n_settled,
            tally.n_found,
            f"{tally.spent:.4f} {currency}" if currency else "price unknown",
        )

    return PaidCompleter(
        Endpoint(target),
        ledger,
        Terms(budget=config.budget, find_missing=find_missing, on_progress=show),
    )


def open_judge(
    config: "Config", space: StageOutput, rubric: "RubricName", servers: ExitStack
) -> "PaidCompleter":
    """Open the judge of one rubric."""
    from medkd.grading.judge import load_rubric, make_fault_finder

    target = find_target_of(config.judge, config.judge_model, "--judge")
    return open_completer(
        target, config, space, "judge", make_fault_finder(load_rubric(rubric)), servers
    )


def ask_all(config: "Config", space: StageOutput, examples: Sequence[Example]) -> Asked:
    """Ask every question under the model's own template and, where that begins the thinking, under
    the plain one; and time it."""
    from medkd.evaluate.tasks import LocalAsker, make_tasks

    with ExitStack() as servers:
        sampling = Sampling(
            max_tokens=config.max_tokens,
            temperature=config.temperature or None,
            top_p=config.top_p,
            seed=config.seed,
        )
        instruction = load_prompts("zh").instruction if config.instructed else ""
        tasks, worded, besides = (
            make_tasks(examples, instruction),
            _word(config, examples),
            _list_besides(config, instruction),
        )
        asker = _open_asker(config, space, servers, [*tasks, *worded, *besides])
        done = _read_done(space.path("predictions.jsonl"), {t.id for t in tasks})
        n_before = len(done)
        started = time.monotonic()
        try:
            _keep(
                asker.ask([t for t in tasks if t.id not in done], sampling),
                space.path("predictions.jsonl"),
                done,
                len(tasks),
                "ask",
            )
        finally:
            speed, seconds = _add_time(space, len(done) - n_before, time.monotonic() - started)
        plain: dict[str, Prediction] = {}
        if isinstance(asker, LocalAsker) and asker.plain_template:
            plain = _read_done(space.path("unprompted.jsonl"), {t.id for t in tasks})
            answers = asker.ask_plainly(
                [t for t in tasks if t.id not in plain], done.__getitem__, sampling
            )
            _keep(answers, space.path("unprompted.jsonl"), plain, len(tasks), "ask plainly")
        sampled = _ask_samples(config, space, asker, tasks, sampling, done)
        table = _ask_wordings(config, space, asker, worded, sampling)
        answered = _ask_besides(space, asker, besides, sampling)
        ordered = [done[e.id] for e in examples if e.id in done]
        unprompted = [plain[e.id] for e in examples if e.id in plain]
        return Asked(ordered, unprompted, sampled, table, answered, asker.failures, speed, seconds)


def _open_asker(
    config: "Config", space: StageOutput, servers: ExitStack, tasks: Sequence["Task"]
) -> "Asker":
    """Open whoever is to be asked all these tasks."""
    from medkd.evaluate.tasks import EndpointAsker

    if config.endpoint:
        target = find_target_of(config.endpoint, config.model, "--endpoint")
        return EndpointAsker(
            open_completer(target, config, space, "ask", lambda reasoning, text: "", servers)
        )
    from medkd.evaluate.opening import open_local

    return open_local(config, space, servers, tasks)


def _ask_samples(
    config: "Config",
    space: StageOutput,
    asker: "Asker",
    tasks: Sequence["Task"],
    sampling: Sampling,
    first: dict[str, Prediction],
) -> dict[str, dict[str, float]]:
    from medkd.evaluate.consistency import measure_samples

    if config.samples == 1:
        return {}
    groups = {i: [p] for i, p in first.items()}
    wanted = {f"{t.id}#{k}" for t in tasks for k in range(1, config.samples)}
    done = _read_done(space.path("samples.jsonl"), wanted)
    for k in range(1, config.samples):
        again = [t._replace(id=f"{t.id}#{k}") for t in tasks if f"{t.id}#{k}" not in done]
        _keep(
            asker.ask(again, sampling, sample=k),
            space.path("samples.jsonl"),
            done,
            len(wanted),
            f"sample {k + 1}",
        )
        for task in tasks:
            if f"{task.id}#{k}" in done and task.id in groups:
                groups[task.id].append(done[f"{task.id}#{k}"])
    return measure_samples(groups)


def _word(config: "Config", examples: Sequence[Example]) -> list["Task"]:
    """Put the first questions, those with a known answer first of all, in every wording."""
    from medkd.evaluate.wordings import list_wordings, make_worded_tasks

    chosen = [e for e in examples if e.reference][: config.wordings] or list(
        examples[: config.wordings]
    )
    return (
        [task for wording in list_wordings() for task in make_worded_tasks(chosen, wording)]
        if chosen
        else []
    )


def _ask_wordings(
    config: "Config",
    space: StageOutput,
    asker: "Asker",
    tasks: Sequence["Task"],
    sampling: Sampling,
) -> list[dict[str, Any]]:
    from medkd.evaluate.wordings import tabulate

    if not tasks:
        return []
    done = _read_done(space.path("wordings.jsonl"), {t.id for t in tasks})
    remaining = [t for t in tasks if t.id not in done]
    _keep(
        asker.ask(remaining, sampling, is_plain=True),
        space.path("wordings.jsonl"),
        done,
        len(tasks),
        "wordings",
    )
    return tabulate([done[t.id] for t in tasks if t.id in done], config.seed)


def _list_besides(config: "Config", instruction: str) -> list["Task"]:
    """Put the questions that have no known answer."""
    from medkd.evaluate.tasks import make_tasks

    lineage = Lineage(origin="--ask")
    examples = [
        Example(
            id=f"ask:{n}",
            source="ask",
            style="bare",
            input=text,
            reasoning="",
            answer="",
            lineage=lineage,
        )
        for n, text in enumerate(config.ask, start=1)
    ]
    return make_tasks(examples, instruction)


def _ask_besides(
    space: StageOutput, asker: "Asker", tasks: Sequence["Task"], sampling: Sampling
) -> list[Prediction]:
    if not tasks:
        return []
    done = _read_done(space.path("besides.jsonl"), {t.id for t in tasks})
    remaining = [t for t in tasks if t.id not in done]
    _keep(
        asker.ask(remaining, sampling), space.path("besides.jsonl"), done, len(tasks), "ask besides"
    )
    return [done[t.id] for t in tasks if t.id in done]


def _read_done(path: Path, wanted: set[str]) -> dict[str, Prediction]:
    """Read the predictions that an earlier run left, a torn last line apart."""
    if not path.exists() or not path.stat().st_size:
        return {}
    with RecordAppender(path):
        pass
    if not path.stat().st_size:
        return {}
    return {p.id: p for p in RecordReader(path, Prediction, made_by="evaluate") if p.id in wanted}


def _keep(
    predictions: Iterable[Prediction],
    path: Path,
    done: dict[str, Prediction],
    total: int,
    name: str,
) -> None:
    with RecordAppender(path) as file, Bar(name, total, "questions") as bar:
        bar.reach(len(done), n_before=len(done))
        for prediction in predictions:
            file.append(prediction)
            done[prediction.id] = prediction
            bar.advance()


def _add_time(space: StageOutput, n_asked: int, seconds: float) -> tuple[float | None, float]:
    """Add to the questions and seconds that earlier runs took; give questions a second, and
    seconds."""
    before = read_json(space.path(TIMES)) or {"questions": 0, "seconds": 0.0}
    total: dict[str, Any] = {
        "questions": before["questions"] + n_asked,
        "seconds": round(before["seconds"] + seconds, 3),
    }
    write_json(space.path(TIMES), total)
    speed = (
        total["questions"] / total["seconds"] if total["questions"] and total["seconds"] else None
    )
    return speed, float(total["seconds"])
