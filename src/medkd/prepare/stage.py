"""The stage `prepare`: cases in, questions of a task out, each without its own answer.

In: `cases.jsonl`. Out: `questions.jsonl`, `alpaca.json` (the same questions with the bare known
answer as output), and in the manifest how often each section told the answer, before and after.
Not done here: what a task asks (`core.task`), reasoning (`distill`).
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar, overload

from pydantic import Field, model_validator

from medkd.completers.client import open_client
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.providers import Flags, Target, check_budget, find_target
from medkd.core.config import RUNTIME, SENDS_KEY, Seed, StageConfig, did_you_mean
from medkd.core.errors import InputError, Said
from medkd.core.i18n import tell
from medkd.core.jsonl import (
    RecordReader,
    ShardRows,
    SpilledList,
    count_lines,
    hash_path,
    resolve_input,
    write_atomically,
    write_records,
)
from medkd.core.parallel import DoneWork, Engine, map_in_order
from medkd.core.progress import track
from medkd.core.records import (
    Case,
    Question,
    Removal,
    Split,
    draw_split,
    hash_uniform,
    to_alpaca,
)
from medkd.core.reviews import REVIEWS, read_reviews
from medkd.core.stage_output import Manifest, StageOutput, open_stage_output
from medkd.core.task import Task, list_sections, load_task, name_task
from medkd.prepare.aliases import load_synonyms
from medkd.prepare.draft import (
    Draft,
    DropReason,
    draft_question,
    is_empty,
    list_next_steps,
    measure,
)
from medkd.prepare.leak_check import check_leaks, estimate_cost, find_fault, list_asked
from medkd.prepare.leakage import read_decisions
from medkd.text.normalize import make_plain
from medkd.text.similarity import BAND, N_BANDS, cluster, find_similar, sign

T = TypeVar("T")
U = TypeVar("U")

_MIN_GROUPING_CHARACTERS = 40
_NEARLY_THE_SAME = 0.9
"""Likeness of two records from which the later one is a copy."""
_SHINGLE = 4
"""Characters of the n-grams by which likeness is measured."""
_SAME_GROUP = 0.7
"""Likeness from which two records stand in the same split."""


class Config(StageConfig):
    """Turn cases into questions that do not hold their own answer."""

    input: Annotated[Path, RUNTIME]
    """Cases: the directory of deidentify, or a JSON Lines file."""
    task: str = "diagnosis"
    """What is asked: a shipped task (`medkd tasks` lists them) or a task file of your own."""
    until: str = ""
    """Ask with what was known by then: the last section that stands in a question; default: all of
    the task."""
    answers: Annotated[Path | None, RUNTIME] = None
    """YAML file with more words of answers (synonyms: [[房颤, 心房颤动], ...]), on top of the
    package's."""
    val_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cases for validation."""
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cases kept unseen for evaluation."""
    seed: Seed = 0
    """Another seed splits otherwise."""
    engine: Engine = "local"
    """Where questions are written: on this machine's processors, or on a Ray cluster."""
    shard_rows: ShardRows = 0
    """Write the records as a folder of packed parts of so many rows (part-00000.jsonl.zst); 0: one
    plain file."""
    check_leaks: str = ""
    """Ask a provider to name the diagnosis from each section alone, and list those that tell it for
    review; costs money. One of providers.yaml, or `rehearsal`."""
    check_model: str = ""
    """The model that --check-leaks asks; the provider's first where none is given."""
    check_base_url: Annotated[str, RUNTIME, SENDS_KEY] = ""
    """Address of that endpoint; the provider's own where none is given."""
    concurrency: Annotated[int, RUNTIME, Field(ge=1)] = 32
    """Requests of --check-leaks under way at once, within the provider's cap."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0)] = None
    """Most money this directory's ledger may come to, in the provider's currency; a hard stop."""
    dry_run: Annotated[bool, RUNTIME] = False
    """Price --check-leaks; send and write nothing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share and test_share together leave nothing to train on")
        return self


