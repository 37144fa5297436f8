"""What Llama 4's text decoder does otherwise: experts, layers without positions, attention in chunks.

Checked against transformers' modeling_llama4 and Meta's reference (llama-models, models/llama4). They
agree on the weights' use and differ where a text outgrows a chunk: Meta's code drops the chunk when it
decodes one token, and builds its chunk mask without the cached positions. transformers keeps to chunks
always, as the model was trained; so do we. Meta fixes low_freq_factor = 1 and an original context of 8192
in RoPE scaling; transformers reads both from the checkpoint; so do we.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from codellama.runtime.config import Llama4, ModelConfig
from codellama.runtime.layers import Attention, Pass, RMSNorm, SwiGLU, attend, rms_norm
from codellama.runtime.rope import apply_rope


class ChunkedAttention(Attention):
    """Attention with rotary positions within a chunk, or without positions to everything (NoPE)."""

    def __init__(self, config: ModelConfig, llama4: Llama4, layer: int) -> None:
        super().__init__(config, layer)
        self.nope = layer in llama4.nope_layers
        self.chunk = None if self.nope else llama4.chunk
        self.qk_norm, self.norm_eps = llama4.qk_norm, config.norm_eps
        self.floor_scale, self.temperature_scale = llama4.floor_scale, llama4.temperature_scale

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        q, k, v = self.project(x)
        if self.nope:
            q = (q * self.temperature(now.positions())).to(q.dtype)
        else:
            q = apply_rope(q, now.cos, now.sin, self.interleaved)
            k = apply_rope(k, now.cos, now.sin, self.interleaved)
            if self.qk_norm:  # after the rotation, and without weights
                q, k = rms_norm(q, self.norm_eps), rms_norm(k, self.norm_eps)
        return self.mix(q, k, v, now)

    def temperature(self, positions: Tensor) -> Tensor:
        """How much queries grow with their position, float32, [T, 1, 1] (arXiv 2501.19399)."""
        grown = torch.log1p(torch.floor((positions + 1) / self.floor_scale)) * self.temperature_scale + 1
        return grown[:, None, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, now: Pass) -> Tensor:
        """Each query sees the positions of its own chunk up to itself."""
        if self.chunk is None:
            return attend(q, k, v, now.mask)
        mixed, end = [], now.start + q.shape[2]
        for first in range(now.start // self.chunk * self.chunk, end, self.chunk):
            keys = slice(first, min(first + self.chunk, end))
            rows = slice(max(first, now.start) - now.start, keys.stop - now.start)
            mask = now.mask[rows, keys] if now.mask is not None else None
            mixed.append(attend(q[:, :, rows], k[:, :, keys], v[:, :, keys], mask))
        return torch.cat(mixed, dim=2)  # [B, H, T, D]


class Experts(nn.Module):
    """The weights of all experts, stacked as in the checkpoint: inputs are rows, not columns."""

    def __init__(self, experts: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, dim, 2 * hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, dim))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """One expert's SwiGLU of x [N, C]."""
        gate, up = (x @ self.gate_up_proj[expert]).chunk(2, dim=-1)  # each [N, F]
        return (functional.silu(gate) * up) @ self.down_proj[expert]


class MixtureOfExperts(nn.Module):
    """A shared expert for every token, and the few that a router chooses for it.

    The router's score weighs an expert's input, not its output. Unlike transformers, which sends zeros
    through the experts that were not chosen, these are left out: they would add exact zeros.
    """

    def __init__(self, dim: int, llama4: Llama4) -> None:
        super().__init__()
        self.per_token = llama4.experts_per_token
        self.router = nn.Linear(dim, llama4.experts, bias=False)
        self.experts = Experts(llama4.experts, dim, llama4.expert_dim)
        self.shared_expert = SwiGLU(dim, llama4.expert_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)  # [N, C]
        best, chosen = self.router(tokens).topk(self.per_token, dim=-1)  # each [N, K]
        scores = best.float().sigmoid().to(x.dtype)
        out: Tensor = self.shared_expert(tokens)
        for expert in chosen.unique().tolist():
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            routed = self.experts(tokens[rows] * scores[rows, place, None], expert)
            out = out.index_add(0, rows, routed)
        return out.view(x.shape)


class Llama4Block(nn.Module):
    """One layer; its feed-forward is a mixture of experts or, in some models' other layers, dense."""

    def __init__(self, config: ModelConfig, llama4: Llama4, layer: int) -> None:
        super().__init__()
        sparse = layer in llama4.moe_layers
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = ChunkedAttention(config, llama4, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = (
            MixtureOfExperts(config.dim, llama4) if sparse else SwiGLU(config.dim, config.ffn_dim)
        )

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), now)
        out: Tensor = x + self.feed_forward(self.post_attention_layernorm(x))
        return out
