"""Loading takes the memory of the weights and little more, measured from outside on 200 MB of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from formats_support import make_llama, write_gguf, write_hugging_face, write_meta
from transformers import LlamaForCausalLM

# For each load prints the final bytes and what the process's peak grew by; the kernel's peak counts mapped
# pages too. Each runs in a fork of its own, behind a load of a small model that pages in the code.
MEASURE = """
import json, os, sys
from pathlib import Path
import torch
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def load(path, dtype, progress=None):
    return load_transformer(open_checkpoint(Path(path)), torch.device("cpu"), getattr(torch, dtype), progress)

torch.set_num_threads(1)
for small, large, dtype in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    load(small, dtype)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    steps = []
    model = load(large, dtype, lambda *at: steps.append(at))
    final = sum(p.numel() * p.itemsize for p in model.parameters())
    print(json.dumps({"grown": memory("VmHWM") - before, "final": final, "steps": steps}), flush=True)
    os._exit(0)
"""


def written(folder: Path, model: LlamaForCausalLM) -> dict[str, Path]:
    """The model in three formats."""
    return {
        "safetensors": write_hugging_face(folder / "safetensors", model),
        "meta": write_meta(folder / "meta", model, 2),
        "gguf": write_gguf(folder / "q8_0.gguf", model.float(), "Q8_0"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux's /proc")
def test_peak_memory(tmp_path: Path) -> None:
    """At most 1.2 times the final size, whatever the format, converted or not; progress ends at all of it."""
    large = make_llama(
        vocab_size=8000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=3,
        initializer_range=0.02,
    )
    small = make_llama(hidden_size=64, intermediate_size=256)
    ours = written(tmp_path / "large", large.to(torch.bfloat16))
    warm = written(tmp_path / "small", small.to(torch.bfloat16))
    loads = [(kind, "float32") for kind in ours] + [("safetensors", "bfloat16")]
    paths = [(str(warm[kind]), str(ours[kind]), dtype) for kind, dtype in loads]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(paths)], capture_output=True, text=True, check=True
    )
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measured) == len(loads)
    for (kind, dtype), seen in zip(loads, measured, strict=True):
        assert seen["final"] > (200e6 if dtype == "float32" else 100e6)
        assert seen["grown"] <= 1.2 * seen["final"], kind
        assert seen["steps"][-1] == [seen["final"], seen["final"]]
        assert seen["steps"] == sorted(seen["steps"])
