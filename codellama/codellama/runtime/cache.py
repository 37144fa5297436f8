"""The preallocated key/value cache of one sequence."""

import torch
from torch import Tensor

from codellama.runtime.config import ModelConfig


class KVCache:
    """Keys and values of every layer, each [1, KV, capacity, D]; `length` positions are filled.

    Whoever runs the model advances `length` once all layers have written.
    """

    def __init__(self, config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        self._shape = (config.n_layers, 1, config.n_kv_heads)
        self._head_dim = config.head_dim
        self.keys = torch.zeros(*self._shape, capacity, self._head_dim, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.length = 0
        self._reached = 0  # a CPU's memory is taken as it is first written, not as it is reserved

    @property
    def capacity(self) -> int:
        """The positions that there is room for."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """The memory that is taken by now."""
        share = self._reached / self.capacity if self.keys.device.type == "cpu" else 1.0
        return int(share * (self.keys.nbytes + self.values.nbytes))

    def rewind(self, length: int) -> int:
        """Forgets what stands behind `length` positions, at no cost; returns how many are left."""
        assert length <= self._reached
        self.length = length
        return length

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` positions, keeping the `length` that are filled."""
        if self.length == 0:  # nothing to copy: give the memory back first
            self.keys = self.values = self.keys[..., :0, :].clone()
        self.keys = self._grown(self.keys, capacity)
        self.values = self._grown(self.values, capacity)
        self._reached = self.length

    def copy(self, other: "KVCache", length: int) -> int:
        """Begins with the first `length` positions of another cache; returns how many it holds."""
        self.keys[..., :length, :] = other.keys[..., :length, :]
        self.values[..., :length, :] = other.values[..., :length, :]
        self._reached = max(self._reached, length)
        return self.rewind(length)

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        new = torch.zeros(*self._shape, capacity, self._head_dim, device=old.device, dtype=old.dtype)
        new[..., : self.length, :] = old[..., : self.length, :]
        return new

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values [1, KV, T, D] after `length`; returns all up to and with them."""
        end = self.length + keys.shape[2]
        assert end <= self.capacity, "the engine checks a request's length before it starts"
        self._reached = max(self._reached, end)
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
