"""What chance decides about a row: its split, its style, its place. The same on every machine, and
no other row has a part in it.

In: a row's id or group, and a seed. Out: numbers, splits, styles. Not done here: rows that come
with a split of their own.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import cast

from medkd.core.prompts import load_prompts
from medkd.core.records import Example, Split
from medkd.core.yaml_io import read_shipped_yaml
from medkd.text.normalize import is_chinese

LANGUAGES = ("zh", "en")


def draw(seed: int, purpose: str, key: str) -> float:
    """Give a number from 0 to 1 that depends on nothing but its arguments."""
    return (
        int.from_bytes(
            hashlib.sha256(f"{seed}:{purpose}:{key}".encode("utf-8", "surrogatepass")).digest()[:8]
        )
        / 2**64
    )


def draw_split(group: str, seed: int, val_share: float, test_share: float) -> Split:
    """Draw the split of a group of rows that came without one."""
    place = draw(seed, "split", group)
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


def set_style(example: Example, split: Split, seed: int, bare_share: float) -> Example:
    """Make a row bare, or put it under a system prompt and one of the instructions; val and test
    are always bare."""
    if split != "train" or draw(seed, "style", example.id) < bare_share:
        return example.model_copy(update={"style": "bare", "system": "", "instruction": ""})
    language = "zh" if is_chinese(example.input) else "en"
    instructions = list_instructions(language, has_diagnosis=bool(example.reference))
    chosen = instructions[int(draw(seed, "instruction", example.id) * len(instructions))]
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
