"""A dense Llama in int8 or int4 on a CPU, computed by the compiled code of `native.c`, and its cache.

It stands where `Transformer` stands (see `generation.LanguageModel`) and is made from one whose layers were
quantised. A position's numbers do not depend on what is computed beside it, so a cache may be gone on with
from any position.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.footprint import cache_bytes
from codellama.runtime.linear import Int4Linear, Int8Linear
from codellama.runtime.model import Transformer
from codellama.runtime.native_layout import (
    OUTPUTS,
    BatchStruct,
    CacheStruct,
    LayerStruct,
    LinearStruct,
    ModelStruct,
    lanes_of,
    make_workspace,
    packed_linear,
)
from codellama.runtime.native_threads import ThreadCount

# What native.c's widest vectors, and tiles of positions, divide by.
_WIDEST, _POSITIONS = 16, 64
# Queries that share scores' room.
_QUERIES = 6
# Rows of a pass: a longer one is run in pieces. Up to so few they are drafts or a batch.
_ROWS, _FEW = 128, 16


def fits(config: ModelConfig) -> bool:
    """Whether the compiled code computes a model of this shape."""
    queries, shared = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return (
        config.llama4 is None
        and not config.rope_interleaved
        and config.head_dim % _WIDEST == 0
        and config.dim % OUTPUTS == 0
        and config.ffn_dim % _WIDEST == 0
        and config.dim <= min(queries + 2 * shared, 2 * config.ffn_dim)
    )


class NativeCache:
    """Keys and values of one sequence in the layout that `native.c` reads, float32 or int8."""

    def __init__(self, config: ModelConfig, capacity: int, packed: bool, lanes: int) -> None:
        """Keys lie in tiles of `lanes` positions."""
        self._shape = (config.n_layers, config.n_kv_heads)
        self._head_dim = config.head_dim
        self._packed, self._lanes = packed, lanes
        self.length = self._reached = 0
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        capacity = -(-capacity // _POSITIONS) * _POSITIONS
        dtype = np.int8 if self._packed else np.float32
        # Zeros, since what stands behind a sequence is multiplied with weights of zero.
        self.keys = _zeros((*self._shape, capacity // self._lanes, self._head_dim, self._lanes), dtype)
        self.values = _zeros((*self._shape, capacity, self._head_dim), dtype)
        self.scales = _zeros((2, *self._shape, capacity if self._packed else 0), np.float32)
        self.capacity = capacity
        addresses = [t.data_ptr() if t.numel() else None for t in (self.scales[0], self.scales[1])]
        self.pointer = CacheStruct(self.keys.data_ptr(), self.values.data_ptr(), *addresses, capacity)

    @property
    def nbytes(self) -> int:
        """The memory that is taken by now: a CPU's is taken as it is first written."""
        whole = self.keys.nbytes + self.values.nbytes + self.scales.nbytes
        return int(whole * self._reached / self.capacity)

    def rewind(self, length: int) -> int:
        """Forgets what stands behind `length` positions, at no cost; returns how many are left."""
        assert length <= self._reached
        self.length = length
        return length

    def reach(self, length: int) -> None:
        """Notes that `length` positions are filled."""
        assert length <= self.capacity, "the engine checks a request's length before it starts"
        self.length = length
        self._reached = max(self._reached, length)

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` positions, keeping the `length` that are filled."""
        old = (self.keys, self.values, self.scales)
        self._allocate(capacity)
        self._take(*old, self.length)
        self._reached = self.length

    def copy(self, other: "NativeCache", length: int) -> int:
        """Begins with the first `length` positions of another cache; returns how many it holds."""
        self._take(other.keys, other.values, other.scales, length)
        self._reached = max(self._reached, length)
        return self.rewind(length)

    def _take(self, keys: Tensor, values: Tensor, scales: Tensor, length: int) -> None:
        tiles = -(-length // self._lanes)
        self.keys[:, :, :tiles] = keys[:, :, :tiles]
        self.values[:, :, :length] = values[:, :, :length]
        if self._packed:
            self.scales[..., :length] = scales[..., :length]


class NativeModel:
    """A transformer's weights, packed for the compiled pass."""

    def __init__(self, model: Transformer, library: ctypes.CDLL, packed_cache: bool = False) -> None:
        """Takes the layers over: `model` computes nothing any more."""
        assert fits(model.config)
        self.config = model.config
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._packed_cache = packed_cache
        self._rope = model.rope
        self._pass: Any = library.codellama_pass
        self._pass.restype = None
        self._lanes = lanes_of(library)
        self._kept: list[Tensor] = []  # what the structures below point to
        self._threads = torch.get_num_threads()
        # For single rows, for drafts and batches, for prompts.
        self._teams = [ThreadCount(self._threads) for _ in range(3)]
        layers = (LayerStruct * self.config.n_layers)(*(self._layer(block) for block in model.layers))
        self._model = ModelStruct(
            *(self.config.dim, self.config.n_layers, self.config.n_heads, self.config.n_kv_heads),
            *(self.config.head_dim, self.config.ffn_dim, self.config.norm_eps),
            self._keep(model.embed_tokens.weight.detach().float()),
            layers,
            self._keep(model.norm.weight.detach().float()),
            self._linear(model.lm_head),
        )
        self._make_room()

    @property
    def block(self) -> int:
        """Positions of a prefill's pass."""
        return _ROWS

    @property
    def resume_every(self) -> int:
        """A position is computed alike whatever is computed beside it."""
        return 1

    @property
    def batches(self) -> bool:
        """Eight sequences' steps at once took 0.6 of theirs one by one at 50 MB of weights, and no less at
        10 MB, which stay in the processor's cache; a completion's time is mostly its prompt's.

        The pocket model's 32 MB lie between the two.
        """
        return False

    @property
    def position_bytes(self) -> int:
        """What a position takes in a cache."""
        return cache_bytes(self.config, 1, 1 if self._packed_cache else 4)

    @property
    def weight_bytes(self) -> int:
        """What the weights take."""
        return sum(tensor.nbytes for tensor in self._kept)

    def new_cache(self, capacity: int) -> NativeCache:
        """An empty cache with room for `capacity` positions."""
        return NativeCache(self.config, capacity, self._packed_cache, self._lanes)

    def __call__(self, ids: Tensor, cache: NativeCache | None = None, last_only: bool = False) -> Tensor:
        """Logits of every position, or with `last_only` of the last, [1, V]; as `Transformer.forward`."""
        assert ids.shape[0] == 1, "a cache holds one sequence"
        row: list[int] = ids[0].tolist()
        cache = cache if cache is not None else self.new_cache(len(row))
        found = []
        for at in range(0, len(row), _ROWS):
            piece = row[at : at + _ROWS]
            positions = list(range(cache.length, cache.length + len(piece)))
            wanted = 1 if last_only else len(piece)
            found.append(self._run(piece, [cache] * len(piece), positions, wanted))
        logits = found[-1] if last_only or len(found) == 1 else torch.cat(found)
        return logits[None]

    def together(self, ids: Tensor, caches: Sequence[NativeCache]) -> Tensor:
        """Logits [B, V] after one more id for each of B caches, ids [B]."""
        row: list[int] = ids.tolist()
        positions = [cache.length for cache in caches]
        pieces = (slice(at, at + _ROWS) for at in range(0, len(row), _ROWS))
        found = [self._run(row[p], caches[p], positions[p], len(row[p])) for p in pieces]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _run(
        self, ids: list[int], caches: Sequence[NativeCache], positions: list[int], wanted: int
    ) -> Tensor:
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:  # compiled code would read beyond
            raise InvalidRequest(f"The model has ids from 0 to {self.config.vocab_size - 1}: give no others.")
        count, furthest = len(ids), max(positions) + 1
        last = dict(zip(caches, positions, strict=True))  # a cache's positions ascend
        for cache, position in last.items():
            cache.reach(position + 1)
        cos, sin = self._rope.rows(0, furthest, self.device)
        capacity = max(cache.capacity for cache in last)
        if capacity > self._score_room:
            self._make_room_for_scores(capacity)
        logits = torch.empty(wanted, self._model.head.n)
        numbers = ctypes.c_int64 * count
        addresses = {cache: ctypes.addressof(cache.pointer) for cache in last}
        pointers = (ctypes.c_void_p * count)(*map(addresses.__getitem__, caches))
        batch = BatchStruct(
            *(count, wanted, numbers(*ids), numbers(*positions), pointers),
            *(cos.data_ptr(), sin.data_ptr()),
        )
        team = self._teams[(count > 1) + (count > _FEW)]
        threads, began = team.choose(), time.perf_counter()
        self._pass(
            ctypes.byref(self._model),
            ctypes.byref(batch),
            ctypes.c_void_p(logits.data_ptr()),
            ctypes.byref(self._workspace),
            ctypes.c_int64(threads),
        )
        team.took((time.perf_counter() - began) / count)
        return logits[:, : self.config.vocab_size]

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _layer(self, block: Any) -> LayerStruct:
        attention, feed_forward = block.self_attn, block.mlp
        return LayerStruct(
            self._keep(block.input_layernorm.weight.detach().float()),
            self._keep(block.post_attention_layernorm.weight.detach().float()),
            self._linear(attention.qkv_proj),
            self._linear(attention.o_proj),
            self._linear(feed_forward.gate_up_proj),
            self._linear(feed_forward.down_proj),
        )

    def _linear(self, layer: Any) -> LinearStruct:
        assert isinstance(layer, Int8Linear | Int4Linear)
        tensors, linear = packed_linear(layer, self._lanes)
        self._kept += tensors
        for name in ("weight",) if isinstance(layer, Int8Linear) else ("packed", "scales"):
            setattr(layer, name, getattr(layer, name).new_empty(0, 0))  # a slice would keep the memory
        return linear

    def _make_room(self) -> None:
        """Memory for the rows of a pass, once for all passes."""
        layer, head = self._model.layer[0], self._model.head
        linears = (layer.qkv, layer.o, layer.gate_up, layer.down)
        outputs, inputs = max(linear.n for linear in linears), max(linear.k for linear in (*linears, head))
        self._room, self._workspace = make_workspace(
            max(_ROWS, self._threads), self.config.dim, inputs, outputs
        )
        self._score_room = 0

    def _make_room_for_scores(self, capacity: int) -> None:
        self._scores = [torch.empty(_QUERIES, capacity) for _ in range(self._threads)]
        addresses = (scores.data_ptr() for scores in self._scores)
        self._workspace.scores = (ctypes.c_void_p * self._threads)(*addresses)
        self._score_room = capacity


def _zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Memory that the system clears as it is first written; torch's own zeros are written by all its threads,
    which stand still where another program keeps one of the cores.
    """
    return torch.from_numpy(np.zeros(shape, dtype))


def product(library: ctypes.CDLL, layer: Int8Linear | Int4Linear) -> Callable[[Tensor], Tensor]:
    """One layer's product by the compiled code: x [M, K] to [M, N], M at most 128."""
    kept, linear = packed_linear(layer, lanes_of(library))
    room, workspace = make_workspace(_ROWS, 0, linear.k, 0)

    def run(x: Tensor) -> Tensor:
        assert kept, room
        out = torch.empty(x.shape[0], linear.n)
        library.codellama_product(
            ctypes.byref(linear),
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_int64(x.shape[0]),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.byref(workspace),
            ctypes.c_int64(torch.get_num_threads()),
        )
        return out[:, : layer.out_features]

    return run
