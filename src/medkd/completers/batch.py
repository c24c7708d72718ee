"""One batch of rows under way in a model on this machine: its KV cache, its masks, and the guesses
that one step judges together.

In: encoded prompts. Out: step by step, the tokens that each row goes on with. A guess that the
model does not make stays in the cache as a hole: masked, and its position given to another token.
Not done here: when a row is finished, and its text (`completers.transformers_engine`).
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from medkd.completers.drafts import Continuations, Drafter
from medkd.core.completer import Sampling

if TYPE_CHECKING:
    import torch

N_AT_ONCE = 64
"""Tokens that one step judges at most, over all rows, where it judges more than one a row."""
LONGEST_DRAFT = 8
N_LIKELIEST = 256
"""Tokens among which top-p is looked for first: sorting a whole vocabulary costs as much as a small
model's step."""


class Batch:
    """Rows that a model writes on together, each as far at a step as its guesses were right.

    Rows are written greedily unless a temperature is given; then a row's draws depend on its seed
    alone.
    """

    def __init__(
        self,
        model: Any,
        pad: int,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        company: Continuations,
    ) -> None:
        import torch

        from medkd.completers.cache import is_lasting, make_cache

        self.rows = list(range(len(prompts)))
        """Numbers of the rows still under way."""
        self._model = model
        self._pad = pad
        self._sampling = sampling
        self._n_prompt = [len(ids) for ids in prompts]
        self._cache = make_cache(model.config)
        self._can_guess = is_lasting(self._cache)
        self._drafters = [Drafter(ids, company) for ids in prompts]
        self._drafts: list[list[int]] = [[] for _ in prompts]
        self._numbers = _draw_numbers(seeds, sampling)
        width = max(self._n_prompt)
        self._ids = torch.tensor(
            [[pad] * (width - len(ids)) + list(ids) for ids in prompts], device=model.device
        )
        self._mask = torch.tensor(
            [[0] * (width - n) + [1] * n for n in self._n_prompt], device=model.device
        )
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)

    def step(self) -> list[tuple[int, list[int]]]:
        """Have the model judge what stands behind each row; gives each row and the tokens it goes
        on with, at least one."""
        import torch

        n_judged = 1 + max(len(self._drafts[row]) for row in self.rows)
        with torch.inference_mode():
            chosen = _choose(
                self._judge(n_judged), self._sampling, self._find_numbers(n_judged)
            ).tolist()
        steps = [
            (row, _find_agreed(self._drafts[row], choices))
            for row, choices in zip(self.rows, chosen, strict=True)
        ]
        for row, tokens in steps:
            self._drafters[row].add(tokens)
        self._leave_holes([len(tokens) for _, tokens in steps], n_judged)
        return steps

    def _judge(self, n: int) -> "torch.Tensor":
        """Give the logits (rows, n, vocabulary) behind the last n tokens of each row."""
        output = self._model(
            input_ids=self._ids, attention_mask=self._mask, position_ids=self._positions, past_key_values=self._cache, use_cache=True,
            logits_to_keep=n,
        )  # fmt: skip
        return output.logits.float()

    def go_on(self, done: Collection[int]) -> None:
        """Let the done rows go, and guess what comes next in the others."""
        import torch

        with torch.inference_mode():
            if done:
                kept = [at for at, row in enumerate(self.rows) if row not in done]
                self.rows = [self.rows[at] for at in kept]
                if not self.rows:
                    return
                selection = torch.tensor(kept, device=self._mask.device)
                self._cache.batch_select_indices(selection)
                self._mask = self._mask[selection]
            n_guesses = (
                min(LONGEST_DRAFT, N_AT_ONCE // len(self.rows) - 1) if self._can_guess else 0
            )
            for row in self.rows:
                self._drafts[row] = self._drafters[row].guess(n_guesses)
            self._feed([[self._drafters[row].ids[-1], *self._drafts[row]] for row in self.rows])

    def _feed(self, feeds: list[list[int]]) -> None:
        """Lay out what the next step judges; what pads a row on its right is judged by nobody."""
        import torch

        device = self._mask.device
        width = max(len(ids) for ids in feeds)
        self._ids = torch.tensor(
            [ids + [self._pad] * (width - len(ids)) for ids in feeds], device=device
        )
        starts = torch.tensor(
            [len(self._drafters[row].ids) - 1 for row in self.rows], device=device
        )
        self._positions = starts[:, None] + torch.arange(width, device=device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(feeds), width)], dim=-1)

    def _leave_holes(self, n_agreed: list[int], n_judged: int) -> None:
        """Mask what the model did not agree to; what is a hole in every row goes."""
        import torch

        if n_judged == 1:
            return
        most = max(n_agreed)
        with torch.inference_mode():
            self._cache.crop(most - n_judged)
            self._mask = self._mask[:, : self._mask.shape[1] + most - n_judged]
            agreed = torch.tensor(n_agreed, device=self._mask.device)
            self._mask[:, -most:] = torch.arange(most, device=self._mask.device) < agreed[:, None]

    def _find_numbers(self, n: int) -> "torch.Tensor | None":
        """Find each row's next `n` numbers (rows, n)."""
        import torch

        if self._numbers is None:
            return None
        n_written = [len(self._drafters[row].ids) - self._n_prompt[row] for row in self.rows]
        at = (torch.tensor(n_written)[:, None] + torch.arange(n)).clamp(
            max=self._numbers.shape[1] - 1
        )
        return self._numbers[self.rows].gather(1, at)


def _find_agreed(draft: list[int], choices: list[int]) -> list[int]:
    """Find the tokens that a row goes on with: guesses up to the first that the model does not
    choose, and what it chooses instead."""
    n = 0
    while n < len(draft) and draft[n] == choices[n]:
        n += 1
    return choices[: n + 1]


def _draw_numbers(seeds: Sequence[int], sampling: Sampling) -> "torch.Tensor | None":
    """Draw the uniform numbers of every row beforehand (rows, max_tokens); None for greedy
    decoding."""
    import torch

    if not sampling.temperature:
        return None
    return torch.stack(
        [
            torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


def _choose(
    logits: "torch.Tensor", sampling: Sampling, numbers: "torch.Tensor | None"
) -> "torch.Tensor":
    """Choose tokens from logits (rows, n, vocabulary): the likeliest, or by inverse transform of
    numbers (rows, n) within top-p."""
    if numbers is None or not sampling.temperature:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p is None:  # no order is needed
        return _invert(probabilities.cumsum(-1), numbers)[..., 0]
    ordered, order = probabilities.topk(min(N_LIKELIEST, probabilities.shape[-1]))
    if ordered.sum(-1).min() < sampling.top_p:
        ordered, order = probabilities.sort(-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0.0)
    return order.gather(-1, _invert(ordered.cumsum(-1), numbers))[..., 0]


def _invert(cumulated: "torch.Tensor", numbers: "torch.Tensor") -> "torch.Tensor":
    """Find where the cumulated weights (rows, n, choices) pass each uniform number (rows, n)."""
    import torch

    targets = numbers.to(cumulated.device)[..., None] * cumulated[..., -1:]
    return torch.searchsorted(cumulated, targets, right=True).clamp(max=cumulated.shape[-1] - 1)
