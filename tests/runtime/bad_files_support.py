"""What damages checkpoints, and what must hold where one is refused."""

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer

WQ = {"meta": "layers.1.attention.wq.weight", "gguf": "blk.1.attn_q.weight"}
HF = "model.layers.1.self_attn.q_proj.weight"
EXPERTS = "feed_forward.experts.gate_up_proj"


def refused(path: Path, *words: str) -> str:
    """Loads, which must fail within 2 s of work and less memory than the files take; returns the sentence."""
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.iterdir())
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(CheckpointError) as caught:
            load_transformer(open_checkpoint(path), torch.device("cpu"), torch.float32)
        took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.isprintable()
    assert len(message) < 600
    assert took < 2
    assert peak < max(size, 2**20)
    return message


def file_of(path: Path, tensor: str = HF) -> Path:
    """The file that holds a tensor (in Meta's folders the last rank's)."""
    if path.is_file():
        return path
    for index in path.glob("*.index.json"):
        return path / json.loads(index.read_text())["weight_map"][tensor]
    return max(path.glob("*.pth"))


def change(
    path: Path, kind: str, edit: Callable[[dict[str, torch.Tensor]], object], file: Path | None = None
) -> Path:
    """Rewrites a file, by default the one that holds HF, with its tensors edited."""
    file = file or file_of(path)
    if kind == "safetensors":
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file)
    else:
        tensors = torch.load(file, weights_only=True)
        edit(tensors)
        torch.save(tensors, file)
    return file
