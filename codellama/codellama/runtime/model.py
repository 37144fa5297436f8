"""The Llama transformer: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU.

One definition serves inference (with a `KVCache`) and training (without). Parameter names are those of
Hugging Face checkpoints, so reading one needs no table of names. What this model computes is checked
against transformers in tests/runtime/test_model.py.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from codellama.runtime.cache import KVCache
from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import UnsupportedArchitecture
from codellama.runtime.rope import RopeTables, apply_rope


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32 as the reference does."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention whose query heads share fewer key/value heads (arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        queries, shared = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.interleaved = config.rope_interleaved
        self.q_proj = nn.Linear(config.dim, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.dim, shared, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.dim, shared, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.dim, bias=config.attention_bias)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        batch, length, _ = x.shape
        heads = (batch, length, -1, self.head_dim)
        q = apply_rope(self.q_proj(x).view(heads), cos, sin, self.interleaved)  # [B, T, H, D]
        k = apply_rope(self.k_proj(x).view(heads), cos, sin, self.interleaved)  # [B, T, KV, D]
        q, k = q.transpose(1, 2), k.transpose(1, 2)  # [B, H, T, D], [B, KV, T, D]
        v = self.v_proj(x).view(heads).transpose(1, 2)  # [B, KV, T, D]
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # [1, KV, past + T, D]
        mixed = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and length > 1,
            enable_gqa=self.n_heads != self.n_kv_heads,
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class SwiGLU(nn.Module):
    """The gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ffn_dim, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.dim, config.ffn_dim, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention, then the feed-forward, each behind a norm and added to its input."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Transformer(nn.Module):
    """Token ids [B, T] to logits [B, T, V]; with a cache, B is 1 and T follows what it holds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.llama4:
            raise UnsupportedArchitecture("Llama 4 is not computed yet: choose another Llama.")
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.rope = RopeTables(config)

    def forward(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Logits in the model's dtype: of every position, or with `last_only` of the last, [B, 1, V]."""
        batch, length = ids.shape
        start = cache.length if cache is not None else 0
        assert cache is None or batch == 1, "a cache holds one sequence"
        cos, sin = self.rope.rows(start, start + length, ids.device)
        mask = _prefix_mask(start, length, ids.device) if start and length > 1 else None
        x = self.embed_tokens(ids)  # [B, T, C]
        for block in self.layers:
            x = block(x, cos, sin, mask, cache)
        if cache is not None:
            cache.length += length
        if last_only:
            x = x[:, -1:]
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


def _prefix_mask(start: int, length: int, device: torch.device) -> Tensor:
    """True where a query may look, [T, start + T]: all that is cached, and itself and what precedes."""
    columns = torch.arange(start + length, device=device)
    rows = torch.arange(start, start + length, device=device)
    return columns[None, :] <= rows[:, None]
