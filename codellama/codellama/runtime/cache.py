"""The preallocated key/value cache of one sequence."""

import torch
from torch import Tensor

from codellama.runtime.config import ModelConfig


class KVCache:
    """Keys and values of every layer, each [1, KV, capacity, D]; `length` positions are filled.

    Whoever runs the model advances `length` once all layers have written; setting it back forgets the
    positions behind it at no cost.
    """

    def __init__(self, config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layers, 1, config.n_kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values [1, KV, T, D] after `length`; returns all up to and with them."""
        end = self.length + keys.shape[2]
        assert end <= self.capacity, "the engine checks a request's length before it starts"
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
