"""One more position for up to 16 sequences on a GPU: five kernels a layer over a transformer's own weights.

It computes what `Transformer.together` does, with activations in float32 between the kernels, for dense
models in bfloat16 whose weights may be in fewer bits. Everything that changes between steps stands in
buffers, so a captured step serves every cache and length; `graphs` captures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton.language as tl
from torch import Tensor, nn

from codellama.runtime.cache import KVCache
from codellama.runtime.fused_products import ROWS, Activations, Matrix, Product, Tile
from codellama.runtime.fused_tuning import LEAST_BYTES, choose
from codellama.runtime.layers import RMSNorm
from codellama.runtime.linear import Fp8Linear, Int4Linear, Int8Linear
from codellama.runtime.model import Block, Transformer
from codellama.runtime.native_build import cache_folder
from codellama.runtime.triton_attention import FIELDS, attend_groups, attend_one
from codellama.runtime.triton_products import embed

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
class Reading:
    """How a program of attention reads: positions at once, warps, loads ahead."""

    block: int
    warps: int
    stages: int


# By whether keys are shared among query heads, and what a cache keeps: measured likewise.
READINGS = {
    (False, torch.bfloat16): Reading(32, 4, 3),
    (False, torch.int8): Reading(64, 4, 2),
    (False, torch.float8_e4m3fn): Reading(32, 4, 3),
    **{(True, kind): Reading(64, 4, 2) for kind in _CACHES},
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
        out: Activations,
        layer: int,
        rows: int,
        kind: torch.dtype,
        reading: Reading | None = None,
        pdl: bool = False,
    ) -> None:
        """qkv [16, (H + 2 KV) D] float32 to out [16, H D]; `table` tells of the first `rows` caches."""
        group = self.heads // self.shared
        reading = reading or READINGS[group > 1, kind]
        splits, (cache, eight) = self.splits(rows), _CACHES[kind]
        factor = self.head_dim**-0.5 / math.log(2)
        given = (qkv, table, self._parts, self._tops, self._counts, out.values, out.codes, out.numbers)
        flags: dict[str, Any] = {"S": splits, "KV": self.shared, "D": self.head_dim, "CACHE": cache}
        flags |= {
            "EIGHT": eight,
            "INTERLEAVED": self.interleaved,
            "BLOCK": reading.block,
            "STAGES": reading.stages,
            "PACK": out.packed or rows > 1,
        }
        flags |= {"PDL": pdl, "num_warps": reading.warps, "num_stages": max(reading.stages, 1)}
        if pdl:
            flags["launch_pdl"] = True
        grid = (splits, self.shared, rows)
        if group == 1:
            attend_one[grid](*given, layer, factor, **flags)
        else:
            attend_groups[grid](*given, layer, factor, G=group, **flags)


class FusedStep:
    """The kernels of a step, and its buffers."""

    rows = ROWS

    def __init__(self, model: Transformer, pdl: bool = False) -> None:
        """With `pdl` a kernel begins to fetch weights while the one before it ends."""
        assert fits(model)
        self._pdl = pdl
        self._model, config = model, model.config
        blocks = [block for block in model.layers if isinstance(block, Block)]
        after = [*(block.input_layernorm for block in blocks[1:]), model.norm]
        self.layers = [_products(block, then, pdl) for block, then in zip(blocks, after, strict=True)]
        self.head = Product(Matrix.of(model.lm_head), model.norm, pdl=pdl)
        self._first = blocks[0].input_layernorm.weight
        device = model.device
        shape = config.n_heads, config.n_kv_heads, config.head_dim
        self._attention = Attention(*shape, config.rope_interleaved, device)
        self.packed = all(product.matrix.integers for layer in self.layers for product in layer)
        queries = config.n_heads * config.head_dim
        self._x, self._mixed, self._hidden = (
            Activations(width, device, self.packed) for width in (config.dim, queries, config.ffn_dim)
        )
        self._qkv = torch.zeros(ROWS, queries + 2 * config.n_kv_heads * config.head_dim, device=device)
        self._logits = torch.zeros(ROWS, config.vocab_size, device=device, dtype=model.dtype)
        self._ids = torch.zeros(ROWS, dtype=torch.long, device=device)
        self._table = torch.zeros(ROWS, FIELDS, dtype=torch.long, device=device)
        self._tuned: set[bool] = set()

    def tune(self, rows: int) -> None:
        """Takes the tiles that are fastest on this GPU for steps of `rows` sequences, measured once."""
        few = rows == 1
        products = [product for layer in self.layers for product in layer]
        if few in self._tuned or sum(p.matrix.nbytes for p in products) < LEAST_BYTES:
            return
        self._tuned.add(few)
        # What takes longest comes first, while there is time to measure.
        order = (2, 0, 3, 1)
        places = [*([layer[n] for layer in self.layers] for n in order), [self.head]]
        *tiles, last = choose(places, few, self.packed, cache_folder())
        self.head = _with(self.head, few, last)
        chosen = dict(zip(order, tiles, strict=True))
        for n, layer in enumerate(self.layers):
            qkv, out, gate_up, down = (
                _with(product, few, chosen[place]) for place, product in enumerate(layer)
            )
            self.layers[n] = qkv, out, gate_up, down

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
        x, table = self._x, self._model.embed_tokens.weight
        width = x.values.shape[1]
        grid = (1 << (rows - 1).bit_length(), -(-width // _EMBED_BLOCK))
        given = (self._ids, table, x.values, self._first, x.codes, x.numbers)
        embed[grid](*given, width, PACK=x.packed or rows > 1, BLOCK=_EMBED_BLOCK)
        for layer, (qkv, out, gate_up, down) in enumerate(self.layers):
            qkv.launch(x, self._qkv, rows)
            self._attention.launch(self._qkv, self._table, self._mixed, layer, rows, kind, pdl=self._pdl)
            out.launch(self._mixed, x, rows)
            gate_up.launch(x, self._hidden, rows)
            down.launch(self._hidden, x, rows)
        self.head.launch(x, self._logits, rows)
        return self._logits[:rows]


def _with(product: Product, few: bool, tile: Tile | None) -> Product:
    return replace(product, few=tile) if few else replace(product, many=tile)


def _products(block: Block, then: RMSNorm, pdl: bool) -> tuple[Product, Product, Product, Product]:
    """A layer's; `then` is the norm behind it."""
    attention, mlp = block.self_attn, block.mlp
    qkv = (
        (attention.qkv_proj,)
        if attention.qkv_proj
        else (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    gate_up = (mlp.gate_up_proj,) if mlp.gate_up_proj else (mlp.gate_proj, mlp.up_proj)
    between = block.post_attention_layernorm
    return (
        Product(Matrix.of(*qkv), block.input_layernorm, pdl=pdl),
        Product(Matrix.of(attention.o_proj), add=True, then=between, pdl=pdl),
        Product(Matrix.of(*gate_up), between, gated=True, pdl=pdl),
        Product(Matrix.of(mlp.down_proj), add=True, then=then, pdl=pdl),
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
        and (layer.words if isinstance(layer, Int4Linear) else True)
        for layer in layers
    )


_LINEAR = (nn.Linear, Int8Linear, Int4Linear, Fp8Linear)
