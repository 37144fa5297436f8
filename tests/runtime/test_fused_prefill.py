"""The kernels of a prompt's pass on a GPU compute what float32 does: run here by Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from codellama.runtime import fused_prefill
from codellama.runtime.config import ModelConfig
from codellama.runtime.generation import GPU_BLOCK, LEAST_GPU_BLOCK, pass_rows

# The interpreter's loops take their bounds from arrays of one number, which numpy no longer makes an int of.
_INTERPRETED = """
import sys, torch
from triton.runtime import interpreter
plain = interpreter._patch_lang_tensor
def patched(tensor, scope):
    plain(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
interpreter._patch_lang_tensor = patched
from codellama.runtime import fused_prefill
here = torch.device("cpu")
for dim, group in ((16, 1), (32, 2)):
    print(fused_prefill.attention_error(dim, group, here, torch.float16))
print(fused_prefill.gate_error(here, torch.float16))
for packed in (torch.int8, torch.float8_e4m3fn):
    print(fused_prefill.unpacking_error(packed, here, torch.float16))
"""


def test_kernels_agree_with_float32() -> None:
    """Many and few queries, behind a past and not, in parts, of shared heads; rotation, gate, packed keys."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = [float(line) for line in done.stdout.split()]
    assert len(errors) == 5
    assert max(errors) < 0.001


def test_shares_of_the_keys_merge_to_the_whole() -> None:
    """Softmaxes over parts of the keys, merged by their sums, are the softmax over all; an empty part too."""
    scores, values = torch.randn(3, 2, 30, dtype=torch.float64), torch.randn(30, 8, dtype=torch.float64)
    scores[0, 0, 10:] = -torch.inf  # the first query sees nothing of the second and third part
    parts, heights = [], []
    for place in (slice(0, 10), slice(10, 14), slice(14, 30)):
        sums = scores[..., place].exp().sum(-1)
        mixed = scores[..., place].exp() @ values[place] / sums.where(sums > 0, 1.0)[..., None]
        parts.append(mixed)
        heights.append(sums.log2())
    found = fused_prefill.merged(torch.stack(parts), torch.stack(heights))
    torch.testing.assert_close(found, scores.softmax(-1) @ values)


def test_few_queries_are_shared_out() -> None:
    """As many parts as keep the processors busy: one where the queries do, none of a few keys."""
    assert fused_prefill._parts(64, 781, 132) == 2  # 256 queries of 32 heads behind 100,000 keys
    assert fused_prefill._parts(256, 781, 132) == 1
    assert fused_prefill._parts(4, 3, 132) == 1
    assert fused_prefill._parts(4, 781, 132) == 16
    assert fused_prefill._parts(64, 40, 132) == 2
    assert fused_prefill._parts(64, 20, 132) == 1


def test_a_kernel_that_is_wrong_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """One that raises or is off is named in the log, once; one that agrees serves."""

    def broken(device: torch.device, dtype: torch.dtype) -> float:
        raise RuntimeError("no compiler")

    def trusted(name: str, error: object) -> bool:
        place = (torch.device("cpu"), torch.float16, name)
        return fused_prefill._trusted(error, *place)  # type: ignore[arg-type]

    assert not trusted("broken", broken)
    assert not trusted("broken", broken)
    assert caplog.text.count("no compiler") == 1
    assert not trusted("off", lambda device, dtype: 0.5)
    assert not trusted("nan", lambda device, dtype: float("nan"))
    assert trusted("good", lambda device, dtype: 0.001)


def test_a_cpu_takes_none_of_it() -> None:
    """Where there is no GPU, or something is trained, the plain operations compute."""
    x = torch.zeros(1, 4, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        assert not fused_prefill.serves(x, 64, 1)
        assert not fused_prefill.gates(x)


def test_passes_grow_shorter_behind_a_long_past() -> None:
    """On a GPU a pass has about the same work wherever it stands, so that others need not wait for long."""

    class Model:
        config = ModelConfig(32016, 4096, 32, 32, 32, 128, 11008)
        block = GPU_BLOCK
        device = torch.device("cuda")

    model = Model()
    rows = [pass_rows(model, start) for start in (0, 8192, 32768, 99_000)]  # type: ignore[arg-type]
    assert rows[0] == GPU_BLOCK
    assert rows[-1] == LEAST_GPU_BLOCK
    assert rows == sorted(rows, reverse=True)
    model.device = torch.device("cpu")
    assert pass_rows(model, 99_000) == GPU_BLOCK  # type: ignore[arg-type]
