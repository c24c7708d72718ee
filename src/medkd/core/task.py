"""A task: what is asked of whom, how an answer is judged, and the words for it in two languages.

In: the name of a shipped task, or a YAML file. Out: a `Task`; what a file leaves out is as in the
shipped task of its answer's kind. Not done here: using it (`prepare`, `distill`, `verify`).

>>> load_task("diagnosis").student.system["zh"]
'你是一名专业的临床医生。'
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

from pydantic import BeforeValidator, Field, model_validator

from medkd.core.config import (
    RUNTIME,
    BrokenYamlError,
    Options,
    did_you_mean,
    make_config,
    parse_yaml,
    read_shipped_yaml,
)
from medkd.core.errors import InputError, Said
from medkd.core.records import Language

AnswerKind = Literal["diagnosis", "choice", "text", "number"]
"""What an answer is: the kind names the grader."""
CheckName = Literal[
    "refusal",
    "length",
    "language",
    "loop",
    "brevity",
    "answer",
    "hint",
    "identifiers",
    "copy",
    "filler",
    "grounding",
    "script",
]
"""The checks of a rationale that a task may ask for; its form is always checked."""
TaskFile = Annotated[str, RUNTIME]
"""The type of a field `task` of a stage whose rows tell their task themselves; the content of the
file is one of the inputs."""
SHIPPED = ("diagnosis", "treatment", "open-question", "multiple-choice")
KNOWN_DIAGNOSIS = "诊断结果"
"""The section that collecting reads into a case's list of known diagnoses."""
_BASE = {"diagnosis": "diagnosis", "choice": "multiple-choice"}
"""The shipped task that fills in what a file leaves out, by kind of answer; else open-question."""
_OF_ONE_TASK = ("template", "needs", "min_characters")
"""Fields of `question` that belong to the sections beside them: no file inherits them that lists
sections of its own."""
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_ENCLOSING = re.compile(r"<([A-Za-z_-]+)>\{(?:question|reference|attempt)\}</\1>")

T = TypeVar("T")


def _spread(value: Any) -> Any:
    """Take a value without languages for all of them."""
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value)
    return dict.fromkeys(get_args(Language), value)


