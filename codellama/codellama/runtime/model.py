"""The transformer: token ids to logits, for every text model of the Llama family.

One definition serves inference (with a `KVCache`) and training (without). What this model computes is
checked against transformers in tests/runtime/test_families.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codellama.runtime.cache import CacheKind, KVCache, new_cache
from codellama.runtime.config import ModelConfig
from codellama.runtime.footprint import cache_bytes
from codellama.runtime.generation import BLOCK, GPU_BLOCK
from codellama.runtime.layers import Attention, Pass, RMSNorm, SwiGLU, causal_mask
from codellama.runtime.llama4 import Llama4Block
from codellama.runtime.rope import RopeTables


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each behind a norm and added to its input."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config.dim, config.ffn_dim, config.mlp_bias)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), now)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Transformer(nn.Module):
    """Token ids [B, T] to logits [B, T, V]; with a cache, B is 1 and T follows what it holds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Left unset: a checkpoint or the training fills it, and torch's random numbers for a shape without
        # memory would import its compiler, a second of a load.
        empty = torch.empty(config.vocab_size, config.dim)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim, _weight=empty)
        self.layers = nn.ModuleList(_block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.rope = RopeTables(config)
        self.cache_kind: CacheKind | None = (
            None  # what new caches keep keys and values in, None for the dtype
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.embed_tokens.weight.dtype

    @property
    def block(self) -> int:
        """The most positions of a prefill's pass."""
        return GPU_BLOCK if self.device.type == "cuda" else BLOCK

    @property
    def resume_every(self) -> int:
        """On a CPU torch's kernels sum in an order that depends on a block's rows: prompts run in fixed ones.

        On a GPU any position will do: its results are the same to rounding only (see `generation`).
        """
        return 1 if self.device.type == "cuda" else self.block

    @property
    def batches(self) -> bool:
        """A GPU waits for the weights of a step, however many rows it has; a CPU computes each."""
        return self.device.type != "cpu"

    @property
    def position_bytes(self) -> int:
        """What a position takes in a cache."""
        return cache_bytes(self.config, 1, 1 if self.cache_kind else self.dtype.itemsize)

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache with room for `capacity` positions."""
        return new_cache(self.config, capacity, self.device, self.dtype, self.cache_kind)

    def forward(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Logits in the model's dtype: of every position, or with `last_only` of the last, [B, 1, V]."""
        batch, length = ids.shape
        start = cache.length if cache is not None else 0
        assert cache is None or batch == 1, "a cache holds one sequence"
        cos, sin = self.rope.rows(start, start + length, ids.device)
        mask = causal_mask(start, length, ids.device, self.dtype, self.config.llama4 is not None)
        logits = self.run(ids, Pass(start, cos, sin, mask, cache), last_only)
        if cache is not None:
            cache.length += length
        return logits

    def run(self, ids: Tensor, now: Pass, last_only: bool = False) -> Tensor:
        """Logits of ids [B, T] in a pass that is described."""
        x = self.embed_tokens(ids)  # [B, T, C]
        for block in self.layers:
            x = block(x, now)
        logits: Tensor = self.lm_head(self.norm(x[:, -1:] if last_only else x))
        return logits

    def together(self, ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Logits [B, V] after one more id for each of B caches, ids [B].

        The ids run as the positions of one sequence; only attention keeps them apart.
        """
        rows = [self.rope.rows(cache.length, cache.length + 1, ids.device) for cache in caches]
        apart = tuple(
            Pass(cache.length, cos, sin, None, cache) for cache, (cos, sin) in zip(caches, rows, strict=True)
        )
        cos, sin = (torch.cat(part) for part in zip(*rows, strict=True))  # [B, D / 2]
        logits = self.run(ids[None], Pass(0, cos, sin, None, None, apart))[0]
        for cache in caches:
            cache.length += 1
        return logits


def _block(config: ModelConfig, layer: int) -> nn.Module:
    return Llama4Block(config, config.llama4, layer) if config.llama4 else Block(config, layer)
