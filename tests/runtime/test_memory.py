"""A request's memory is known before it starts: too long is an error that names the limit."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_support import write_llama

from codellama.runtime import Engine, load_engine, memory
from codellama.runtime.errors import ContextTooLong
from codellama.runtime.footprint import cache_bytes
from codellama.runtime.generation import BLOCK

# A fresh process, since memory that one test gave back would hide what the next takes.
MEASURE = """
import sys, torch
from codellama.runtime.config import ModelConfig
from codellama.runtime.generation import BLOCK, prefill
from codellama.runtime.memory import generation_needs, logits_needs
from codellama.runtime.model import Transformer

torch.set_num_threads(1)
shape = dict(vocab_size=4000, dim=256, n_layers=4, n_heads=8, n_kv_heads=8, head_dim=32, ffn_dim=688)
model = Transformer(ModelConfig(**shape)).requires_grad_(False)
length = int(sys.argv[2])

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

with torch.inference_mode():
    model(torch.zeros(1, 8, dtype=torch.long))
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    if sys.argv[1] == "logits":
        needs = logits_needs(model.config, model.dtype)
        model(torch.zeros(1, length, dtype=torch.long)).float()
    else:
        needs = generation_needs(model.config, model.dtype, BLOCK)
        prefill(model, model.new_cache(length), [0] * length)
print((needs.fixed + needs.per_token * length) / (peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("what", "length"), [("logits", 3000), ("generation", 6000), ("generation", 128)])
def test_the_sum_covers_what_is_taken(what: str, length: int) -> None:
    """The estimate, with the tenth that is spared, is no less than the measured peak, and less than two and a
    half times as much: for a long prompt, where the cache tells, and a short one, where a pass does."""
    command = [sys.executable, "-c", MEASURE, what, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 <= float(done.stdout) < 2.5


def _leave(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(memory, "_free_bytes", lambda device: free)


def _bytes_for(engine: Engine, positions: int) -> int:
    """Free memory that has room for so many positions and hardly more."""
    needs = memory.generation_needs(engine.config, torch.float32, BLOCK)
    return int((needs.fixed + needs.per_token * (positions + 1)) / 0.9)


def test_too_long_names_the_limit(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is refused with the number of tokens that would; just that number runs."""
    engine = load_engine(str(tiny), device="cpu")
    _leave(monkeypatch, _bytes_for(engine, 300))
    with pytest.raises(ContextTooLong) as caught:
        engine.complete("a" * 350, max_tokens=10)
    found = re.search(r"room for (\d+)", str(caught.value))
    assert found
    limit = int(found[1])
    assert 300 <= limit <= 302
    result = engine.complete("a" * (limit - 11), max_tokens=10)
    assert result.stats.prompt_tokens + 10 == limit


def test_logits_are_checked_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`logits` keeps a row for every position: its limit is its own."""
    needs = memory.logits_needs(engine.config, torch.float32)
    _leave(monkeypatch, needs.per_token * 100)
    with pytest.raises(ContextTooLong, match="room for 90"):
        engine.logits([1] * 91)
    assert engine.logits([1] * 90).shape == (90, engine.config.vocab_size)


def test_memory_that_the_cache_holds_is_used_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request needs only what the cache of the first does not hold already."""
    free = _bytes_for(engine, 200)
    _leave(monkeypatch, free)
    engine.complete("a" * 150, max_tokens=20)
    held = engine._sessions.nbytes
    assert held >= cache_bytes(engine.config, 150, bytes_per_value=4)
    _leave(monkeypatch, free - held)
    engine.complete("b" * 150, max_tokens=20)


def test_memory_that_others_take_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device runs out all the same, the request fails with one sentence and the engine goes on."""
    model, calls = engine._model, iter(range(100))
    forward = model.forward

    def short(*args: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise torch.OutOfMemoryError
        return forward(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", short)
        with pytest.raises(ContextTooLong, match="ran out of memory"):
            engine.complete("ab" * 200, max_tokens=2)
    assert engine.complete("ab" * 200, max_tokens=2).stats.reused_tokens > 0


def test_packing_fills_what_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is cut to memory at load, so that a long file is packed and not refused."""
    write_llama(tmp_path, positions=4096)
    whole = load_engine(str(tmp_path), device="cpu")
    assert whole.config.max_context == 4096
    _leave(monkeypatch, _bytes_for(whole, 1000))
    small = load_engine(str(tmp_path), device="cpu")
    assert small.config.max_context == 1000 // BLOCK * BLOCK
    assert small.infill("ab\n" * 3000, "re\n", max_tokens=4).stats.prompt_tokens > 500
    asked = load_engine(str(tmp_path), device="cpu", max_context=4096)
    with pytest.raises(ContextTooLong, match="room for"):
        asked.complete("a" * 2000, max_tokens=4)


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a control group, what it leaves is free, cached files included; "max" is no limit."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    for name, text in (
        ("memory.max", "5000"),
        ("memory.current", "4000"),
        ("memory.stat", "anon 3300\nfile 700"),
    ):
        (tmp_path / name).write_text(text + "\n")
    assert memory.usable_bytes(torch.device("cpu")) == 1700 - 170
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.usable_bytes(torch.device("cpu")) > 2**20