Texts = Annotated[dict[Language, str], BeforeValidator(_spread)]
"""A text in each language; a file may write one for all."""
TextLists = Annotated[dict[Language, tuple[str, ...]], BeforeValidator(_spread)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name or several."""


class QuestionPart(Options):
    """What of a case stands in its question."""

    sections: Names
    """Sections in their order; those that a case has not are left out."""
    never: Names = ()
    """Sections that tell the answer, and may stand in no question."""
    fold: dict[str, Names] = Field(default_factory=dict)
    """Sections that are told at the end of another one: `{既往史: [个人史, 家族史]}`."""
    needs: Names = ()
    """At least one of these sections must be left, else the case is not asked; none: any."""
    template: Texts = Field(
        default_factory=lambda: {"zh": "【{section}】{text} ", "en": "{section}: {text}\n"}
    )
    """How a section is written; without `{section}` its text stands as it is, line breaks and
    all."""
    ask: Texts = Field(default_factory=lambda: {"zh": "", "en": ""})
    """What stands behind the sections; of a file that lists its own sections and asks for no
    diagnosis it asks for the answer by the name of its section."""
    labels: dict[Language, dict[str, str]] = Field(default_factory=dict)
    """What `{section}` is called in a language, where not by its own name."""
    min_characters: int = Field(default=4, ge=1)
    """Shorter questions are not asked."""
    remove_answer: bool = False
    """Remove the answer, and what states it in other words, from the question."""


class AnswerPart(Options):
    """Where the answer stands, and what it is."""

    section: Names
    """Section that holds the known answer; of several names the first that a case has."""
    kind: AnswerKind = "text"


class StudentPart(Options):
    """What the instructed share of the training rows is asked under."""

    system: Texts
    instructions: TextLists
    """The same request in several words; the first is the one of the question's record."""


class TeacherPart(Options):
    """What a teacher is asked. Constant text first, the question last: the endpoint's cache pays
    then, and a changed text is a changed request, whose answers are bought anew."""

    system: Texts
    rationalize: Texts
    solve: Texts
    correct: Texts
    """Of the student's wrong answer, which stands as `{attempt}`."""
    blind: Texts
    """What a model is asked to see whether it answers the same (`verify --blind`)."""


PLACEHOLDERS = {
    "rationalize": {"question", "reference"},
    "solve": {"question"},
    "correct": {"question", "reference", "attempt"},
    "blind": {"question"},
}
"""What each prompt of a teacher has to hold."""


class VerifyPart(Options):
    """Which checks a rationale has to pass, and their bounds where not those of `verify`."""

    checks: tuple[CheckName, ...] = get_args(CheckName)
    min_reasoning: int = Field(default=40, ge=0)
    """Characters of the shortest reasoning; a Latin word counts as two."""
    max_reasoning: int = Field(default=8000, ge=1)
    """Characters of the longest reasoning."""
    max_answer: int = Field(default=120, ge=1)
    """Characters of the longest answer; twice the known one where that is longer."""
    min_f1: float = Field(default=1.0, ge=0, le=1)
    """Likeness from which an answer passes that rules cannot tell right or wrong; the others are
    kept apart."""
    min_grounded: float = Field(default=0.75, ge=0, le=1)
    """Share of the values and denied findings in a reasoning that must stand in the question."""
    max_copied: float = Field(default=0.6, ge=0, le=1)
    """Share of a reasoning that may be copied from the question word for word."""
    max_filler: float = Field(default=0.3, ge=0, le=1)
    """Share of a reasoning that may be phrases which stand for thinking and say nothing."""


class Task(Options):
    """A whole task, as DESIGN.md section 3 describes it."""

    name: str = Field(min_length=1, max_length=80)
    about: str = ""
    """What the task is, in one line."""
    language: Literal["auto", "zh", "en"] = "auto"
    """Language of questions and prompts; auto: as each case is written."""
    question: QuestionPart
    answer: AnswerPart
    student: StudentPart
    teacher: TeacherPart
    verify: VerifyPart = VerifyPart()

    @model_validator(mode="after")
    def _check(self) -> Self:
        question, answer = self.question, self.answer
        asked = {*question.sections, *(name for names in question.fold.values() for name in names)}
        if both := set(question.sections).intersection(answer.section):
            said = "question.sections holds {!r}, which is the answer; take it out of one"
            raise ValueError(Said(said, min(both)))
        if told := asked.intersection(question.never):
            said = "question.sections holds {!r}, which question.never forbids; it tells the answer"
            raise ValueError(Said(said, min(told)))
        if strange := set(question.needs) - set(question.sections):
            said = (
                "question.needs holds {!r}, which is none of question.sections; add it "
                "there or take it out here"
            )
            raise ValueError(Said(said, min(strange)))
        for text in question.template.values():
            _check_placeholders("question.template", text, {"text"}, {"section"})
        for name, needed in PLACEHOLDERS.items():
            for text in getattr(self.teacher, name).values():
                _check_placeholders(f"teacher.{name}", text, needed)
        if not all(self.student.instructions.values()):
            raise ValueError("student.instructions is empty; write at least one")
        return self

    def find_language(self, is_chinese: bool) -> Language:
        """Return the language of a question whose text is in Chinese, or is not."""
        if self.language == "auto":
            return "zh" if is_chinese else "en"
        return self.language

    def fill(self, prompt: str, question: str, reference: str = "", attempt: str = "") -> str:
        """Fill in a prompt of this task; the texts cannot close the tags that they stand in.

        >>> load_task("diagnosis").fill("<record>{question}</record>", "发热</record>")
        '<record>发热＜/record></record>'
        """
        texts = {"question": question, "reference": reference, "attempt": attempt}
        prompts = (text for name in PLACEHOLDERS for text in getattr(self.teacher, name).values())
        tags = {tag for text in prompts for tag in _ENCLOSING.findall(text)}
        tag = re.compile(rf"<(?=/?(?:{'|'.join(sorted(tags)) or '$.'})\b)", re.IGNORECASE)
        return _PLACEHOLDER.sub(
            lambda found: tag.sub("＜", texts[found[1]]) if found[1] in texts else found[0], prompt
        )


def _check_placeholders(
    place: str, text: str, needed: set[str], allowed: set[str] | None = None
) -> None:
    found = set(_PLACEHOLDER.findall(text))
    if missing := sorted(needed - found):
        raise ValueError(f"{place}: {{{missing[0]}}} is missing; write it where the text belongs")
    if unknown := sorted(found - needed - (allowed or set())):
        known = [f"{{{name}}}" for name in sorted(needed | (allowed or set()))]
        raise ValueError(f"{place}: {{{unknown[0]}}} is no placeholder here; use {known}")


def load_task(name: str | Path) -> Task:
    """Load a shipped task by its name, or any task from a YAML file; raises InputError."""
    if str(name) in SHIPPED:
        return _load_shipped(str(name))
    path = Path(name)
    if not path.suffix and not path.exists():
        raise InputError(
            "task {!r}: none is called so{}; a task of your own is a file: medkd "
            "tasks copy open-question my-task.yaml",
            str(name),
            did_you_mean(name, SHIPPED),
        )
    content = _read_file(path)
    answer = content.get("answer")
    kind: Any = cast("dict[str, Any]", answer).get("kind") if isinstance(answer, dict) else None
    base = read_task_text(content, str(_BASE.get(str(kind), "open-question")))
    task = _make_task({"name": path.stem, **base}, str(path))
    if task.name in SHIPPED:
        raise InputError(
            "{}: name: {!r} is a shipped task, and rows are told apart by the name; choose another",
            path,
            task.name,
        )
    return task


def find_task(name: str, given: str = "") -> Task:
    """Find the task of a row: the given one where it is called so, else a shipped one.

    Raises InputError where a row is of a task that is neither.
    """
    if given and (task := _load_given(given)).name == name:
        return task
    if name in SHIPPED:
        return _load_shipped(name)
    said = f"--task {given} is another one" if given else "it is none of the shipped ones"
    raise InputError("rows of the task {!r}: {}; name its file with --task", name, said)


def check_tasks(names: Collection[str], given: str, place: Path) -> None:
    """Raise InputError where the task of some rows is not known, or the given one is that of none
    of them."""
    for name in sorted(names):
        find_task(name, given)
    if given and names and (task := _load_given(given)).name not in names:
        raise InputError(
            "{}: its rows are of the task {}, --task {} is {!r}; leave it out, or "
            "prepare them with it",
            place,
            ", ".join(sorted(names)),
            given,
            task.name,
        )


def list_task_inputs(given: str) -> dict[str, Path]:
    """Return the file of a task as an input of a stage; a shipped task has none."""
    return {} if not given or given in SHIPPED else {"task": Path(given)}


def name_task(given: str, *parts: str) -> dict[str, list[str]]:
    """Name a task file by its content, as an input of a stage that only some parts of it decide:
    who changes a prompt prepares nothing again. A shipped task has no name here."""
    if not given or given in SHIPPED:
        return {}
    task = load_task(given)
    text = json.dumps(task.model_dump(mode="json", include=set(parts)), sort_keys=True)
    return {"task": [f"{task.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"]}


def list_sections(task: Task) -> tuple[str, ...]:
    """List every section that a task names, asked or not."""
    part = task.question
    folded = (name for names in part.fold.values() for name in names)
    return tuple(dict.fromkeys([*part.sections, *part.never, *folded, *task.answer.section]))


def list_instructions(given: str = "") -> tuple[str, ...]:
    """List every instruction of the shipped tasks and the given one, in each language."""
    tasks = [*map(_load_shipped, SHIPPED), *([_load_given(given)] if given else [])]
    return tuple(
        text for task in tasks for texts in task.student.instructions.values() for text in texts
    )


def read_shipped_task(name: str) -> str:
    """Return the text of a shipped task's file, to be copied."""
    if name not in SHIPPED:
        raise InputError("task {!r}: no shipped one{}", name, did_you_mean(name, SHIPPED))
    return files("medkd").joinpath(f"tasks/{name}.yaml").read_text(encoding="utf-8")


@cache
def _load_given(given: str) -> Task:
    return load_task(given)


@cache
def _load_shipped(name: str) -> Task:
    return _make_task(read_shipped_yaml("medkd", f"tasks/{name}.yaml"), f"tasks/{name}.yaml")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            "{}: no such task file{}; medkd tasks lists the shipped ones",
            path,
            did_you_mean(path.stem, SHIPPED),
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("{}: cannot be read as UTF-8 text; check the path", path) from error
    except BrokenYamlError as error:
        place = f"{path}:{error.line}" if error.line else path
        raise InputError(
            "{}: broken YAML ({}); medkd tasks shows the form", place, error
        ) from error
    if not isinstance(content, dict):
        raise InputError("{}: a task is a mapping of keys to values; medkd tasks shows one", path)
    return cast("dict[str, Any]", content)


def read_task_text(content: Mapping[str, Any], base_name: str) -> dict[str, Any]:
    """Put what a task file says over a shipped task."""
    base: dict[str, Any] = dict(read_shipped_yaml("medkd", f"tasks/{base_name}.yaml"))
    base.pop("name")
    base.pop("about")
    question, answer = content.get("question"), content.get("answer")
    if isinstance(answer, Mapping) and cast("Any", answer).get("kind") == "number":
        base["verify"] = {k: v for k, v in base["verify"].items() if k != "min_f1"}
    if isinstance(question, Mapping) and "sections" in question:
        base["question"] = {k: v for k, v in base["question"].items() if k not in _OF_ONE_TASK}
        wanted = cast("dict[str, Any]", answer).get("section") if isinstance(answer, dict) else None
        if base_name != "diagnosis" and isinstance(wanted, str):
            base["question"]["ask"] = {"zh": f"{wanted}是什么？", "en": f"What is the {wanted}?"}
    return _merge(base, content)


def _merge(base: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in content.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(cast("Any", before), cast("Any", value))
        else:
            merged[key] = value
    return merged


def _make_task(content: Mapping[str, Any], place: str) -> Task:
    """Validate a task part by part, so that an unknown key is named with the nearest one."""
    values = dict(content)
    for name, field in Task.model_fields.items():
        part, given = field.annotation, values.get(name)
        if isinstance(part, type) and issubclass(part, Options) and isinstance(given, dict):
            values[name] = make_config(part, cast("dict[str, Any]", given), f"{place}: {name}")
    return make_config(Task, values, place)
