"""The preallocated key/value cache of one sequence, in the model's dtype or in eight bits."""

from typing import Literal

import torch
from torch import Tensor

from codellama.runtime import fused_prefill
from codellama.runtime.config import ModelConfig

CacheKind = Literal["int8", "fp8"]

# What eight bits hold: the largest int8 that has an opposite, and the largest number of float8_e4m3fn.
_DTYPES = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}


class KVCache:
    """Keys and values of every layer, each [1, KV, capacity, D]; `length` positions are filled.

    Whoever runs the model advances `length` once all layers have written.
    """

    def __init__(self, config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        self._shape = (config.n_layers, 1, config.n_kv_heads)
        self._head_dim, self._device, self._dtype = config.head_dim, device, dtype
        self._parts = self._allocate(capacity)
        self.length = 0
        self._reached = 0  # a CPU's memory is taken as it is first written, not as it is reserved

    @property
    def keys(self) -> Tensor:
        """[layers, 1, KV, capacity, D]."""
        return self._parts[0]

    @property
    def values(self) -> Tensor:
        """[layers, 1, KV, capacity, D]."""
        return self._parts[1]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All that is kept: keys and values, and the scales of both where they are packed."""
        return tuple(self._parts)

    @property
    def capacity(self) -> int:
        """The positions that there is room for."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """The memory that is taken by now."""
        share = self._reached / self.capacity if self._device.type == "cpu" else 1.0
        return int(share * sum(part.nbytes for part in self._parts))

    def rewind(self, length: int) -> int:
        """Forgets what stands behind `length` positions, at no cost; returns how many are left."""
        assert length <= self._reached
        self.length = length
        return length

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` positions, keeping the `length` that are filled."""
        old, self._parts = self._parts, []
        if self.length == 0:  # nothing to copy: give the memory back first
            old = []
        self._parts = self._allocate(capacity)
        self._take(old, self.length)
        self._reached = self.length

    def copy(self, other: "KVCache", length: int) -> int:
        """Begins with the first `length` positions of another cache; returns how many it holds."""
        self._take(other._parts, length)
        self._reached = max(self._reached, length)
        return self.rewind(length)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values [1, KV, T, D] after `length`; returns all up to and with them."""
        end = self.length + keys.shape[2]
        assert end <= self.capacity, "the engine checks a request's length before it starts"
        self._reached = max(self._reached, end)
        self._write(layer, slice(self.length, end), keys, values)
        return self._read(layer, end)

    def extend_at(
        self, layer: int, position: Tensor, span: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Writes keys and values [1, KV, 1, D] at the position that a tensor [1] holds; returns the span."""
        self._write(layer, position, keys, values)
        return self._read(layer, span)

    def reach(self, length: int) -> None:
        """Notes that `length` positions are filled."""
        self.length = length
        self._reached = max(self._reached, length)

    def _allocate(self, capacity: int) -> list[Tensor]:
        return [self._room(capacity, self._head_dim, self._dtype) for _ in range(2)]

    def _room(self, capacity: int, width: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(*self._shape, capacity, width, device=self._device, dtype=dtype)

    def _take(self, parts: list[Tensor], length: int) -> None:
        for mine, other in zip(self._parts, parts, strict=False):
            mine[..., :length, :] = other[..., :length, :]

    def _write(self, layer: int, rows: slice | Tensor, keys: Tensor, values: Tensor) -> None:
        self.keys[layer, :, :, rows] = keys
        self.values[layer, :, :, rows] = values

    def _read(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class PackedKVCache(KVCache):
    """The same in int8 or fp8, with a float32 scale for each position and head.

    Attention gets them back in `dtype`, a layer at a time: it saves memory between the layers, not within.
    """

    def __init__(
        self, config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype, kind: CacheKind
    ) -> None:
        self._packed_dtype, self._most = _DTYPES[kind]
        super().__init__(config, capacity, device, dtype)

    def _allocate(self, capacity: int) -> list[Tensor]:
        packed = [self._room(capacity, self._head_dim, self._packed_dtype) for _ in range(2)]
        return packed + [self._room(capacity, 1, torch.float32) for _ in range(2)]

    def _write(self, layer: int, rows: slice | Tensor, keys: Tensor, values: Tensor) -> None:
        for n, new in enumerate((keys, values)):
            packed, scale = pack(new, self._packed_dtype, self._most)
            self._parts[n][layer, :, :, rows] = packed
            self._parts[n + 2][layer, :, :, rows] = scale

    def _read(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        keys, values = (
            self._unpacked(self._parts[n][layer, :, :, :end], self._parts[n + 2][layer, :, :, :end])
            for n in range(2)
        )
        return keys, values

    def _unpacked(self, packed: Tensor, scale: Tensor) -> Tensor:
        if fused_prefill.unpacks(packed, self._dtype):
            return fused_prefill.unpacked(packed, scale, self._dtype)
        return (packed.to(self._dtype) * scale).to(self._dtype)


def pack(x: Tensor, dtype: torch.dtype, most: float) -> tuple[Tensor, Tensor]:
    """Rows [..., D] in `dtype`, whose largest number is `most`, and their scales, float32 [..., 1]."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / most
    steps = wide / scale
    return (steps.round() if dtype == torch.int8 else steps).to(dtype), scale


def new_cache(
    config: ModelConfig, capacity: int, device: torch.device, dtype: torch.dtype, kind: CacheKind | None
) -> KVCache:
    """An empty cache of a kind; None for keys and values in `dtype`."""
    if kind is None:
        return KVCache(config, capacity, device, dtype)
    return PackedKVCache(config, capacity, device, dtype, kind)
