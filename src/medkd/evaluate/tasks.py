"""Ask a model bare questions, as a user would, and write down what it says.

In: examples of the test split and a model. Out: predictions, in the order in which they are done. Not done here: scores.

A model whose template hands it the thinking prefix is also asked under the plain template, where it must begin to think by
itself. Where it does, it has written the very tokens that its own template ends with, and what follows is the same answer:
only the beginning is asked for again. Where it does not, it is let go on to its end.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from medkd.completers.local import Generation, LocalModel
from medkd.core import thinking
from medkd.core.completer import Sampling
from medkd.core.records import Example, Prediction
from medkd.models.tokens import encode, find_plain_template, has_thinking_prefix, make_messages, render


class Task(NamedTuple):
    """One question as it is put to the model."""

    example: Example
    prompt: str


def make_tasks(model: LocalModel, examples: Sequence[Example], template: str | None = None) -> list[Task]:
    """Put every example's bare input into the model's own template, or into another one."""
    return [Task(example, render(model.tokenizer, make_messages(example.input), template)) for example in examples]


def ask(model: LocalModel, tasks: Sequence[Task], sampling: Sampling) -> Iterator[Prediction]:
    """Ask all questions; yields each prediction as soon as it is done."""
    for at, generation in model.generate([task.prompt for task in tasks], sampling):
        yield make_prediction(tasks[at], generation)


def make_prediction(task: Task, generation: Generation) -> Prediction:
    """Read reasoning and answer out of what was generated; the template's thinking prefix is part of it."""
    raw = (thinking.PREFIX if task.prompt.endswith(thinking.PREFIX) else "") + generation.text
    thought = thinking.read(raw)
    example = task.example
    return Prediction(
        id=example.id,
        department=example.department,
        prompt=task.prompt,
        question=example.input,
        reasoning=thought.reasoning or "",
        answer=thought.answer,
        raw=raw,
        reference=example.reference,
        teacher=thinking.write(example.reasoning, example.answer) if example.reasoning else "",
        finish_reason=generation.finish_reason,
        n_tokens=generation.n_tokens,
    )


def can_be_asked_plainly(model: LocalModel) -> bool:
    """Tell whether there is a plain template other than the model's own."""
    return has_thinking_prefix(model.tokenizer) and find_plain_template(model.tokenizer) is not None


def ask_plainly(
    model: LocalModel, examples: Sequence[Example], prompted: Callable[[str], Prediction], sampling: Sampling
) -> Iterator[Prediction]:
    """Ask under the plain template; `prompted` gives the prediction of the same question under the model's own."""
    tasks = make_tasks(model, examples, find_plain_template(model.tokenizer))
    n_prefix = len(encode(model.tokenizer, thinking.PREFIX))
    others: list[Task] = []
    beginning = sampling.model_copy(update={"max_tokens": n_prefix})
    for at, opening in model.generate([task.prompt for task in tasks], beginning):
        task = tasks[at]
        if opening.text != thinking.PREFIX:
            others.append(task)
            continue
        same = prompted(task.example.id)
        yield same.model_copy(update={"prompt": task.prompt, "n_tokens": same.n_tokens + n_prefix})
    yield from ask(model, others, sampling)
