"""One more position for up to 16 sequences on a GPU: five kernels a layer over a transformer's own weights.

It computes what `Transformer.together` does, with activations in float32 between the kernels, for dense
models in bfloat16 whose weights may be in fewer bits. Everything that changes between steps stands in
buffers, so a captured step serves every cache and length; `graphs` captures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor, nn

from codellama.runtime.cache import KVCache
from codellama.runtime.layers import RMSNorm
from codellama.runtime.linear import Fp8Linear, Int4Linear, Int8Linear
from codellama.runtime.model import Block, Transformer
from codellama.runtime.triton_attention import FIELDS, attend_groups, attend_one
from codellama.runtime.triton_batch import product_many
from codellama.runtime.triton_products import embed, int4_one, product_one

# The most sequences of a step: what a matrix unit's narrow side holds.
ROWS = 16
# Programs that keep a GPU's processors reading a cache.
_PROGRAMS = 512
_EMBED_BLOCK = 1024
# What a cache keeps, as the kernels are told of it.
_CACHES = {
    torch.bfloat16: (tl.bfloat16, 0),
    torch.int8: (tl.int8, 1),
    torch.float8_e4m3fn: (tl.float8e4nv, 2),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program of a product takes at once: outputs, inputs (words of int4), warps, loads ahead.

    Of a gated product it takes half as many outputs, each from two rows of weights.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int
    ahead: bool = False  # the next weights are asked for before these are used

    @property
    def options(self) -> dict[str, int]:
        """The launch's own settings."""
        return {"num_warps": self.warps, "num_stages": self.stages}


