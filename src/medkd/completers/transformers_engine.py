"""Ask a model on this machine through transformers' `generate`, in length-sorted batches.

In: prompts as text, or requests. Out: what the model wrote for each, why it ended, its tokens.
Not done here: reading reasoning and answer (`core.thinking`), scoring, retries.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import StoppedError
from medkd.core.records import Completion, FinishReason, Request, Sampling, Usage
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
    import torch
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
        """Answer requests in their order, under the model's own template; a thought that the
        template opens is part of the text."""
        completions: dict[int, Completion] = {}
        for key in dict.fromkeys((request.sampling, request.sample) for request in requests):
            chosen = [i for i, each in enumerate(requests) if (each.sampling, each.sample) == key]
            prompts = [render(self.tokenizer, requests[i].messages) for i in chosen]
            for at, generation in self.generate(prompts, *key):
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
        """Write on behind each prompt; yield a prompt's index and text when its batch is done.

        Greedy unless a temperature is given. Draws depend on the seed, the prompt and the number of
        the sample (one for all, or one a prompt), not on the other rows of the batch. Where memory
        runs out, the batch is halved and begun again.
        """
        samples = [sample] * len(prompts) if isinstance(sample, int) else sample
        encoded = [encode(self.tokenizer, prompt) for prompt in prompts]
        left = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
        while left:
            batch = left[: self.batch_size]
            seeds = [draw_seed(sampling.seed or 0, samples[i], prompts[i]) for i in batch]
            try:
                done = self.generate_batch([encoded[i] for i in batch], sampling, seeds)
            except (MemoryError, RuntimeError) as error:
                self._halve(len(batch), error)
                continue
            left = left[len(batch) :]
            yield from zip(batch, done, strict=True)

    def generate_batch(
        self,
        encoded: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        streamer: Any = None,
    ) -> list[Generation]:
        """Write on behind encoded prompts, all in one batch; `streamer` is one of transformers'."""
        import torch
        from transformers import GenerationConfig

        pad = cast(int, self.tokenizer.pad_token_id)
        width = max(len(ids) for ids in encoded)
        device = self.model.device
        inputs = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in encoded])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded])
        watch = _LoopWatch(self.tokenizer, self.stop_ids, width, self.is_looping)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=list(self.stop_ids),
            pad_token_id=pad,
            use_cache=True,
        )
        noise = [GumbelNoise(seeds, sampling, device)] if sampling.temperature else []
        with torch.inference_mode():
            written = cast(Any, self.model).generate(
                input_ids=inputs.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=noise,
                stopping_criteria=[watch],
                streamer=streamer,
            )
        rows = cast(list[list[int]], written[:, width:].tolist())
        return [
            self._read(ids[: sampling.max_tokens], watch.looped.get(row))
            for row, ids in enumerate(rows)
        ]

    def _read(self, ids: list[int], loops_at: int | None) -> Generation:
        """Cut a row of the batch where it ended: what follows is padding."""
        if loops_at is not None:
            return make_generation(self.tokenizer, ids[:loops_at], FinishReason.LOOP)
        end = next((at for at, token in enumerate(ids) if token in self.stop_ids), None)
        if end is not None:
            return make_generation(self.tokenizer, ids[: end + 1], FinishReason.STOP)
        return make_generation(self.tokenizer, ids, FinishReason.LENGTH)

    def _halve(self, n_rows: int, error: BaseException) -> None:
        """Halve the batch after an error that says memory is full; raise any other, and
        StoppedError where one row is too much."""
        import torch

        is_full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_full and "allocate memory" not in str(error):
            raise error
        if n_rows == 1:
            raise StoppedError(
                "out of memory with one question at a time; lower --max-tokens or take a "
                "smaller model"
            ) from error
        self.batch_size = n_rows // 2
        print(
            f"warning: out of memory with {n_rows} questions at a time; "
            f"going on with {self.batch_size}",
            file=sys.stderr,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class GumbelNoise:
    """A logits processor that makes the greedy choice a draw: the argmax of logits / temperature
    and Gumbel noise is distributed as their softmax. Each row has a generator of its own."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling, device: "torch.device") -> None:
        import torch
        from transformers import TopPLogitsWarper

        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._temperature = sampling.temperature or 1.0
        self._keep_likeliest = TopPLogitsWarper(sampling.top_p) if sampling.top_p else None

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Add the noise of the next position to scores (rows, vocabulary)."""
        import torch

        scores = scores.float() / self._temperature
        if self._keep_likeliest is not None:
            scores = self._keep_likeliest(cast(Any, input_ids), cast(Any, scores))
        uniform = torch.stack(
            [
                torch.rand(scores.shape[-1], generator=generator, device=scores.device)
                for generator in self._generators
            ]
        )
        return scores - (-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()


class _LoopWatch:
    """A stopping criterion of each row: it only repeats itself."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Sequence[int],
        n_prompt: int,
        is_looping: Callable[[str], bool] | None,
    ) -> None:
        self.looped: dict[int, int] = {}
        """How many tokens a row had where it was stopped."""
        self._tokenizer, self._stop_ids = tokenizer, set(stop_ids)
        self._n_prompt, self._is_looping = n_prompt, is_looping

    def __call__(
        self, input_ids: "torch.Tensor", scores: "torch.Tensor", **_: Any
    ) -> "torch.Tensor":
        """Tell of each row whether it is to end."""
        import torch

        n_written = input_ids.shape[1] - self._n_prompt
        if self._is_looping is not None and n_written and n_written % LOOP_CHECK_INTERVAL == 0:
            rows = cast(list[list[int]], input_ids[:, self._n_prompt :].tolist())
            for row, ids in enumerate(rows):
                if row in self.looped or not self._stop_ids.isdisjoint(ids):
                    continue
                if self._is_looping(decode(self._tokenizer, ids)):
                    self.looped[row] = n_written
        ended = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        if self.looped:
            ended[list(self.looped)] = True
        return ended


def make_generation(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], reason: FinishReason
) -> Generation:
    """Make a generation of what was drawn, on whatever engine."""
    text = decode(tokenizer, ids[:-1] if reason == FinishReason.STOP else ids)
    return Generation(text, reason, ids)


def decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """Read tokens as text, special ones too, and nothing tidied up."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return cast(str, text)


def draw_seed(seed: int, sample: int, prompt: str) -> int:
    """Derive the seed of one prompt's draws: the same in any batch and on any engine."""
    digest = hashlib.sha256(f"{seed}:{sample}:{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big")
