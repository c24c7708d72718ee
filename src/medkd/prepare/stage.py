"""The stage `prepare`: cases in, questions out, the answer removed from its own question.

In: `cases.jsonl`. Out: `questions.jsonl`, `alpaca.json` (the same questions with the bare known
diagnosis as output), and in the manifest how often each section told the answer, before and after.
Not done here: reasoning (`distill`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from medkd.core.config import RUNTIME, Seed, StageConfig, did_you_mean
from medkd.core.draws import draw_split, hash_uniform
from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, resolve_input, write_json
from medkd.core.parallel import map_in_order
from medkd.core.progress import track
from medkd.core.records import Case, Question, Split, to_alpaca
from medkd.core.stage_output import Manifest, open_stage_output
from medkd.core.task import StudentPart, load_task
from medkd.prepare.aliases import collect_aliases, load_synonyms, make_plain
from medkd.prepare.leakage import find_answer, has_answer, remove_answer
from medkd.prepare.record import FOLDED, SECTIONS, clean_sections, join_sections
from medkd.text.diagnoses import clean_diagnosis, split_diagnoses
from medkd.text.similarity import cluster, find_similar

_ANSWER_SECTIONS = ("初步诊断", "诊断依据", "鉴别诊断", "诊断结果", "分析总结", "临床诊断")
_FINDINGS = ("主诉", "现病史", "查体", "辅助检查")
_MIN_SHARE_LEFT = 1 / 3
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
    sections: tuple[str, ...] = SECTIONS
    """Sections that stand in a question, in this order; those that consist of the answer are
    refused."""
    answers: Annotated[Path | None, RUNTIME] = None
    """YAML file with more words of answers (synonyms: [[房颤, 心房颤动], ...]), on top of the
    package's."""
    language: str = "zh"
    """Language of system and instruction: zh or en."""
    min_characters: int = Field(default=40, ge=1)
    """Shorter records are dropped."""
    val_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cases for validation."""
    test_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the cases kept unseen for evaluation."""
    seed: Seed = 0
    """Another seed splits otherwise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share and test_share together leave nothing to train on")
        known = [*SECTIONS, *FOLDED]
        for name in self.sections:
            if name in _ANSWER_SECTIONS:
                raise ValueError(
                    f"section {name} consists of the answer and cannot stand in a question"
                )
            if name not in known:
                raise ValueError(f"unknown section {name!r}{did_you_mean(name, known)}")
        return self


class DropReason(StrEnum):
    """Why a case becomes no question."""

    NO_DIAGNOSIS = "no_diagnosis"
    """No known diagnosis, so nothing to answer with."""
    TOO_SHORT = "too_short"
    """The record is shorter than min_characters."""
    NO_FINDING = "no_finding"
    """Neither complaint, history, examination nor tests are left."""
    TOO_LITTLE_LEFT = "too_little_left"
    """Less than a third of the record was left without the answer."""
    ANSWER_LEFT = "answer_left"
    """The answer comes together across two sections; such a record is not used."""
    DUPLICATE = "duplicate"
    """The same record or the same id was there before."""
    NEAR_DUPLICATE = "near_duplicate"
    """Nearly the same record was there before."""


class Draft(NamedTuple):
    """A record on its way to a question."""

    case: Case
    reference: str
    before: dict[str, str]
    """Sections as they were, repaired."""
    after: dict[str, str]
    """The same without the answer."""
    line: str
    told: dict[str, frozenset[str]]
    """Sections that tell a listed diagnosis, or state it in whatever words: each before and
    after."""


def prepare(
    cases: Iterable[Case], config: Config, dropped: Counter[str]
) -> tuple[list[Question], dict[str, Any]]:
    """Turn cases into questions; count drops by reason, and give the facts for the manifest."""
    drafts: list[Draft] = []
    seen: set[str] = set()
    for draft in map_in_order(partial(draft_question, config=config), cases):
        if isinstance(draft, DropReason):
            dropped[draft] += 1
        elif not seen.isdisjoint({draft.case.id, make_plain(draft.line)}):
            dropped[DropReason.DUPLICATE] += 1
        else:
            seen |= {draft.case.id, make_plain(draft.line)}
            drafts.append(draft)
    drafts, leaders = leave_near_duplicates(drafts, dropped)
    prompts = load_task("diagnosis").student
    splits = split_drafts(drafts, leaders, config)
    questions = [_make_question(draft, splits[draft.case.id], prompts) for draft in drafts]
    return questions, _collect_facts(drafts, questions)


def leave_near_duplicates(
    drafts: list[Draft], dropped: Counter[str]
) -> tuple[list[Draft], list[int]]:
    """Drop the later one of two drafts that are nearly the same; of those that stay, say which
    belong together.

    Returns the drafts that stay, and for each the number of the first one that it belongs together
    with.
    """
    pairs = list(
        find_similar(
            [make_plain("".join(draft.before.values())) for draft in drafts],
            _SAME_GROUP,
            _SHINGLE,
        )
    )
    copies: set[int] = set()
    for one, other, alike in pairs:
        if alike >= _NEARLY_THE_SAME and one not in copies:
            copies.add(other)
    if copies:
        dropped[DropReason.NEAR_DUPLICATE] += len(copies)
    told: dict[str, int] = {}
    together = [(one, other) for one, other, _ in pairs]
    together += [
        (told.setdefault(_story(draft), number), number) for number, draft in enumerate(drafts)
    ]
    leaders = cluster(len(drafts), together)
    stay = [number for number in range(len(drafts)) if number not in copies]
    place = {number: i for i, number in reversed([*enumerate(stay)])}
    first: dict[int, int] = {}
    return [drafts[number] for number in stay], [
        first.setdefault(leaders[number], place[number]) for number in stay
    ]


def draft_question(case: Case, config: Config) -> Draft | DropReason:
    """Repair a case's sections and remove the answer from them, or say why it cannot be used."""
    diagnoses = [
        diagnosis
        for text in case.diagnosis
        for item in split_diagnoses(text)
        if (diagnosis := clean_diagnosis(item))
    ]
    if not diagnoses:
        return DropReason.NO_DIAGNOSIS
    aliases = collect_aliases(
        [*diagnoses, *split_diagnoses(case.sections.get("诊断结果", ""))],
        load_synonyms(config.answers),
    )
    before = clean_sections(case.sections, config.sections)
    if _length(before) < config.min_characters:
        return DropReason.TOO_SHORT
    after = {
        name: scrubbed
        for name, text in before.items()
        if (scrubbed := remove_answer(text, aliases)).strip("。，； ")
    }
    if not any(name in after for name in _FINDINGS):
        return DropReason.NO_FINDING
    if _length(after) < _length(before) * _MIN_SHARE_LEFT:
        return DropReason.TOO_LITTLE_LEFT
    line = join_sections(after, config.sections)
    if has_answer(line, aliases):
        return DropReason.ANSWER_LEFT
    told = {
        f"{kind}_{side}": frozenset(name for name, text in texts.items() if tells(text, aliases))
        for kind, tells in (("listed", has_answer), ("stated", find_answer))
        for side, texts in (("before", before), ("after", after))
    }
    return Draft(case, "；".join(dict.fromkeys(diagnoses)), before, after, line, told)


