"""Counts the tokens of whole rows under any model's tokenizer and chat template.

In: examples, some at a time. Out: a number each, the end of the turn included. Not done here:
refusing rows that are too long (`train`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from medkd.core import thinking
from medkd.core.errors import InputError
from medkd.core.records import Example

BATCH = 256
"""Rows that are counted together."""

Count = Callable[[Sequence[Example]], list[int]]


def make_counter(name: str) -> Count:
    """Load a tokenizer by the name or folder of its model and make a function that counts; raises
    InputError where there is none."""
    try:
        from medkd.models import chat_template, load

        folder = load.tiny_dir() if name == load.TINY else Path(name).expanduser()
        tokenizer = load.load_tokenizer(folder if folder.is_dir() else load.resolve_model(name))
    except ImportError as error:
        raise InputError(
            '--tokenizer: counting tokens needs the training side; pip install "medkd[train]", or leave it out'
        ) from error
    template = chat_template.find_template(tokenizer)

    def count(examples: Sequence[Example]) -> list[int]:
        texts = [
            chat_template.render(
                tokenizer,
                chat_template.make_messages(example.input, example.instruction, example.system),
                template,
            )
            + thinking.write(example.reasoning, example.answer)
            for example in examples
        ]
        encoded = cast(list[list[int]], tokenizer(texts, add_special_tokens=False)["input_ids"])
        return [len(ids) + 1 for ids in encoded]

    return count