Checker = Callable[[Sequence[Draft]], tuple[list[Removal], int]]
"""Proposes removals for drafts, and says how many of their sections got no answer."""


class Prepared(NamedTuple):
    """What became of the cases; questions and removals are made when they are asked for."""

    questions: Sequence[Question]
    removals: Iterable[Removal]
    facts: dict[str, Any]
    """For the manifest."""


class _Drafted(NamedTuple):
    """A draft, and what is compared of it."""

    draft: Draft
    plain: str
    """The letters and digits of the whole record."""
    signature: bytes
    line: bytes
    """Equal where two questions are."""
    story: bytes
    """Equal where two records are postings of one case."""


def prepare(
    cases: Iterable[Case],
    config: Config,
    dropped: Counter[str],
    checker: Checker | None = None,
    done: DoneWork | None = None,
    n_cases: int | None = None,
) -> Prepared:
    """Turn cases into questions; count drops by reason. Reviews of removals in `config.out` are
    applied; what `checker` proposes is listed and not applied. `n_cases` is for the bar."""
    task = load_task(config.task)
    asked = until_section(task, config.until)
    drafts, plain = SpilledList[Draft](config.out), SpilledList[str](config.out)
    signatures, stories, ids = bytearray(), list[bytes](), list[str]()
    seen: set[bytes] = set()
    present = Counter[str]()
    decisions = read_decisions(read_reviews(config.out))
    draft_each = partial(_draft, task=asked, answers=config.answers, decisions=decisions)
    counted = _count_sections(cases, present)
    all_drafted = map_in_order(draft_each, counted, engine=config.engine, done=done)
    for drafted in track(all_drafted, "prepare", n_cases, "cases"):
        if isinstance(drafted, DropReason):
            dropped[drafted] += 1
            continue
        keys = {_digest(drafted.draft.case.id), drafted.line}
        if not seen.isdisjoint(keys):
            dropped[DropReason.DUPLICATE] += 1
            continue
        seen |= keys
        drafts.append(drafted.draft)
        plain.append(drafted.plain)
        signatures += drafted.signature
        stories.append(drafted.story)
        ids.append(drafted.draft.case.id)
    stay, leaders = leave_near_duplicates(plain, signatures, stories, dropped)
    splits = split_drafts([ids[number] for number in stay], leaders, config)
    chosen = View(drafts, stay, lambda draft: draft)
    questions = View(
        drafts, stay, lambda draft: _make_question(draft, splits[draft.case.id], asked)
    )
    languages, leaks = _measure(chosen)
    facts = {
        "task": task.name,
        "splits": dict(Counter(splits[ids[number]] for number in stay)),
        "languages": languages,
        "not_asked": _find_unasked(task, present),
    }
    if config.until:
        later = task.question.sections[len(asked.question.sections) :]
        facts["after_until"] = {name: present[name] for name in later}
    if asked.question.remove_answer:
        facts |= leaks
    proposed: list[Removal] = []
    if checker and asked.question.remove_answer:
        proposed, n_unanswered = checker(chosen)
        facts["check_leaks"] = {"proposed": len(proposed), "unanswered": n_unanswered}
        tell(
            "check-leaks: {} sections told the diagnosis, {} got no answer; those are proposed in "
            "removals.jsonl",
            len(proposed),
            n_unanswered,
            to=sys.stderr,
        )
    removals = chain((one for draft in chosen for one in draft.removals), proposed)
    return Prepared(questions, removals, facts)


