"""Ask a model questions, as a user would, and write down what it says.

In: examples of the test split and a model of this machine or behind an endpoint. Out: predictions,
in the order in which they are done.
Not done here: scores.

A model whose template hands it the thinking prefix is also asked under the plain template, where it
must begin to think by itself. Where it does, it has written the very tokens that its own template
ends with, and what follows is the same answer: only the beginning is asked for again. Where it does
not, it is let go on to its end.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from medkd.core import thinking
from medkd.core.completer import Completion, Message, Request, Sampling
from medkd.core.records import Example, FinishReason, Prediction
from medkd.models.chat_template import (
    encode,
    find_plain_template,
    has_thinking_prefix,
    make_messages,
    opens_thinking,
    render,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from medkd.completers.dispatch import PaidCompleter
    from medkd.completers.transformers_engine import Generation


class Task(NamedTuple):
    """One question as it is put to a model."""

    id: str
    example: Example
    messages: tuple[Message, ...]


class Generator(Protocol):
    """A model of this machine in any engine, as `completers.transformers_engine` describes it."""

    tokenizer: "PreTrainedTokenizerBase"

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0
    ) -> Iterator[tuple[int, "Generation"]]: ...


class Asker(Protocol):
    """Whoever can be asked; what failed on the way is not among the predictions, and counted by
    reason."""

    failures: dict[str, int]

    def ask(
        self, tasks: Sequence[Task], sampling: Sampling, sample: int = 0, is_plain: bool = False
    ) -> Iterator[Prediction]: ...


def make_tasks(examples: Sequence[Example], instruction: str = "") -> list[Task]:
    """Put every example's input, bare or under an instruction."""
    return [Task(e.id, e, tuple(make_messages(e.input, instruction))) for e in examples]


def make_prediction(
    task: Task, prompt: str, raw: str, finish_reason: str, n_tokens: int
) -> Prediction:
    """Read reasoning and answer out of what was generated."""
    thought = thinking.read(raw)
    example = task.example
    return Prediction(
        id=task.id,
        department=example.department,
        prompt=prompt,
        question=example.input,
        reasoning=thought.reasoning or "",
        answer=thought.answer,
        raw=raw,
        reference=example.reference,
        teacher=thinking.write(example.reasoning, example.answer) if example.reasoning else None,
        finish_reason=finish_reason,
        n_tokens=n_tokens,
    )


class LocalAsker:
    """Asks a model of this machine."""

    def __init__(self, model: Generator) -> None:
        self.model = model
        self.failures: dict[str, int] = {}
        has_prefix = has_thinking_prefix(model.tokenizer)
        self.plain_template = find_plain_template(model.tokenizer) if has_prefix else None
        """A plain template other than the model's own, if there is one."""

    def ask(
        self, tasks: Sequence[Task], sampling: Sampling, sample: int = 0, is_plain: bool = False
    ) -> Iterator[Prediction]:
        """Ask all questions; yields each prediction as soon as it is done."""
        template = self.plain_template if is_plain else None
        prompts = [render(self.model.tokenizer, task.messages, template) for task in tasks]
        for at, generation in self.model.generate(prompts, sampling, sample):
            raw = (thinking.PREFIX if opens_thinking(prompts[at]) else "") + generation.text
            yield make_prediction(
                tasks[at], prompts[at], raw, generation.finish_reason, generation.n_tokens
            )

    def ask_plainly(
        self, tasks: Sequence[Task], prompted: Callable[[str], Prediction], sampling: Sampling
    ) -> Iterator[Prediction]:
        """Ask under the plain template; `prompted` gives the prediction of the same question under
        the model's own."""
        prompts = [
            render(self.model.tokenizer, task.messages, self.plain_template) for task in tasks
        ]
        n_prefix = len(encode(self.model.tokenizer, thinking.PREFIX))
        others: list[Task] = []
        beginning = sampling.model_copy(update={"max_tokens": n_prefix})
        for at, opening in self.model.generate(prompts, beginning):
            if opening.text != thinking.PREFIX:
                others.append(tasks[at])
                continue
            same = prompted(tasks[at].id)
            yield same.model_copy(
                update={"prompt": prompts[at], "n_tokens": same.n_tokens + n_prefix}
            )
        yield from self.ask(others, sampling, is_plain=True)


class EndpointAsker:
    """Asks a model behind an endpoint; every attempt is on the ledger, which also knows what was
    answered before."""

    def __init__(self, completer: "PaidCompleter") -> None:
        self.completer = completer
        self.failures: dict[str, int] = {}
        self.plain_template = None

    def ask(
        self, tasks: Sequence[Task], sampling: Sampling, sample: int = 0, is_plain: bool = False
    ) -> Iterator[Prediction]:
        """Ask all questions; an answer that was cut off is a prediction, one that never came is a
        failure with its reason."""
        requests = [
            Request(messages=task.messages, sampling=sampling, sample=sample) for task in tasks
        ]
        self.completer.settle(
            ((task.id, request) for task, request in zip(tasks, requests, strict=True)), len(tasks)
        )
        for task, request in zip(tasks, requests, strict=True):
            completion = self.completer.recall(request)
            if completion is None or not (completion.complete or completion.truncated):
                reason = completion.finish_reason if completion else "not_asked"
                self.failures[reason] = self.failures.get(reason, 0) + 1
                continue
            prompt = "\n".join(message.content for message in task.messages)
            yield make_prediction(
                task,
                prompt,
                _read_raw(completion),
                FinishReason.STOP if completion.complete else FinishReason.LENGTH,
                completion.usage.completion,
            )


def _read_raw(completion: Completion) -> str:
    """Put reasoning that came beside the content in front of it, in the written form."""
    if not completion.reasoning:
        return completion.text
    return (
        thinking.write(completion.reasoning, completion.text)
        if completion.text
        else thinking.PREFIX + completion.reasoning
    )
