"""A GPU's kernels for a step, run by Triton's interpreter, compute what the plain step does."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from codellama.runtime.int4 import unpack_words
from codellama.runtime.linear import Int4Linear

# How many heads of two have keys, what weights are kept in, and the cache.
KINDS = ["2 none none", "2 int8 int8", "1 fp8 none", "1 none int8"]


def _interpreted(*words: str) -> float:
    """What `fused_step_support` prints: how far something is off."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("fused_step_support.py"), *words],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_plain_step(kind: str) -> None:
    """Logits and what is cached, first of an empty cache, then of two sequences at once."""
    # torch's fp8 layers round activations as well.
    assert _interpreted("step", *kind.split()) < (0.12 if "fp8" in kind else 0.035)


def test_products_of_four_bits() -> None:
    """With the norm before them, gated or added to what is there; other rows are left alone."""
    assert _interpreted("products") < 0.015


def test_words_of_four_bits_lose_what_four_bits_lose() -> None:
    """Dealt out among words, weights are as near as in any other order, and the layer computes with them."""
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    layer = Int4Linear(weight, torch.ones(64), group=64, layout="words")
    unpacked = unpack_words(layer.packed, layer.scales, 64).float()
    assert float((unpacked - weight).norm() / weight.norm()) < 0.1
    x = torch.randn(3, 512)
    wanted = x @ unpacked.T + 1
    assert float((layer(x) - wanted).norm() / wanted.norm()) < 0.01
