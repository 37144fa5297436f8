"""Rotary angles: every scaling against the formula in float64 and against transformers' frequencies."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from codellama.runtime.config import FrequencyDivisors, Llama3Scaling, ModelConfig
from codellama.runtime.rope import RopeTables, apply_rope, frequencies, rope_tables


def _config(**changes: Any) -> ModelConfig:
    shape: dict[str, Any] = {"vocab_size": 1, "dim": 64, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1}
    return ModelConfig(**shape | {"head_dim": 128, "ffn_dim": 1, "rope_theta": 5e5} | changes)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_frequencies_equal_the_references(factor: float) -> None:
    """Factor 8 (3.1, 3.3) and 32 (3.2): transformers' float32 frequencies to its last bits."""
    table = {"rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0}
    table |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    reference = LlamaConfig(hidden_size=128, num_attention_heads=1, rope_parameters=table)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](reference, torch.device("cpu"))
    ours = frequencies(_config(rope_scaling=Llama3Scaling(factor, 1.0, 4.0, 8192)))
    torch.testing.assert_close(ours, expected.double(), rtol=2e-6, atol=0)
    plain = frequencies(_config())
    assert ours[0] == plain[0]
    assert ours[-1] == plain[-1] / factor
    assert ((ours < plain) & (ours > plain / factor)).any(), "no wave lies on the ramp"


def test_equal_llama3_factors_leave_no_ramp() -> None:
    """Llama 4's files say low = high = 1: waves are divided or kept, nothing is divided by zero."""
    plain = frequencies(_config())
    ours = frequencies(_config(rope_scaling=Llama3Scaling(16.0, 1.0, 1.0, 8192)))
    assert bool(torch.isfinite(ours).all())
    long = 2 * torch.pi / plain > 8192
    torch.testing.assert_close(ours, torch.where(long, plain / 16, plain), rtol=0, atol=0)
    edge = float(8192 * plain[20] / (2 * math.pi))  # a wave that lies on the border itself is kept
    at_edge = frequencies(_config(rope_scaling=Llama3Scaling(16.0, edge, edge, 8192)))
    assert at_edge[20] == plain[20]
    assert at_edge[21] == plain[21] / 16


def test_explicit_divisors() -> None:
    """GGUF's `rope_freqs` divides each frequency by a number of its own."""
    divisors = tuple(1.0 + n for n in range(64))
    ours = frequencies(_config(rope_scaling=FrequencyDivisors(divisors)))
    torch.testing.assert_close(ours, frequencies(_config()) / torch.tensor(divisors), rtol=0, atol=0)


@pytest.mark.parametrize("position", [0, 1, 16_384, 99_999])
def test_tables_equal_float64(position: int) -> None:
    """Cosines and sines at any position are those of float64, rounded once."""
    config = _config(rope_theta=1e6)
    cos, sin = RopeTables(config).rows(position, position + 1, torch.device("cpu"))
    angles = position / 1e6 ** (torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    assert cos.dtype == sin.dtype == torch.float32
    assert (cos[0].double() - angles.cos()).abs().max() < 1e-7
    assert (sin[0].double() - angles.sin()).abs().max() < 1e-7


def test_tables_grow_without_changing() -> None:
    """Rows are the same whether a table was grown to them or made for them."""
    tables, config = RopeTables(_config()), _config()
    for start, end in ((0, 3), (1000, 1100), (5000, 5001), (2, 7)):
        for ours, expected in zip(
            tables.rows(start, end, torch.device("cpu")), rope_tables(config, start, end), strict=True
        ):
            assert torch.equal(ours, expected)


def test_both_layouts_turn_alike() -> None:
    """Pairs side by side or half a head apart: the same rotation of the same pairs."""
    config = _config(head_dim=8)
    cos, sin = rope_tables(config, 5, 8)
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))  # [B, T, H, D]
    apart = x.view(2, 3, 4, 4, 2).transpose(-1, -2).flatten(-2)
    ours = apply_rope(x, cos, sin, interleaved=True).view(2, 3, 4, 4, 2).transpose(-1, -2).flatten(-2)
    assert torch.equal(ours, apply_rope(apart, cos, sin))
    exact = torch.view_as_complex(x.view(2, 3, 4, 4, 2)) * torch.complex(cos, sin)[:, None]
    torch.testing.assert_close(
        apply_rope(x, cos, sin, interleaved=True), torch.view_as_real(exact).flatten(-2)
    )
