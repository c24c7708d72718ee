"""The style of a row: bare, or under a system prompt and one of several instructions.

In: an example, its split and a seed. Out: the example in its style, the same on every machine. Not
done here: splits (`core.draws`), what the instructions are (`instructions.yaml`, `core.prompts`).
"""

from collections.abc import Sequence
from functools import cache
from typing import cast

from medkd.core.draws import hash_uniform
from medkd.core.prompts import load_prompts
from medkd.core.records import Example, Split
from medkd.core.yaml_io import read_shipped_yaml
from medkd.text.normalize import is_chinese

LANGUAGES = ("zh", "en")


def set_style(example: Example, split: Split, seed: int, bare_share: float) -> Example:
    """Make a row bare, or put it under a system prompt and one of the instructions; val and test
    are always bare."""
    if split != "train" or hash_uniform(seed, "style", example.id) < bare_share:
        return example.model_copy(update={"style": "bare", "system": "", "instruction": ""})
    language = "zh" if is_chinese(example.input) else "en"
    instructions = list_instructions(language, has_diagnosis=bool(example.reference))
    chosen = instructions[int(hash_uniform(seed, "instruction", example.id) * len(instructions))]
    return example.model_copy(
        update={
            "style": "instructed",
            "system": load_prompts(language).system,
            "instruction": chosen,
        }
    )


@cache
def list_instructions(language: str, has_diagnosis: bool) -> Sequence[str]:
    """List the instructions for a record with a known diagnosis, or for an open question."""
    if has_diagnosis:
        prompts = load_prompts(language)
        return (prompts.instruction, *prompts.paraphrases)
    return _read_instructions()[language]


@cache
def known_instructions() -> tuple[str, ...]:
    """List every instruction that a row may come back with from a file we wrote."""
    return tuple(
        text
        for language in LANGUAGES
        for kind in (True, False)
        for text in list_instructions(language, kind)
    )


@cache
def _read_instructions() -> dict[str, list[str]]:
    return cast(dict[str, list[str]], read_shipped_yaml("medkd.merge", "instructions.yaml"))