def _draft(case: Case, **given: Any) -> _Drafted | DropReason:
    """Draft the question of a case, and work out what is compared of it."""
    draft = draft_question(case, **given)
    if isinstance(draft, DropReason):
        return draft
    plain = make_plain("".join(draft.before.values()))
    signature = sign([plain], _SHINGLE).tobytes()
    line, story = _digest(make_plain(draft.line)), _digest(_story(draft))
    return _Drafted(draft, plain, signature, line, story)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def until_section(task: Task, name: str) -> Task:
    """Return the task that asks with its sections up to one of them, named as in the task or by
    its label; raises InputError where there is none."""
    if not name:
        return task
    part = task.question
    labelled = {label: own for labels in part.labels.values() for own, label in labels.items()}
    last = labelled.get(name, name)
    if last not in part.sections:
        raise InputError(
            "--until {}: no section of the task {}{}",
            name,
            task.name,
            did_you_mean(name, part.sections),
        )
    kept = part.sections[: part.sections.index(last) + 1]
    needs = tuple(need for need in part.needs if need in kept)
    part = part.model_copy(update={"sections": kept, "needs": needs})
    return task.model_copy(update={"question": part})


def _count_sections(cases: Iterable[Case], present: Counter[str]) -> Iterator[Case]:
    for case in cases:
        present.update(name for name, text in case.sections.items() if not is_empty(text))
        yield case


def _find_unasked(task: Task, present: Mapping[str, int]) -> dict[str, int]:
    """Count the cases of each section that the task says nothing of, the most frequent first."""
    told = list_sections(task)
    unasked = {name: n for name, n in present.items() if name not in told}
    return dict(sorted(unasked.items(), key=lambda item: (-item[1], item[0])))


def leave_near_duplicates(
    plain: Sequence[str],
    signatures: bytes | bytearray,
    stories: Sequence[bytes],
    dropped: Counter[str],
) -> tuple[list[int], list[int]]:
    """Drop the later one of two records that are nearly the same; of those that stay, say which
    belong together.

    Returns the numbers of the records that stay, and for each the place among them of the first one
    that it belongs together with.
    """
    import numpy as np

    signed = np.frombuffer(signatures, np.uint8).reshape(-1, BAND * N_BANDS)
    pairs = list(find_similar(plain, signed, _SAME_GROUP, _SHINGLE))
    copies: set[int] = set()
    for one, other, alike in pairs:
        if alike >= _NEARLY_THE_SAME and one not in copies:
            copies.add(other)
    if copies:
        dropped[DropReason.NEAR_DUPLICATE] += len(copies)
    told: dict[bytes, int] = {}
    together = [(one, other) for one, other, _ in pairs]
    together += [(told.setdefault(story, number), number) for number, story in enumerate(stories)]
    leaders = cluster(len(plain), together)
    stay = [number for number in range(len(plain)) if number not in copies]
    place = {number: i for i, number in reversed([*enumerate(stay)])}
    first: dict[int, int] = {}
    return stay, [first.setdefault(leaders[number], place[number]) for number in stay]


def split_drafts(
    case_ids: Sequence[str], leaders: Sequence[int], config: Config
) -> dict[str, Split]:
    """Assign every case to a split by a hash of its id, cases that belong together to the same one.

    New cases do not move old ones, unless they belong together with them under an id that sorts
    before, or a split had none: of a few cases it takes the one whose draw is nearest.
    """
    groups: dict[int, list[str]] = {}
    for case_id, leader in zip(case_ids, leaders, strict=True):
        groups.setdefault(leader, []).append(case_id)
    first_ids = {min(ids): ids for ids in groups.values()}
    splits: dict[str, Split] = {case_id: find_split(case_id, config) for case_id in first_ids}
    shares: tuple[tuple[Split, float], ...] = (
        ("test", config.test_share),
        ("val", config.val_share),
    )
    nearest = sorted(splits, key=partial(hash_uniform, config.seed))
    for number, (split, share) in enumerate(shares):
        if share and split not in splits.values() and len(splits) > len(shares):
            splits[nearest[number]] = split
    return {case_id: splits[first] for first, ids in first_ids.items() for case_id in ids}


