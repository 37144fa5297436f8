"""Rotary position embeddings (arXiv 2104.09864), with the base as a parameter.

Code Llama's long context is nothing but a larger base, 1e6 (arXiv 2308.12950, section 2.4). Angles are
computed in float32 whatever the model's dtype: at position 100,000 bfloat16 angles are wrong. The layout
is Hugging Face's: a head's first half holds the real parts, its second half the imaginary ones.
"""

import torch
from torch import Tensor


def rope_tables(head_dim: int, theta: float, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions 0 up to `positions`, float32, each [positions, head_dim]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / theta**exponents  # [head_dim / 2]
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)  # [positions, head_dim]
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [B, T, H, D] by tables [T, D]; computed in float32, returned in x's dtype."""
    assert x.shape[1] == cos.shape[0]
    assert x.shape[-1] == cos.shape[-1]
    half = x.shape[-1] // 2
    wide = x.float()
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)  # [B, T, H, D]
    return (wide * cos[:, None] + turned * sin[:, None]).to(x.dtype)
