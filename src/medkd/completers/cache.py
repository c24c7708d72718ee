"""A KV cache with room to write on: tokens are put where they belong instead of everything before
them being copied at each step.

In: keys and values of a step. Out: those of all steps. Imported inside functions, for it needs
torch.
Not done here: layers that forget (sliding windows, linear attention), which keep the cache that
transformers gives them.
"""

from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

N_ROOM = 64
"""Columns that are taken beforehand each time the room is full."""


class RoomyLayer(DynamicLayer):
    """Keys and values (rows, heads, tokens, size) as views of buffers with room behind them."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take buffers without any room yet."""
        super().lazy_initialization(key_states, value_states)
        self._buffers = (key_states[:, :, :0], value_states[:, :, :0])
        self._n = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns behind the others; gives all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._n + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = (
                self._enlarge(self._buffers[0], end + N_ROOM),
                self._enlarge(self._buffers[1], end + N_ROOM),
            )
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._n : end] = states
        return self._show(end)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last columns: a number below zero, as transformers has it."""
        if self.is_initialized:
            self._show(self._n + tokens_to_remove)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self._show(self._n)

    def _enlarge(self, buffer: torch.Tensor, n: int) -> torch.Tensor:
        larger = buffer.new_empty(*buffer.shape[:2], n, buffer.shape[3])
        larger[:, :, : self._n] = buffer[:, :, : self._n]
        return larger

    def _show(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._n = n
        self.keys, self.values = keys, values = (
            self._buffers[0][:, :, :n],
            self._buffers[1][:, :, :n],
        )
        return keys, values


def make_cache(config: PretrainedConfig) -> DynamicCache:
    """Make a model's cache, with room in it where no layer forgets."""
    cache = DynamicCache(config=config)
    if is_lasting(cache):
        cache.layers[:] = [RoomyLayer() for _ in cache.layers]
    return cache


def is_lasting(cache: DynamicCache) -> bool:
    """Tell whether every layer keeps all it is given."""
    return all(type(layer) in {DynamicLayer, RoomyLayer} for layer in cache.layers)
