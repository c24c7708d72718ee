"""Ask a model on this machine: many prompts at once, in length-sorted batches, with a KV cache.

In: prompts as text, or requests. Out: what the model wrote for each, why it ended and how many
tokens it took.
Not done here: reading reasoning and answer (`core.thinking`), scoring, retries (nothing here fails
by chance).
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from medkd.completers.batch import Batch
from medkd.completers.drafts import Continuations
from medkd.core.completer import Completion, Request, Sampling
from medkd.core.errors import StoppedError
from medkd.core.records import FinishReason, Usage
from medkd.core.thinking import PREFIX
from medkd.models.chat_template import (
    encode,
    find_stop_ids,
    opens_thinking,
    render,
    repair_pad_token,
)
from medkd.models.load import LoadedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOP_CHECK_INTERVAL = 64
"""Tokens between two looks for a loop."""


class EngineUnavailableError(Exception):
    """An engine cannot open this model here; the message says why, in one line."""


class Generation(NamedTuple):
    """What a model wrote behind one prompt; its stop token is counted and not part of the text."""

    text: str
    finish_reason: FinishReason
    ids: list[int]
    """The very tokens drawn, the stop token included: encoding the text again may give others."""

    @property
    def n_tokens(self) -> int:
        return len(self.ids)


class TransformersEngine:
    """A model of this machine behind the completer's port.

    `is_looping`, where given, looks at the text so far of every row now and then, and stops those
    that only repeat themselves.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batch_size: int = 32,
        is_looping: Callable[[str], bool] | None = None,
    ) -> None:
        self.model, self.tokenizer = loaded
        self.batch_size = batch_size
        self.is_looping = is_looping
        self.stop_ids = find_stop_ids(self.tokenizer, self.model.generation_config)
        repair_pad_token(self.tokenizer)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in their order, under the model's own template; the thinking prefix of
        the template is part of the text."""
        completions: dict[int, Completion] = {}
        for sampling, sample in dict.fromkeys(
            (request.sampling, request.sample) for request in requests
        ):
            chosen = [
                i
                for i, request in enumerate(requests)
                if (request.sampling, request.sample) == (sampling, sample)
            ]
            prompts = [render(self.tokenizer, requests[i].messages) for i in chosen]
            for at, generation in self.generate(prompts, sampling, sample):
                completions[chosen[at]] = Completion(
                    text=(PREFIX if opens_thinking(prompts[at]) else "") + generation.text,
                    finish_reason=generation.finish_reason,
                    complete=generation.finish_reason == FinishReason.STOP,
                    usage=Usage(
                        prompt=len(encode(self.tokenizer, prompts[at])),
                        completion=generation.n_tokens,
                    ),
                )
        return [completions[i] for i in range(len(requests))]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0
    ) -> Iterator[tuple[int, Generation]]:
        """Write on behind each prompt; yields a prompt's index and text as soon as it is done, in
        any order.

        Greedy unless a temperature is given. What is drawn depends on the seed, the prompt and the
        number of the sample (one for all, or one a prompt, so that the same prompt may stand there
        several times), not on the company in the batch.
        """
        samples = [sample] * len(prompts) if isinstance(sample, int) else sample
        encoded = [encode(self.tokenizer, prompt) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
        size = self.batch_size
        company = Continuations()
        for start in range(0, len(by_length), size):
            indices = by_length[start : start + size]
            seeds = [draw_seed(sampling.seed or 0, samples[i], prompts[i]) for i in indices]
            for row, generation in self._generate_batch(
                [encoded[i] for i in indices], sampling, seeds, company
            ):
                yield indices[row], generation

    def _generate_batch(
        self, encoded: list[list[int]], sampling: Sampling, seeds: list[int], company: Continuations
    ) -> Iterator[tuple[int, Generation]]:
        """Generate one batch; where memory runs out, what is left of it in halves, and the batches
        after it too."""
        left = list(range(len(encoded)))
        while left:
            part = left[: self.batch_size]
            try:
                for row, generation in self._generate_together(
                    [encoded[i] for i in part], sampling, [seeds[i] for i in part], company
                ):
                    left.remove(part[row])
                    yield part[row], generation
            except (MemoryError, RuntimeError) as error:
                self._halve(len(part), error)

    def _halve(self, n_rows: int, error: BaseException) -> None:
        """Halve the batch after an error that says memory is full; raises any other, and
        StoppedError where one row is too much."""
        import torch

        if not isinstance(
            error, MemoryError | torch.OutOfMemoryError
        ) and "allocate memory" not in str(error):
            raise error
        if n_rows == 1:
            raise StoppedError(
                "out of memory with one question at a time; lower --max-tokens or take a smaller model"
            ) from error
        self.batch_size = n_rows // 2
        print(
            f"warning: out of memory with {n_rows} questions at a time; going on with {self.batch_size}",
            file=sys.stderr,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _generate_together(
        self, encoded: list[list[int]], sampling: Sampling, seeds: list[int], company: Continuations
    ) -> Iterator[tuple[int, Generation]]:
        batch = Batch(
            self.model, cast(int, self.tokenizer.pad_token_id), encoded, sampling, seeds, company
        )
        written: list[list[int]] = [[] for _ in encoded]
        while batch.rows:
            done: list[int] = []
            for row, tokens in batch.step():
                reason = self._write(written[row], tokens, sampling.max_tokens)
                if reason is not None:
                    done.append(row)
                    yield row, make_generation(self.tokenizer, written[row], reason)
            batch.go_on(done)

    def _write(self, ids: list[int], tokens: list[int], max_tokens: int) -> FinishReason | None:
        """Write tokens on until one ends the text; gives why it ended."""
        for token in tokens:
            ids.append(token)
            reason = self._why_finished(ids, max_tokens)
            if reason is not None:
                return reason
        return None

    def _why_finished(self, ids: list[int], max_tokens: int) -> FinishReason | None:
        if ids[-1] in self.stop_ids:
            return FinishReason.STOP
        if len(ids) >= max_tokens:
            return FinishReason.LENGTH
        if (
            self.is_looping is not None
            and len(ids) % LOOP_CHECK_INTERVAL == 0
            and self.is_looping(decode(self.tokenizer, ids))
        ):
            return FinishReason.LOOP
        return None


def make_generation(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], reason: FinishReason
) -> Generation:
    """Make a generation of what was drawn, on whatever engine."""
    return Generation(
        decode(tokenizer, ids[:-1] if reason == FinishReason.STOP else ids), reason, ids
    )


def decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """Read tokens as text, special ones too, and nothing tidied up."""
    return cast(
        str, tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def draw_seed(seed: int, sample: int, prompt: str) -> int:
    """Give the seed of one prompt's draws: the same in any company and on any engine."""
    digest = hashlib.sha256(f"{seed}:{sample}:{prompt}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
