"""Rotary position embeddings (arXiv 2104.09864): base, scaling, tables, rotation.

Code Llama's long context is nothing but a larger base, 1e6 (arXiv 2308.12950, section 2.4); Llama 3.1
and later stretch the long waves besides. At position 100,000 a float32 product of position and frequency
is off by thousandths of a radian, so angles are computed in float64, and their cosines and sines are
rounded to float32, whatever the model's dtype.
"""

import math

import torch
from torch import Tensor

from codellama.runtime.config import FrequencyDivisors, LinearScaling, Llama3Scaling, ModelConfig


def frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each pair of a head, float64, [head_dim / 2], on the CPU."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device="cpu") / config.head_dim
    plain = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor
    if isinstance(scaling, FrequencyDivisors):
        return plain / torch.tensor(scaling.divisors, dtype=torch.float64, device="cpu")
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling)
    return plain


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Meta's `apply_scaling`, with the factors of the checkpoint (Meta's own code fixes some of them).

    `ratio` counts how often a wave fits the original context: at most the low factor, it is divided; at
    least the high one, it is kept. Equal factors leave no ramp to divide by.
    """
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ratio = scaling.original_context * plain / (2 * math.pi)
    ramp = (ratio - low) / (high - low) if high > low else (ratio >= high).double()
    kept = ramp.clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def rope_tables(config: ModelConfig, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions `start` up to `end`, float32, each [end - start, head_dim / 2]."""
    positions = torch.arange(start, end, dtype=torch.float64, device="cpu")
    angles = torch.outer(positions, frequencies(config))
    return angles.cos().float(), angles.sin().float()


class RopeTables:
    """The cosines and sines of a model, computed as positions are first asked for; they stay float32."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._cos = self._sin = torch.empty(0, config.head_dim // 2, device="cpu")

    def rows(self, start: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions `start` up to `end` on `device`, each [end - start, D / 2]."""
        if end > len(self._cos) or self._cos.device != device:
            # Doubling keeps the cost of a growing text linear; an inference tensor could not be trained with.
            positions = max(end, 2 * len(self._cos), 1024)
            with torch.inference_mode(False):
                cos, sin = rope_tables(self._config, 0, positions)
                self._cos, self._sin = cos.to(device), sin.to(device)
        return self._cos[start:end], self._sin[start:end]


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotates x [B, T, H, D] by tables [T, D / 2]; computed in float32, returned in x's dtype.

    A pair stands side by side where `interleaved` (Meta, Llama 4), else D / 2 apart (Hugging Face).
    """
    assert x.shape[1] == cos.shape[0]
    assert x.shape[-1] == 2 * cos.shape[-1]
    wide = x.float()
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, D / 2]
    if interleaved:
        real, imaginary = wide[..., 0::2], wide[..., 1::2]
    else:
        real, imaginary = wide.chunk(2, dim=-1)
    turned = (real * cos - imaginary * sin, imaginary * cos + real * sin)  # each [B, T, H, D / 2]
    out = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return out.to(x.dtype)  # [B, T, H, D]
