"""The GPU benchmark is rehearsed whole, so that no minute of a GPU is lost to a slip."""

import subprocess
import sys
from pathlib import Path

import torch
from torch.nn.attention.bias import causal_lower_right

from codellama.runtime.layers import attend, causal_mask

PROJECT = Path(__file__).resolve().parents[2]


def test_every_section_runs_on_a_cpu() -> None:
    """`--tiny` goes through each section and prints finite figures; nothing is written."""
    before = sorted((PROJECT / "benchmarks" / "results").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sections = {line.split()[0] for line in done.stdout.splitlines()}
    assert sections == {"ceilings", "correctness", "decode", "prefill", "long", "ttft", "memory", "peers"}
    assert " nan" not in done.stdout
    assert "of 32 32" in done.stdout, "greedy ids"
    assert sorted((PROJECT / "benchmarks" / "results").iterdir()) == before


def test_a_gpus_mask_means_the_same() -> None:
    """The named mask that a GPU's fused attention takes is the one that a CPU adds."""
    q, k, v = (torch.randn(1, 4, size, 16) for size in (5, 12, 12))
    mask = causal_mask(7, 5, torch.device("cpu"), torch.float32, sliced=False)
    assert mask is not None
    torch.testing.assert_close(attend(q, k, v, mask), attend(q, k, v, causal_lower_right(5, 12)))