def _story(draft: Draft) -> str:
    """Return what two postings of one case have in common, complaint and history; the id where
    that is short."""
    story = make_plain(draft.before.get("主诉", "") + draft.before.get("现病史", ""))
    return story if len(story) >= _MIN_GROUPING_CHARACTERS else draft.case.id


def find_split(case_id: str, config: Config) -> Split:
    """Draw the split of an id: always the same for the same seed and shares."""
    place = hash_uniform(config.seed, case_id)
    return draw_split(place, config.val_share, config.test_share)


def _make_question(draft: Draft, split: Split, task: Task) -> Question:
    case, student = draft.case, task.student
    return Question(
        id=case.id,
        case_id=case.id,
        source=case.source,
        url=case.url,
        licence=case.licence,
        department=case.department,
        system=student.system[draft.language],
        instruction=student.instructions[draft.language][0],
        input=draft.line,
        reference=draft.reference,
        task=task.name,
        language=draft.language,
        known=draft.known,
        split=split,
        deidentified_by=case.deidentified_by,
    )


def _measure(drafts: Iterable[Draft]) -> tuple[dict[str, int], dict[str, Any]]:
    """Count the languages, and measure, on the texts as they were and as they are asked, where the
    answer is told."""
    sides = ("before", "after")
    told = {key: Counter[str]() for key in ("asked", *sides)}
    languages, removals, counts = Counter[str](), Counter[str](), Counter[str]()
    leaky, characters = Counter[str](), Counter[str]()
    for draft in drafts:
        languages[draft.language] += 1
        for key, names in told.items():
            names.update(draft.told.get(key, ()))
        removals.update(one.rule for one in draft.removals if one.state == "removed")
        counts["restored"] += sum(one.state == "restored" for one in draft.removals)
        counts["known"] += bool(draft.known)
        for side in sides:
            leaky[side] += bool(draft.told.get(side))
        characters["before"] += measure(draft.before)
        characters["after"] += measure(draft.after)
    leaks = {
        "removals": dict(removals),
        "restored": counts["restored"],
        "known": counts["known"],
        "leak_rate": {
            name: {side: round(told[side][name] / n, 4) for side in sides}
            for name, n in told["asked"].items()
        },
        "leaky_questions": {side: leaky[side] for side in sides},
        "characters": {side: characters[side] for side in sides},
    }
    return dict(languages), leaks


WRITES = ("questions.jsonl", "removals.jsonl", "alpaca.json")


def run(config: Config) -> Manifest:
    """Prepare the questions of a file of cases."""
    path = resolve_input(config.input, "cases.jsonl", made_by="deidentify")
    load_synonyms(config.answers)  # a table that cannot be read is refused before anything is made
    task = load_task(config.task)
    target = _find_target(config)
    if config.dry_run:
        return _price(config, path, target)
    inputs = {"input": [path], "answers": [] if config.answers is None else [config.answers]}
    names = name_task(config.task, "name", "language", "question", "answer", "student")
    reviews = config.out / REVIEWS
    names |= {"reviews": [hash_path(reviews)]} if reviews.is_file() else {}
    with open_stage_output("prepare", config, inputs, WRITES, ["rensa"], names) as space:
        if space.is_finished:
            return space.manifest
        reader = RecordReader(path, Case, made_by="deidentify")
        dropped: Counter[str] = Counter()
        with _open_checker(config, target, space) as checker:
            questions, removals, facts = prepare(
                reader, config, dropped, checker, space.open_done_work(), count_lines(path)
            )
        space.read(reader.n_read)
        space.drop_all({**reader.dropped(), **dropped})
        space.manifest.facts = facts
        _report_unasked(task, facts["not_asked"])
        space.next_steps = steps = list_next_steps(task, facts["not_asked"])
        if not questions:
            raise InputError("{}: {}", path, _explain_nothing(task, steps, dropped))
        space.manifest.counts.kept = space.write_records("questions.jsonl", questions)
        write_records(space.path("removals.jsonl"), removals)
        rows = (to_alpaca(question, question.reference) for question in questions)
        _write_json_array(space.path("alpaca.json"), rows)
    return space.manifest