# By what weights are kept in, for one row: measured with benchmarks/gpu_kernels.py. Only what an H200 was
# seen to compute rightly is here, inputs that a tile does not divide included.
ONE = {
    "float": Tile(8, 512, 4, 4),
    "int8": Tile(4, 512, 1, 1, ahead=True),
    "fp8": Tile(4, 512, 1, 1),
    "int4": Tile(4, 128, 1, 1, ahead=True),
}
MANY = {
    "float": Tile(32, 128, 4, 3),
    "int8": Tile(32, 128, 4, 3),
    "fp8": Tile(32, 128, 4, 3),
    "int4": Tile(32, 32, 4, 2),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights [N, K] as the kernels take them."""

    kind: str
    weight: Tensor
    scale: Tensor | None
    outputs: int
    inputs: int
    group: int = 0

    @classmethod
    def of(cls, *layers: nn.Module) -> "Matrix":
        """Of linear layers that take the same input: plain ones, which are joined, or a quantised one."""
        first = layers[0]
        if isinstance(first, Int8Linear):
            return cls("int8", first.weight, first.scale, first.out_features, first.in_features)
        if isinstance(first, Fp8Linear):
            return cls("fp8", first.weight, first.scale, first.out_features, first.in_features)
        if isinstance(first, Int4Linear):
            sizes = first.out_features, first.in_features, first.group
            return cls("int4", first.packed, first.scales, *sizes)
        weight = _join([layer for layer in layers if isinstance(layer, nn.Linear)])
        return cls("float", weight, None, *weight.shape)


def _join(layers: list[nn.Linear]) -> Tensor:
    """The layers' weights one below another; the layers go on with views of it, so none is kept twice."""
    if len(layers) == 1:
        return layers[0].weight.detach()
    whole = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(
        layers, torch.split(whole, [layer.weight.shape[0] for layer in layers]), strict=True
    ):
        layer.weight = nn.Parameter(part, requires_grad=False)
    return whole


@dataclass(frozen=True, slots=True)
class Product:
    """What is launched for a matrix: with the norm before it, between gate and up, added to what is there."""

    matrix: Matrix
    norm: RMSNorm | None = None
    gated: bool = False
    add: bool = False
    tile: Tile | None = None
    magic: bool = True

    def launch(self, x: Tensor, out: Tensor, rows: int) -> None:
        """out [16, N] of x [16, K] float32, of which the first `rows` are computed."""
        matrix, few = self.matrix, rows == 1
        tile = self.tile or (ONE if few else MANY)[matrix.kind]
        outputs = matrix.outputs // 2 if self.gated else matrix.outputs
        taken = tile.outputs // 2 if self.gated and few else tile.outputs
        gain, eps = (self.norm.weight, self.norm.eps) if self.norm else (x, 0.0)
        given: list[Any] = [x, gain, matrix.weight, x if matrix.scale is None else matrix.scale, out]
        sizes: list[Any] = [outputs, matrix.inputs]
        flags: dict[str, Any] = {"GATED": self.gated, "NORM": self.norm is not None, "ADD": self.add}
        flags |= {"BN": taken, "STAGES": tile.stages}
        grid = (-(-outputs // taken),)
        words, scaled = matrix.inputs // 8, matrix.kind in ("int8", "fp8")
        if not few:
            many = flags | {"GROUP": matrix.group, "SCALED": scaled, "BK": tile.inputs}
            product_many[grid](*given, rows, *sizes, words, eps, **many, **tile.options)
        elif matrix.kind == "int4":
            four = flags | {"AHEAD": tile.ahead, "GROUP": matrix.group, "BW": tile.inputs}
            int4_one[grid](*given, *sizes, words, eps, **four, **tile.options)
        else:
            magic, even = self.magic and matrix.kind == "int8", matrix.inputs % tile.inputs == 0
            one = flags | {
                "AHEAD": tile.ahead,
                "SCALED": scaled,
                "MAGIC": magic,
                "EVEN": even,
                "BK": tile.inputs,
            }
            product_one[grid](*given, *sizes, eps, **one, **tile.options)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a program of attention reads: positions at once, warps, loads ahead."""

    block: int
    warps: int
    stages: int


# By whether keys are shared among query heads, and what a cache keeps: measured likewise. Shared keys in
# eight bits have run on no GPU yet: torch reads those.
READINGS = {
    (False, torch.bfloat16): Reading(32, 4, 3),
    (False, torch.int8): Reading(64, 4, 2),
    (False, torch.float8_e4m3fn): Reading(32, 4, 3),
    (True, torch.bfloat16): Reading(64, 4, 2),
}


class Attention:
    """The launch of attention for a model's shape, and the memory that its programs meet in."""

    def __init__(
        self, heads: int, shared: int, head_dim: int, interleaved: bool, device: torch.device
    ) -> None:
        self.heads, self.shared, self.head_dim = heads, shared, head_dim
        self.interleaved = interleaved
        most = max(rows * self.splits(rows) for rows in range(1, ROWS + 1)) * heads
        self._parts = torch.zeros(most * head_dim, device=device)
        self._tops = torch.zeros(most * 2, device=device)
        self._counts = torch.zeros(ROWS * shared, dtype=torch.int32, device=device)

    def splits(self, rows: int) -> int:
        """Parts of each sequence, a power of two."""
        wanted = max(_PROGRAMS // (rows * self.shared), 1)
        return int(min(1 << (wanted - 1).bit_length(), 32))

    def launch(
        self,
        qkv: Tensor,
        table: Tensor,
        out: Tensor,
        layer: int,
        rows: int,
        kind: torch.dtype,
        reading: Reading | None = None,
    ) -> None:
        """qkv [16, (H + 2 KV) D] to out [16, H D], float32; `table` tells of the first `rows` caches."""
        group = self.heads // self.shared
        reading = reading or READINGS[group > 1, kind]
        splits, (cache, eight) = self.splits(rows), _CACHES[kind]
        factor = self.head_dim**-0.5 / math.log(2)
        given = (qkv, table, self._parts, self._tops, self._counts, out, layer, factor)
        flags: dict[str, Any] = {"S": splits, "KV": self.shared, "D": self.head_dim, "CACHE": cache}
        flags |= {
            "EIGHT": eight,
            "INTERLEAVED": self.interleaved,
            "BLOCK": reading.block,
            "STAGES": reading.stages,
        }
        flags |= {"num_warps": reading.warps, "num_stages": max(reading.stages, 1)}
        grid = (splits, self.shared, rows)
        if group == 1:
            attend_one[grid](*given, **flags)
        else:
            attend_groups[grid](*given, G=group, **flags)


class FusedStep:
    """The kernels of a step, and its buffers."""

    rows = ROWS

    def __init__(self, model: Transformer) -> None:
        assert fits(model)
        self._model, config = model, model.config
        self._layers = [_products(block) for block in model.layers if isinstance(block, Block)]
        self._head = Product(Matrix.of(model.lm_head), model.norm)
        device = model.device
        shape = config.n_heads, config.n_kv_heads, config.head_dim
        self._attention = Attention(*shape, config.rope_interleaved, device)
        queries = config.n_heads * config.head_dim

        def buffer(width: int) -> Tensor:
            return torch.zeros(ROWS, width, device=device)

        self._x, self._mixed, self._hidden = buffer(config.dim), buffer(queries), buffer(config.ffn_dim)
        self._qkv = buffer(queries + 2 * config.n_kv_heads * config.head_dim)
        self._logits = torch.zeros(ROWS, config.vocab_size, device=device, dtype=model.dtype)
        self._ids = torch.zeros(ROWS, dtype=torch.long, device=device)
        self._table = torch.zeros(ROWS, FIELDS, dtype=torch.long, device=device)

    def reads(self, kind: torch.dtype) -> bool:
        """Whether the kernels read caches that keep numbers of a `kind`."""
        return (self._attention.heads > self._attention.shared, kind) in READINGS

    def set(self, ids: Tensor, caches: Sequence[KVCache]) -> None:
        """Fills the buffers: the ids [B] that follow what B caches hold."""
        self._ids[: len(caches)].copy_(ids)
        longest = max(cache.length for cache in caches)
        angles = [part.data_ptr() for part in self._model.rope.rows(0, longest + 1, self._model.device)]
        entries = []
        for cache in caches:
            parts = [part.data_ptr() for part in cache.parts]
            entries.append([*[*parts, 0, 0][:4], cache.capacity, cache.length, *angles])
        # Not waited for: a copy of so little is taken from the host's memory at once.
        self._table[: len(caches)].copy_(torch.tensor(entries), non_blocking=True)

    def compute(self, rows: int, kind: torch.dtype) -> Tensor:
        """Logits [rows, V] of what stands in the buffers, whose caches keep numbers of a `kind`."""
        width, x = self._x.shape[1], self._x
        grid = (rows, -(-width // _EMBED_BLOCK))
        embed[grid](self._ids, self._model.embed_tokens.weight, x, width, BLOCK=_EMBED_BLOCK)
        for layer, (qkv, out, gate_up, down) in enumerate(self._layers):
            qkv.launch(x, self._qkv, rows)
            self._attention.launch(self._qkv, self._table, self._mixed, layer, rows, kind)
            out.launch(self._mixed, x, rows)
            gate_up.launch(x, self._hidden, rows)
            down.launch(self._hidden, x, rows)
        self._head.launch(x, self._logits, rows)
        return self._logits[:rows]


def _products(block: Block) -> tuple[Product, Product, Product, Product]:
    attention, mlp = block.self_attn, block.mlp
    qkv = (
        (attention.qkv_proj,)
        if attention.qkv_proj
        else (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    gate_up = (mlp.gate_up_proj,) if mlp.gate_up_proj else (mlp.gate_proj, mlp.up_proj)
    return (
        Product(Matrix.of(*qkv), block.input_layernorm),
        Product(Matrix.of(attention.o_proj), add=True),
        Product(Matrix.of(*gate_up), block.post_attention_layernorm, gated=True),
        Product(Matrix.of(mlp.down_proj), add=True),
    )


def fits(model: Transformer) -> bool:
    """Whether the kernels compute such a model: dense, in bfloat16, without biases, of whole sizes."""
    config = model.config
    group, rest = divmod(config.n_heads, config.n_kv_heads)
    head_dim = config.head_dim
    if config.llama4 is not None or model.dtype != torch.bfloat16 or rest or group > ROWS:
        return False
    if head_dim < ROWS or head_dim & (head_dim - 1) or config.ffn_dim % ROWS:
        return False
    layers = [module for module in model.modules() if isinstance(module, _LINEAR)]
    return all(
        layer.bias is None
        and layer.out_features % ROWS == 0
        and layer.in_features % 16 == 0
        and (layer.layout == "words" if isinstance(layer, Int4Linear) else True)
        for layer in layers
    )


_LINEAR = (nn.Linear, Int8Linear, Int4Linear, Fp8Linear)
