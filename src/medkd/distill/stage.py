"""The stage `distill`: a teacher explains each question.

In: `questions.jsonl` of every split. Out: `rationales.jsonl` in the order of the questions,
failures included, and `ledger.sqlite`, from which a run that was stopped or killed goes on. Not
done here: judging what came back (`verify`), walking through a file of questions (`distill.walk`),
prices (`distill.forecast`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medkd.completers.attempts import FILE_NAME
from medkd.completers.hours import When
from medkd.completers.ledger import Ledger
from medkd.completers.providers import Target, check_terms, find_target
from medkd.core.completer import Completer
from medkd.core.config import NAMES_KEY, RUNTIME, SENDS_KEY, StageConfig
from medkd.core.errors import InputError
from medkd.core.jsonl import resolve_input
from medkd.core.records import Question, Rationale
from medkd.core.stage_output import Manifest, is_finished, open_stage_output
from medkd.distill.prompts import Language, Mode, Prompt


class Config(StageConfig):
    """What `medkd distill` is told."""

    input: Annotated[Path, RUNTIME]
    """Questions: the directory of `prepare`, or a file of question records."""
    teacher: str = "deepseek"
    """Whom to ask: a provider of providers.yaml, or `custom` with --base-url and --model (key in
    MEDKD_API_KEY)."""
    model: str = ""
    """The teacher's model; the provider's first where none is given."""
    base_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """Address of the endpoint; the provider's own where none is given."""
    providers: Annotated[Path | None, RUNTIME, NAMES_KEY] = None
    """A file of your own in the form of providers.yaml, which adds to it and overrides it: a model,
    a price, a whole provider."""
    mode: Mode = "rationalize"
    """`rationalize` asks for the reasoning to the known diagnosis, `solve` lets the teacher think
    blind."""
    fallback: Literal["", "rationalize"] = ""
    """With `--mode solve`: `rationalize` has the reasoning to the known diagnosis written where the
    blind answer was wrong."""
    language: Language = "zh"
    """Language of the prompt."""
    samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Rationales per question."""
    max_tokens: Annotated[int, Field(ge=16, le=10_000_000)] = 4096
    """Longest answer, the teacher's own thinking included."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of the sampling; the endpoint's own where none is given."""
    thinking: bool | None = None
    """The teacher's own thinking; off by default in `rationalize`, where it would betray the hint,
    else on."""
    effort: str = ""
    """How hard the teacher thinks, in the provider's own words (low, high, max …); its default
    where none is given."""
    prefix: Annotated[bool | None, RUNTIME] = None
    """Have broken answers gone on with by prefix completion; as the provider's entry says where not
    given, `--prefix` tries it with any."""
    concurrency: Annotated[int, RUNTIME, Field(ge=1, le=100_000)] = 32
    """Most requests under way at once, within the provider's cap; fewer while the server says that
    it is too much."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0, allow_inf_nan=False)] = None
    """Most money this directory's ledger may come to, in the provider's currency; a hard stop."""
    when: Annotated[When, RUNTIME] = "now"
    """`off-peak` sends only in the provider's cheap hours and waits for them."""
    dry_run: Annotated[bool, RUNTIME] = False
    """Say what the job would cost, send nothing and write nothing."""


def distill(
    questions: Iterable[Question], teacher: Completer, prompt: Prompt, config: Config, model: str
) -> list[Rationale]:
    """Ask a teacher to explain questions held in memory."""
    from medkd.distill.walk import make_rationale, make_requests

    asked = [
        (question, request)
        for question in questions
        for request in make_requests(question, prompt, config, config.mode)
    ]
    completions = teacher.complete([request for _, request in asked])
    return [
        make_rationale(q, r.sample, c, model, config.mode)
        for (q, r), c in zip(asked, completions, strict=True)
    ]


def run(config: Config) -> Manifest:
    """Ask the teacher for every question that the ledger holds no answer to, then write the
    rationales."""
    from medkd.distill.forecast import forecast
    from medkd.distill.job import distill_file

    questions_path = resolve_input(config.input, "questions.jsonl", made_by="prepare")
    refuse_raw_cases(questions_path)
    if config.dry_run:
        target = choose_target(config, is_key_needed=False)
        print(forecast(config, questions_path, target).render())
        return Manifest(stage="distill", identity="", config=config.model_dump(mode="json"))
    if not is_finished(config.out):  # refuse before anything is written
        check_terms(choose_target(config), config.budget, config.when)
    with open_stage_output(
        "distill",
        config,
        {"input": questions_path},
        ["rationales.jsonl"],
        libraries=["aiohttp"],
        follows_inputs=True,
    ) as space:
        if space.is_finished:
            return space.manifest
        target = choose_target(config)
        with Ledger(space.path(FILE_NAME)) as ledger:
            distill_file(config, questions_path, target, ledger, space)
        return space.manifest


def choose_target(config: Config, is_key_needed: bool = True) -> Target:
    """Find out whom a config asks."""
    return find_target(
        config.teacher,
        config.model,
        config.base_url,
        config.providers,
        config.prefix,
        is_key_needed,
    )


def refuse_raw_cases(path: Path) -> None:
    """Refuse a file that begins with a case nobody has de-identified, whatever else is wrong with
    it."""
    import json

    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(record, dict) and "sections" in record and "deidentified_by" not in record:
        raise InputError(
            f'{path}:1: a raw case, no deidentified_by; run "medkd deidentify" and "medkd prepare" first'
        )
