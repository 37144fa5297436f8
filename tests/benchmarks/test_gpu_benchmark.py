"""The GPU benchmark is rehearsed whole, so that no minute of a GPU is lost to a slip."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks.gpu_bench import Record
from benchmarks.gpu_sections import SECTIONS
from benchmarks.report import Figure

from codellama.runtime.layers import attend, causal_mask

PROJECT = Path(__file__).resolve().parents[2]
# What the benchmark must do without: it is run from its sources beside a torch that is there.
LACKING = ("platformdirs", "gguf", "pygls", "lsprotocol", "tree_sitter")
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({LACKING}))
sys.argv = ["benchmarks.gpu", "--tiny", "--profile"]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def test_every_section_runs_on_a_cpu(tmp_path: Path) -> None:
    """`--tiny` goes through each section and the profile: all figures are there, and nothing is written.

    It needs no package that a GPU machine lacks.
    """
    before = sorted((PROJECT / "benchmarks" / "results").iterdir())
    environment = {name: value for name, value in os.environ.items() if name != "CODELLAMA_NATIVE"}
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=PROJECT,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sections = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("==")}
    assert sections == {f"{name}:" for name in SECTIONS}
    for word in ("FAILED", "SKIPPED", "Traceback", " nan", "\ncorrectness: "):
        assert word not in done.stdout, done.stdout
    assert "does not run" not in done.stderr
    assert "of 32 32" in done.stdout, "greedy ids"
    assert sorted((PROJECT / "benchmarks" / "results").iterdir()) == before


def test_figures_outlive_what_fails(tmp_path: Path) -> None:
    """A figure is on disk before the next is measured; failures and what found no time are named."""

    def good() -> Iterator[Figure]:
        yield Figure("good", 1.0)

    def bad() -> Iterator[Figure]:
        yield Figure("half", 2.0)
        raise ValueError("out of luck")

    record = Record("card-section", tmp_path, math.inf, {"gpu": {}})
    record.take("first", good)
    file = tmp_path / "card-section.json"
    assert [row["name"] for row in json.loads(file.read_text())["figures"]] == ["good"]
    record.take("second", bad)
    late = Record("card-late", tmp_path, -math.inf, {})
    late.take("third", good)
    found = json.loads(file.read_text())
    assert [row["name"] for row in found["figures"]] == ["good", "half"]
    assert "out of luck" in found["missing"]["second"]
    assert late.missing == {"third": "no time was left"}


def test_a_pass_without_a_mask_is_causal_behind_its_past() -> None:
    """What a GPU computes where the fused kernels don't serve is what a CPU's mask says."""
    q, k, v = (torch.randn(1, 4, size, 16) for size in (5, 12, 12))
    mask = causal_mask(7, 5, torch.device("cpu"), torch.float32, sliced=False)
    assert mask is not None
    torch.testing.assert_close(attend(q, k, v, mask), attend(q, k, v, None))
