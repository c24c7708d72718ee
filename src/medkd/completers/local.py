"""Ask a model on this machine: many prompts at once, in length-sorted batches, with a KV cache.

In: prompts as text, or requests. Out: what the model wrote for each, why it ended and how many tokens it took.
Not done here: reading reasoning and answer (`core.thinking`), scoring, retries (nothing here fails by chance).
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.completer import Completion, Request, Sampling
from medkd.core.errors import StoppedError
from medkd.core.records import FinishReason, Usage
from medkd.core.thinking import PREFIX
from medkd.models.load import LoadedModel
from medkd.models.tokens import encode, find_stop_ids, render, repair_pad_token

if TYPE_CHECKING:
    import torch

LOOP_CHECK_INTERVAL = 64
"""Tokens between two looks for a loop."""


class Generation(NamedTuple):
    """What a model wrote behind one prompt; its stop token is counted and not part of the text."""

    text: str
    finish_reason: FinishReason
    ids: list[int]
    """The very tokens drawn, the stop token included: encoding the text again may give others."""

    @property
    def n_tokens(self) -> int:
        return len(self.ids)


class LocalModel:
    """A model of this machine behind the completer's port.

    `is_looping`, where given, looks at the text so far of every row now and then, and stops those that only repeat themselves.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int = 32, is_looping: Callable[[str], bool] | None = None) -> None:
        self.model, self.tokenizer = loaded
        self.batch_size = batch_size
        self.is_looping = is_looping
        self.stop_ids = find_stop_ids(self.tokenizer, self.model.generation_config)
        repair_pad_token(self.tokenizer)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer requests in their order, under the model's own template; the thinking prefix of the template is part of the text."""
        completions: dict[int, Completion] = {}
        for sampling, sample in dict.fromkeys((request.sampling, request.sample) for request in requests):
            chosen = [i for i, request in enumerate(requests) if (request.sampling, request.sample) == (sampling, sample)]
            prompts = [render(self.tokenizer, requests[i].messages) for i in chosen]
            for at, generation in self.generate(prompts, sampling, sample):
                completions[chosen[at]] = Completion(
                    text=(PREFIX if prompts[at].endswith(PREFIX) else "") + generation.text,
                    finish_reason=generation.finish_reason,
                    complete=generation.finish_reason == FinishReason.STOP,
                    usage=Usage(prompt=len(encode(self.tokenizer, prompts[at])), completion=generation.n_tokens),
                )
        return [completions[i] for i in range(len(requests))]

    def generate(self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0) -> Iterator[tuple[int, Generation]]:
        """Write on behind each prompt; yields a prompt's index and text as soon as it is done, in any order.

        Greedy unless a temperature is given. What is drawn depends on the seed, the prompt and the number of the sample (one for
        all, or one a prompt, so that the same prompt may stand there several times), not on the company in the batch.
        """
        samples = [sample] * len(prompts) if isinstance(sample, int) else sample
        encoded = [encode(self.tokenizer, prompt) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
        size = self.batch_size
        for start in range(0, len(by_length), size):
            indices = by_length[start : start + size]
            seeds = [draw_seed(sampling.seed or 0, samples[i], prompts[i]) for i in indices]
            for row, generation in self._generate_batch([encoded[i] for i in indices], sampling, seeds):
                yield indices[row], generation

    def _generate_batch(self, encoded: list[list[int]], sampling: Sampling, seeds: list[int]) -> Iterator[tuple[int, Generation]]:
        """Generate one batch; where memory runs out, what is left of it in halves, and the batches after it too."""
        left = list(range(len(encoded)))
        while left:
            part = left[: self.batch_size]
            try:
                for row, generation in self._generate_together([encoded[i] for i in part], sampling, [seeds[i] for i in part]):
                    left.remove(part[row])
                    yield part[row], generation
            except (MemoryError, RuntimeError) as error:
                self._halve(len(part), error)

    def _halve(self, n_rows: int, error: BaseException) -> None:
        """Halve the batch after an error that says memory is full; raises any other, and StoppedError where one row is too much."""
        import torch

        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise error
        if n_rows == 1:
            raise StoppedError("out of memory with one question at a time; lower --max-tokens or take a smaller model") from error
        self.batch_size = n_rows // 2
        print(f"warning: out of memory with {n_rows} questions at a time; going on with {self.batch_size}", file=sys.stderr)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _generate_together(self, encoded: list[list[int]], sampling: Sampling, seeds: list[int]) -> Iterator[tuple[int, Generation]]:
        import torch
        from transformers import DynamicCache

        ids, mask = self._pad_left(encoded)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        live = list(range(len(encoded)))
        written: list[list[int]] = [[] for _ in encoded]
        draws = _draw_numbers(seeds, sampling)
        for step in range(sampling.max_tokens):
            with torch.inference_mode():
                logits = self._step(ids, mask, positions, cache)
                chosen = _choose(logits, sampling, None if draws is None else draws[live, step])
            kept: list[int] = []
            for at, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                written[row].append(token)
                reason = self._why_finished(written[row], sampling.max_tokens)
                if reason is None:
                    kept.append(at)
                else:
                    yield row, self._close(written[row], reason)
            if not kept:
                return
            with torch.inference_mode():
                if len(kept) < len(live):
                    selection = torch.tensor(kept, device=mask.device)
                    cache.batch_select_indices(selection)
                    mask, positions, chosen = mask[selection], positions[selection], chosen[selection]
                    live = [live[at] for at in kept]
                ids, positions = chosen[:, None], positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=-1)

    def _step(self, ids: "torch.Tensor", mask: "torch.Tensor", positions: "torch.Tensor", cache: Any) -> "torch.Tensor":
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1].float()

    def _pad_left(self, encoded: list[list[int]]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Give ids and mask, both (rows, longest prompt)."""
        import torch

        width = max(len(ids) for ids in encoded)
        pad = cast(int, self.tokenizer.pad_token_id)
        rows = [[pad] * (width - len(ids)) + ids for ids in encoded]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded]
        return torch.tensor(rows, device=self.model.device), torch.tensor(mask, device=self.model.device)

    def _why_finished(self, ids: list[int], max_tokens: int) -> FinishReason | None:
        if ids[-1] in self.stop_ids:
            return FinishReason.STOP
        if len(ids) >= max_tokens:
            return FinishReason.LENGTH
        if self.is_looping is not None and len(ids) % LOOP_CHECK_INTERVAL == 0 and self.is_looping(self._decode(ids)):
            return FinishReason.LOOP
        return None

    def _close(self, ids: list[int], reason: FinishReason) -> Generation:
        return Generation(self._decode(ids[:-1] if reason == FinishReason.STOP else ids), reason, ids)

    def _decode(self, ids: list[int]) -> str:
        return cast(str, self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def draw_seed(seed: int, sample: int, prompt: str) -> int:
    """Give the seed of one prompt's draws: the same in any company and on any engine."""
    digest = hashlib.sha256(f"{seed}:{sample}:{prompt}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _draw_numbers(seeds: list[int], sampling: Sampling) -> "torch.Tensor | None":
    """Draw the uniform numbers of every row beforehand (rows, max_tokens); None for greedy decoding."""
    import torch

    if not sampling.temperature:
        return None
    return torch.stack([torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _choose(logits: "torch.Tensor", sampling: Sampling, numbers: "torch.Tensor | None") -> "torch.Tensor":
    """Choose the next token of each row, from logits (rows, vocabulary): the likeliest, or by inverse transform within top-p."""

    if numbers is None or not sampling.temperature:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p is None:  # no order is needed, and sorting a vocabulary costs as much as a small model's step
        return _invert(probabilities.cumsum(-1), numbers)[:, 0]
    ordered, order = probabilities.sort(-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0.0)
    return order.gather(-1, _invert(ordered.cumsum(-1), numbers))[:, 0]


def _invert(cumulated: "torch.Tensor", numbers: "torch.Tensor") -> "torch.Tensor":
    """Find where the cumulated weights (rows, choices) pass each row's uniform number."""
    import torch

    targets = numbers.to(cumulated.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True).clamp(max=cumulated.shape[-1] - 1)
