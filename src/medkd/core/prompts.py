"""The words around a question: system, instruction and its paraphrases, by language.

In: a language. Out: its `Prompts`, from `prompts.yaml`. Not done here: what a teacher is asked
(`distill.prompts`), chat templates (`models`).

>>> load_prompts("zh").system
'你是一名专业的临床医生。'
"""

from functools import cache
from typing import NamedTuple

from medkd.core.config import did_you_mean
from medkd.core.errors import InputError
from medkd.core.records import Example, Question
from medkd.core.yaml_io import read_shipped_yaml


class Prompts(NamedTuple):
    """The prompts of one language."""

    system: str
    instruction: str
    """The one of the record format."""
    paraphrases: tuple[str, ...]
    """The same request in other words."""


def load_prompts(language: str = "zh") -> Prompts:
    """Return the prompts of a language; raises InputError where there are none."""
    prompts = _read_prompts()
    if language not in prompts:
        raise InputError(
            f"language {language!r}: no prompts{did_you_mean(language, list(prompts))}"
        )
    return prompts[language]


def to_alpaca(asked: Question | Example, output: str) -> dict[str, str]:
    """Write a row in the alpaca form; LLaMA-Factory joins instruction and input by a newline."""
    return {
        "system": asked.system,
        "instruction": asked.instruction,
        "input": asked.input,
        "output": output,
    }


@cache
def _read_prompts() -> dict[str, Prompts]:
    table = read_shipped_yaml("medkd.core", "prompts.yaml")
    return {
        language: Prompts(entry["system"], entry["instruction"], tuple(entry["paraphrases"]))
        for language, entry in table.items()
    }
