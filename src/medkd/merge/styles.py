"""The style of a row: bare, or under a system prompt and one of several instructions.

In: an example, its split and a seed. Out: the example in its style, the same on every machine. Not
done here: splits (`core.records`), what the instructions are (`core.task`).
"""

from medkd.core.records import Example, Split, hash_uniform
from medkd.core.task import find_task


def set_style(
    example: Example, split: Split, seed: int, bare_share: float, task: str = ""
) -> Example:
    """Make a row bare, or put it under the system prompt and one of the instructions of its task;
    val and test are always bare. `task` is a task file of the user's."""
    if split != "train" or hash_uniform(seed, "style", example.id) < bare_share:
        return example.model_copy(update={"style": "bare", "system": "", "instruction": ""})
    student = find_task(example.task, task).student
    instructions = student.instructions[example.language]
    chosen = instructions[int(hash_uniform(seed, "instruction", example.id) * len(instructions))]
    return example.model_copy(
        update={
            "style": "instructed",
            "system": student.system[example.language],
            "instruction": chosen,
        }
    )
