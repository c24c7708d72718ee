"""The rehearsal clinic's hand-written medical knowledge, read from `knowledge/LANGUAGE/*.yaml`.

Out: departments of families (presenting syndromes), each with three tests and the diseases that
only the combination of their levels tells apart. Not done here: making cases
(`demo.synthetic_cases`) and reasoning from them (`demo.reasoning`).
"""

import random
import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medkd.core.config import read_shipped_yaml
from medkd.core.records import Language

DIRECTORY = Path(__file__).parent / "knowledge"
_RANGE = re.compile(r"\{(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Level(_Frozen):
    """One outcome of a test: how it reads in a record and what it means."""

    means: str
    texts: tuple[str, ...]


class Test(_Frozen):
    """An examination with its possible levels, and the section it stands in."""

    section: str
    levels: dict[str, Level]


class Disease(_Frozen):
    """A disease and the level of every test of its family."""

    name: str
    english: str = ""
    aliases: tuple[str, ...] = ()
    pattern: dict[str, str]
    because: str
    treatment: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class Distractor(_Frozen):
    """A misleading finding: which sibling it suggests and why it does not count."""

    section: str
    text: str
    suggests: str
    dismissed: str


class Family(_Frozen):
    """Diseases that present alike and differ only in the pattern of their tests."""

    name: str
    complaints: tuple[str, ...]
    history: tuple[str, ...]
    examination: tuple[str, ...]
    management: str
    age: tuple[int, int]
    sex: str = ""
    tests: dict[str, Test]
    diseases: tuple[Disease, ...]
    distractors: tuple[Distractor, ...]

    def means(self, disease: Disease) -> list[str]:
        """List what each test means in this disease, in the order of the tests."""
        return [test.levels[disease.pattern[name]].means for name, test in self.tests.items()]


class Department(_Frozen):
    """A department with its families."""

    department: str
    parent: str
    families: tuple[Family, ...]


class Knowledge(_Frozen):
    """All that the clinic knows."""

    departments: tuple[Department, ...]
    common: dict[str, tuple[str, ...]]
    texts: dict[str, str]
    """How things are said in this language."""
    headings: dict[str, str] = {}
    """What pages call a section, where not by its own name."""

    def say(self, text: str, /, **parts: object) -> str:
        """Fill in one of the texts."""
        return self.texts[text].format(**parts)

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(family for department in self.departments for family in department.families)

    def find(self, name: str) -> tuple[Family, Disease] | None:
        """Find a disease by its name or one of its aliases."""
        wanted = name.strip()
        for family in self.families:
            for disease in family.diseases:
                if wanted in disease.names:
                    return family, disease
        return None


@cache
def load_knowledge(language: Language = "zh") -> Knowledge:
    """Read the knowledge base of a language."""
    files: dict[str, Any] = {
        path.stem: read_shipped_yaml("medkd.demo", f"knowledge/{language}/{path.name}")
        for path in sorted((DIRECTORY / language).glob("*.yaml"))
    }
    beside = {name: files.pop(name) for name in ("common", "texts", "headings") if name in files}
    listed = [content if isinstance(content, list) else [content] for content in files.values()]
    departments = list(chain.from_iterable(listed))
    return Knowledge.model_validate({"departments": departments, **beside})


def fill(template: str, rng: random.Random) -> str:
    """Draw each `{low-high}` of a template, with as many decimals as its bounds have.

    >>> fill("血钾{2.4-2.4}mmol/L", random.Random(0))
    '血钾2.4mmol/L'
    """

    def draw(match: re.Match[str]) -> str:
        low, high = match.groups()
        decimals = len(low.partition(".")[2])
        scale = 10**decimals
        drawn = rng.randint(round(float(low) * scale), round(float(high) * scale))
        return f"{drawn / scale:.{decimals}f}"

    return _RANGE.sub(draw, template)


@cache
def pattern_of(template: str) -> re.Pattern[str]:
    """Compile the expression that finds any filling of a template in a text."""
    parts = _RANGE.split(template)
    return re.compile(r"\d+(?:\.\d+)?".join(re.escape(part) for part in parts[::3]))