def _length(sections: Mapping[str, str]) -> int:
    return sum(map(len, sections.values()))


def split_drafts(
    drafts: Sequence[Draft], leaders: Sequence[int], config: Config
) -> dict[str, Split]:
    """Assign every case to a split by a hash of its id, cases that belong together to the same one.

    New cases do not move old ones, unless they belong together with them under an id that sorts
    before.
    """
    groups: dict[int, list[str]] = {}
    for draft, leader in zip(drafts, leaders, strict=True):
        groups.setdefault(leader, []).append(draft.case.id)
    return {case_id: find_split(min(ids), config) for ids in groups.values() for case_id in ids}


def _story(draft: Draft) -> str:
    """Return what two postings of one case have in common, complaint and history; the id where
    that is short."""
    story = make_plain(draft.before.get("主诉", "") + draft.before.get("现病史", ""))
    return story if len(story) >= _MIN_GROUPING_CHARACTERS else draft.case.id


def find_split(case_id: str, config: Config) -> Split:
    """Draw the split of an id: always the same for the same seed and shares."""
    place = hash_uniform(config.seed, case_id)
    return draw_split(place, config.val_share, config.test_share)


def _make_question(draft: Draft, split: Split, prompts: StudentPart) -> Question:
    case = draft.case
    return Question(
        id=case.id,
        case_id=case.id,
        source=case.source,
        url=case.url,
        licence=case.licence,
        department=case.department,
        system=prompts.system["zh"],
        instruction=prompts.instructions["zh"][0],
        input=draft.line,
        reference=draft.reference,
        split=split,
        deidentified_by=case.deidentified_by,
    )


def _collect_facts(drafts: list[Draft], questions: list[Question]) -> dict[str, Any]:
    """Measure, on the texts as they were and as they are asked, where the answer is told."""
    n = Counter(name for draft in drafts for name in draft.before)
    told = {
        key: Counter(name for draft in drafts for name in draft.told[key])
        for key in (drafts[0].told if drafts else ())
    }
    sides = ("before", "after")
    return {
        "splits": dict(Counter(question.split for question in questions)),
        "leak_rate": {
            name: {side: round(told[f"listed_{side}"][name] / n[name], 4) for side in sides}
            for name in n
        },
        "stated_rate": {
            name: {side: round(told[f"stated_{side}"][name] / n[name], 4) for side in sides}
            for name in n
        },
        "leaky_questions": {
            side: sum(bool(draft.told[f"listed_{side}"]) for draft in drafts) for side in sides
        },
        "characters": {
            "before": sum(_length(draft.before) for draft in drafts),
            "after": sum(_length(draft.after) for draft in drafts),
        },
    }


WRITES = ("questions.jsonl", "alpaca.json")


def run(config: Config) -> Manifest:
    """Prepare the questions of a file of cases."""
    path = resolve_input(config.input, "cases.jsonl", made_by="deidentify")
    load_synonyms(config.answers)  # a table that cannot be read is refused before anything is made
    inputs = {"input": [path], "answers": [] if config.answers is None else [config.answers]}
    with open_stage_output("prepare", config, inputs, WRITES, libraries=["rensa"]) as space:
        if space.is_finished:
            return space.manifest
        reader = RecordReader(path, Case, made_by="deidentify")
        dropped: Counter[str] = Counter()
        questions, facts = prepare(track(reader, "prepare", unit="cases"), config, dropped)
        space.read(reader.n_read)
        space.drop_all({**reader.dropped(), **dropped})
        space.manifest.facts = facts
        if not questions:
            reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.most_common()) or "no case"
            raise InputError(
                f"{path}: no question could be made ({reasons}); "
                "check the sections and diagnoses of the cases"
            )
        space.manifest.counts.kept = space.write_records("questions.jsonl", questions)
        write_json(
            space.path("alpaca.json"),
            [to_alpaca(question, question.reference) for question in questions],
        )
    return space.manifest