def _find_target(config: Config) -> Target | None:
    """Find the model that --check-leaks asks."""
    if not config.check_leaks:
        return None
    is_key_needed = not config.dry_run
    target = find_target(
        config.check_leaks,
        config.check_model,
        config.check_base_url,
        is_key_needed=is_key_needed,
        flags=Flags("--check-leaks", "--check-model", "--check-base-url"),
    )
    check_budget(target, config.budget, "now")
    return target


def _price(config: Config, path: Path, target: Target | None) -> Manifest:
    """Print what --check-leaks would cost."""
    if target is None:
        raise InputError("--dry-run prices --check-leaks; name a provider with it")

    def price(drafts: Sequence[Draft]) -> tuple[list[Removal], int]:
        print(estimate_cost(list(list_asked(drafts)), target))
        return [], 0

    prepare(RecordReader(path, Case, made_by="deidentify"), config, Counter(), price)
    return Manifest(stage="prepare", config=config.model_dump(mode="json"))


@contextmanager
def _open_checker(
    config: Config, target: Target | None, space: StageOutput
) -> Generator[Checker | None, None, None]:
    """Open the ledger where a model is asked; note the cost however it ends."""
    if target is None:
        yield None
        return
    limits = (config.budget, config.concurrency)
    with open_client(target, space.path(LEDGER), "check-leaks", find_fault, *limits) as client:

        def check(drafts: Sequence[Draft]) -> tuple[list[Removal], int]:
            asked = list(list_asked(drafts))
            print(estimate_cost(asked, target), file=sys.stderr)
            return check_leaks(asked, client)

        try:
            yield check
        finally:
            space.manifest.cost = client.tell_cost()


def _report_unasked(task: Task, unasked: Mapping[str, int]) -> None:
    """Offer the sections that no question holds, on one line."""
    if unasked:
        listed = ", ".join(f"{name} ({n} cases)" for name, n in [*unasked.items()][:12])
        tell(
            "prepare: sections present and not asked: {}; to ask them too, name them in the task's "
            "question.sections (medkd tasks copy {} my-task.yaml)",
            listed,
            task.name,
            to=sys.stderr,
        )


def _explain_nothing(task: Task, steps: Mapping[str, Said], dropped: Counter[str]) -> Said:
    """Say on one line why no question could be made, and what to do about the main reason."""
    listed = ", ".join(f"{reason} {n}" for reason, n in dropped.most_common()) or "0"
    main = max(dropped, key=dropped.__getitem__, default="")
    step = steps.get(main, Said("check the sections and answers of the cases"))
    return Said("no question of the task {} could be made ({}); {}", task.name, listed, step)


class View(Sequence[U]):
    """Items of a list, those of some numbers, as a function makes them of what lies there.

    >>> list(View("abc", [2, 0], str.upper))
    ['C', 'A']
    """

    def __init__(self, items: Sequence[T], numbers: Sequence[int], make: Callable[[T], U]) -> None:
        self._items: Sequence[Any] = items
        self._numbers = numbers
        self._make = make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> U: ...
    @overload
    def __getitem__(self, index: slice) -> list[U]: ...
    def __getitem__(self, index: int | slice) -> U | list[U]:
        if isinstance(index, slice):
            return [self._make(self._items[number]) for number in self._numbers[index]]
        return self._make(self._items[self._numbers[index]])


def _write_json_array(path: Path, values: Iterable[Any]) -> None:
    """Write values as `write_json` writes a list of them; only one is held at a time."""
    with write_atomically(path) as file:
        between = "["
        for value in values:
            text = json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n  ")
            file.write(f"{between}\n  {text}")
            between = ","
        file.write("[]\n" if between == "[" else "\n]\n")
