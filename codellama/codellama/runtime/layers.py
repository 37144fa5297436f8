"""The parts of a Llama's layer: RMSNorm, grouped-query attention, SwiGLU.

Parameter names are those of Hugging Face checkpoints, so reading one needs no table of names. How the
parts are put together stands in `model`, what Llama 4 does otherwise in `llama4`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from codellama.runtime import fused_prefill
from codellama.runtime.cache import KVCache
from codellama.runtime.config import ModelConfig
from codellama.runtime.rope import apply_rope


@dataclass(frozen=True, slots=True)
class Pass:
    """What all layers of one pass over T positions share.

    `start` positions are cached before these. `mask` [T, start + T] is added to the scores; it is None
    where none is needed: for one position, which sees everything, where `start` is 0, and on a GPU, whose
    kernels go by the shapes. Where the T positions belong to a sequence each, `apart` has a pass for each.
    """

    start: int
    cos: Tensor  # [T, D / 2]
    sin: Tensor  # [T, D / 2]
    mask: Tensor | None
    cache: KVCache | None
    apart: tuple["Pass", ...] = ()

    def positions(self) -> Tensor:
        """Where in its sequence each position stands, float32, [T]."""
        if self.apart:
            starts = [float(one.start) for one in self.apart]
            return torch.tensor(starts, device=self.cos.device)
        end = self.start + self.cos.shape[0]
        return torch.arange(self.start, end, device=self.cos.device, dtype=torch.float32)


def causal_mask(
    start: int, length: int, device: torch.device, dtype: torch.dtype, sliced: bool
) -> Tensor | None:
    """The mask of a Pass: 0 where a position may look, else -inf.

    Made once for all layers, in the dtype of the scores, which would otherwise be converted in each. A GPU's
    kernels need none in memory, unless parts are `sliced` from it.
    """
    if start == 0 or length == 1 or (device.type == "cuda" and not sliced):
        return None
    mask = torch.zeros(length, start + length, device=device, dtype=dtype)
    mask[:, start:] = torch.full_like(mask[:, start:], -torch.inf).triu_(1)
    return mask


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32 as the reference does."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda" and not torch.is_grad_enabled():  # the same in one kernel
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return self.weight * rms_norm(x, self.eps)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x [..., C] divided by the root of its mean square, in x's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention whose query heads share fewer key/value heads (arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        self.interleaved = config.rope_interleaved
        queries, shared = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.dim, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.dim, shared, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.dim, shared, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.dim, bias=config.attention_bias)
        self.qkv_proj: nn.Module | None = None  # the three at once, where `quantise` has joined them

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        q, k, v = self.project(x)
        fused = fused_prefill.serves(x, self.head_dim, self.n_heads // self.n_kv_heads)
        turn = fused_prefill.rotate if fused else apply_rope
        q = turn(q, now.cos, now.sin, self.interleaved)
        k = turn(k, now.cos, now.sin, self.interleaved)
        return self.mix(q, k, v, now)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, D], keys and values [B, T, KV, D] of x [B, T, C]."""
        assert x.dim() == 3
        heads = (x.shape[0], x.shape[1], -1, self.head_dim)
        if self.qkv_proj is not None:
            sizes = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
            q, k, v = self.qkv_proj(x).view(heads).split(sizes, dim=2)
            return q, k, v
        return self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """What each position takes from those it sees, [B, T, C]."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, H or KV, T, D]
        if now.apart:
            one = [slice(n, n + 1) for n in range(len(now.apart))]
            mixed = torch.cat(
                [
                    self.see(q[:, :, n], k[:, :, n], v[:, :, n], own)
                    for n, own in zip(one, now.apart, strict=True)
                ],
                dim=2,
            )
        else:
            mixed = self.see(q, k, v, now)  # [B, H, T, D]
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def see(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """Attention to what is cached and to these positions themselves."""
        if now.cache is not None:
            k, v = now.cache.extend(self.layer, k, v)  # [1, KV, start + T, D]
        return self.attend(q, k, v, now)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """Attention to every earlier position and to oneself."""
        return attend(q, k, v, now.mask)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention of q [B, H, T, D] to k, v [B, KV, S, D].

    Without a mask it is causal, the queries being the last T of S positions.
    """
    if mask is None and q.shape[2] == 1 and q.device.type == "cpu":
        return _attend_one(q, k, v)
    group = q.shape[1] // k.shape[1]
    if mask is None and fused_prefill.serves(q.transpose(1, 2), q.shape[3], group):
        return fused_prefill.attend(q, k, v)
    if mask is None and 1 < q.shape[2] < k.shape[2]:
        from torch.nn.attention.bias import causal_lower_right  # it brings torch's compiler along

        mask = causal_lower_right(q.shape[2], k.shape[2])
    return functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None and q.shape[2] > 1,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _attend_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same for one position: two small products, since a CPU's fused kernel takes longer to start."""
    groups = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # [B, KV, H / KV, D]
    scores = (groups * q.shape[3] ** -0.5) @ k.transpose(-1, -2)  # [B, KV, H / KV, S]
    mixed: Tensor = scores.float().softmax(-1).to(v.dtype) @ v  # [B, KV, H / KV, D]
    return mixed.reshape(q.shape)


class SwiGLU(nn.Module):
    """The gated feed-forward layer (arXiv 2002.05202), `hidden` wide inside."""

    def __init__(self, dim: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)
        self.gate_up_proj: nn.Module | None = None  # the two at once, where `quantise` has joined them

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_up_proj is not None:
            gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        gated = fused_prefill.gated(gate, up) if fused_prefill.gates(x) else functional.silu(gate) * up
        out: Tensor = self.down_proj(gated)
        return out
