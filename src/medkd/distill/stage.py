"""The stage `distill`: a teacher explains each question.

In: `questions.jsonl` of every split. Out: `rationales.jsonl` in the order of the questions, failures included, and
`ledger.sqlite`, from which a run that was stopped or killed goes on. Not done here: judging what came back (`verify`).
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from medkd.completers.attempts import FILE_NAME
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target, check_budget, find_target
from medkd.core.artifacts import RecordReader, resolve_input
from medkd.core.completer import Completer, Completion, Request, Sampling
from medkd.core.errors import MedkdError, StoppedError
from medkd.core.progress import Bar
from medkd.core.recipe import HOW, StageConfig
from medkd.core.records import Cost, Question, Rationale
from medkd.core.workspace import MANIFEST, Manifest, Workspace, open_workspace, read_manifest
from medkd.distill.prompts import Language, Mode, Prompt, find_missing_part, load_prompt, read_parts

if TYPE_CHECKING:
    from medkd.completers.dispatch import PaidCompleter, Tally

RATIONALES = "rationales.jsonl"


class Config(StageConfig):
    """What `medkd distill` is told."""

    input: Annotated[Path, HOW]
    """Questions: the directory of `prepare`, or a file of question records."""
    teacher: str = "deepseek"
    """Whom to ask: a provider of providers.yaml, or `custom` with --base-url and --model (key in MEDKD_API_KEY)."""
    model: str = ""
    """The teacher's model; the provider's first where none is given."""
    base_url: Annotated[str, HOW] = ""
    """Address of the endpoint; the provider's own where none is given."""
    mode: Mode = "rationalize"
    """`rationalize` asks for the reasoning to the known diagnosis, `solve` lets the teacher think blind."""
    language: Language = "zh"
    """Language of the prompt."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Rationales per question."""
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    """Longest answer, the teacher's own thinking included."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of the sampling; the endpoint's own where none is given."""
    thinking: bool | None = None
    """The teacher's own thinking; off by default in `rationalize`, where it would betray the hint, else on."""
    concurrency: Annotated[int, HOW, Field(ge=1)] = 32
    """Requests under way at once, within the provider's cap."""
    budget: Annotated[float | None, HOW, Field(gt=0)] = None
    """Most money this directory's ledger may come to, in the provider's currency; a hard stop."""


def distill(questions: Iterable[Question], teacher: Completer, prompt: Prompt, config: Config, model: str) -> list[Rationale]:
    """Ask a teacher to explain questions held in memory."""
    asked = [(question, request) for question in questions for request in make_requests(question, prompt, config)]
    completions = teacher.complete([request for _, request in asked])
    return [make_rationale(q, r.sample, c, model, config.mode) for (q, r), c in zip(asked, completions, strict=True)]


def make_requests(question: Question, prompt: Prompt, config: Config) -> Iterator[Request]:
    """Write the requests of one question, one a sample."""
    thinks = config.thinking if config.thinking is not None else config.mode == "solve"
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, thinking=thinks)
    messages = prompt.messages(question)
    for sample in range(config.samples):
        yield Request(messages=messages, sampling=sampling, sample=sample)


def make_rationale(question: Question, sample: int, completion: Completion, model: str, mode: Mode) -> Rationale:
    """Make the record of what a teacher said, whole or not."""
    parts = read_parts(completion.reasoning, completion.text)
    return Rationale(
        id=question.id if sample == 0 else f"{question.id}#{sample}",
        question=question,
        sample=sample,
        reasoning=parts.reasoning,
        answer=parts.answer,
        finish_reason=completion.finish_reason,
        complete=completion.complete and bool(parts.reasoning and parts.answer),
        model=model,
        mode=mode,
        attempts=completion.attempts,
        usage=completion.usage,
        cost=completion.cost,
    )


def run(config: Config) -> Manifest:
    """Ask the teacher for every question that the ledger holds no answer to, then write the rationales."""
    questions_path = resolve_input(config.input, "questions.jsonl", made_by="prepare")
    if not _is_finished(config.out):  # refuse before anything is written
        check_budget(config.budget, find_target(config.teacher, config.model, config.base_url))
    with open_workspace(
        "distill", config, inputs=[questions_path], libraries=["aiohttp"], keep=[f"{FILE_NAME}*"], follows_inputs=True
    ) as space:
        if space.is_finished:
            return space.manifest
        target = find_target(config.teacher, config.model, config.base_url)
        prompt = load_prompt(config.mode, config.language)
        with Ledger(space.path(FILE_NAME)) as ledger:
            _distill_file(config, questions_path, target, prompt, ledger, space)
        return space.manifest


def _is_finished(directory: Path) -> bool:
    return (directory / MANIFEST).exists() and read_manifest(directory).state == "finished"


def _distill_file(config: Config, questions_path: Path, target: Target, prompt: Prompt, ledger: Ledger, space: Workspace) -> None:
    from medkd.completers.dispatch import PaidCompleter, Terms
    from medkd.completers.endpoint import Endpoint

    reader = RecordReader(questions_path, Question, made_by="prepare")
    n_requests = _count_lines(questions_path) * config.samples
    with Bar("distill", total=n_requests, unit="answers") as bar:
        teacher = PaidCompleter(
            Endpoint(target),
            ledger,
            Terms(
                concurrency=config.concurrency,
                budget=config.budget,
                find_missing=find_missing_part,
                on_progress=lambda tally: bar.advance(tally.n_settled - bar.n_done, note=_note(tally, target)),
            ),
        )
        labelled = ((q.id, request) for q in reader for request in make_requests(q, prompt, config))
        try:
            tally = teacher.settle(labelled, n_requests)
        except (StoppedError, KeyboardInterrupt):
            with contextlib.suppress(MedkdError):  # the first stop is the one to report
                _write(config, questions_path, prompt, teacher, space)
            raise
    space.read(reader.n_read)
    space.drop_all(reader.dropped())
    _write(config, questions_path, prompt, teacher, space)
    space.manifest.facts |= {"answered_before": tally.n_found, "bought": tally.n_bought, "failed": tally.n_failed}


def _write(config: Config, questions_path: Path, prompt: Prompt, teacher: "PaidCompleter", space: Workspace) -> None:
    """Write the rationales of all that was asked, from the ledger, in the order of the questions."""
    facts: dict[str, Any] = {"prompt": prompt.version, "model": teacher.target.model, "teacher": teacher.target.name, "incomplete": 0}

    def rationales() -> Iterator[Rationale]:
        for question in _reread(questions_path):
            for request in make_requests(question, prompt, config):
                if completion := teacher.recall(request):
                    rationale = make_rationale(question, request.sample, completion, teacher.target.model, config.mode)
                    facts["incomplete"] += not rationale.complete
                    yield rationale

    space.manifest.counts.kept = space.write_records(RATIONALES, rationales())
    space.manifest.cost = Cost(amount=round(teacher.ledger.spent(), 6), currency=teacher.target.provider.currency)
    space.manifest.facts |= facts


def _reread(path: Path) -> Iterator[Question]:
    """Read questions a second time; broken lines were named the first time."""
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValidationError):
                yield Question.model_validate_json(line)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _note(tally: "Tally", target: Target) -> str:
    failed = f", {tally.n_failed} failed" if tally.n_failed else ""
    cost = f"{tally.spent:.4f} {target.provider.currency}" if target.is_priced else "price unknown"
    return f"{cost}{failed}"
