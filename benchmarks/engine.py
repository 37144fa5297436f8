"""The engine on a CPU, beside llama.cpp and transformers in one run: `python -m benchmarks.engine`.

Two Llamas of random weights (40 and 11 million parameters) whose answers never end by themselves. Each
figure is the best of several rounds, the sides taking turns, since other work on the machine only ever
slows a round down; read the ratios before the absolute numbers. llama.cpp is asked through its low-level
decode with two threads; sampling, which that leaves out, is in our figures.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import report
from benchmarks.report import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from codellama.runtime import Engine, load_engine
from codellama.runtime.records import CompletionRequest, InfillRequest, Sampling
from codellama.runtime.weights.convert import convert

THREADS = 2
PROMPT, ANSWER = 512, 24
_CODE = Path(__file__).read_text(encoding="utf-8")


def main() -> None:
    """Measures and writes `results/engine`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "40m", Path(folder) / "11m"
        write_model(large, dim=512, layers=10, vocabulary=8192)
        write_model(small, dim=320, layers=6, vocabulary=8192)
        figures = [
            *against_peers(large, rounds),
            *infill(large, "40M", rounds, cold_ms=300, warm_ms=120),
            *infill(small, "11M", rounds, cold_ms=120, warm_ms=60),
            *speculation(large, rounds),
            *pocket(rounds),
        ]
    load = f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores at the end"
    print(report.write("engine", figures, ("torch", "transformers", "llama_cpp_python"), {"note": load}))


def write_model(folder: Path, dim: int, layers: int, vocabulary: int) -> None:
    """A checkpoint with the pocket model's tokenizer, whose control tokens are never likely."""
    from codellama.runtime.locate import locate

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=-(-8 * dim // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=dim // 64,
        num_key_value_heads=dim // 64,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config)
    pieces = (locate("pocket") / "tokenizer.model").read_bytes()
    model.lm_head.weight.data[len(pieces.splitlines()) :] = 0
    model.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(pieces)


def best(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The least seconds of each side, which take turns."""
    times = [[side() for side in sides] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def against_peers(folder: Path, rounds: int) -> list[Figure]:
    """Decode and prefill beside llama.cpp at the same bits, decode beside transformers."""
    engine = load_engine(str(folder), device="cpu", quantize="int8")
    gguf = folder.parent / "model.gguf"
    convert(folder, gguf, "q8_0")
    peer = LlamaCpp(gguf)
    reference = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = engine.tokenizer.encode(_CODE)[:PROMPT]
    steps = 48

    def ours() -> float:
        # Not greedy, so that no draft is looked up: every token is a step of its own.
        request = CompletionRequest("def f(", steps, Sampling(temperature=1.0, seed=0))
        return engine.run(request).stats.decode_s / steps

    def theirs() -> float:
        return peer.decode(ids[:8], steps) / steps

    def transformers() -> float:
        rows = torch.tensor([ids[:8]])
        began = time.perf_counter()
        with torch.inference_mode():
            reference.generate(
                rows, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, pad_token_id=0
            )
        return (time.perf_counter() - began) / steps

    chance = iter(range(10**6))

    def our_prefill() -> float:
        first = next(chance)  # a prompt that no cache has seen
        text = f"# {first}\n" + engine.tokenizer.decode(ids)
        result = engine.run(CompletionRequest(text, 1))
        return result.stats.prefill_s / result.stats.prompt_tokens

    def their_prefill() -> float:
        return peer.prefill(ids) / len(ids)

    step, peer_step, reference_step = best(rounds, ours, theirs, transformers)
    block, peer_block = best(rounds, our_prefill, their_prefill)
    peer.close()
    return [
        Figure("40M decode, int8", 1 / step, "tokens/s"),
        Figure("llama.cpp decode, Q8_0", 1 / peer_step, "tokens/s", note="two threads, as built from source"),
        Figure("transformers decode, float32", 1 / reference_step, "tokens/s"),
        _ratio("decode against llama.cpp", peer_step / step, 1.0),
        _ratio("decode against transformers", reference_step / step, 4.0),
        Figure("40M prefill, int8", 1 / block, "tokens/s"),
        Figure("llama.cpp prefill, Q8_0", 1 / peer_block, "tokens/s"),
        _ratio("prefill against llama.cpp", peer_block / block, 2.0),
    ]


def _ratio(name: str, value: float, goal: float) -> Figure:
    return Figure(name, value, "x", f"at least {goal} x", value >= goal)


def infill(folder: Path, name: str, rounds: int, cold_ms: float, warm_ms: float) -> list[Figure]:
    """p50 of a 512-token infill prompt and 24 tokens out: cold, and with all but the last 16 tokens seen."""
    cold, warm = [], []
    engine = load_engine(str(folder), device="cpu", quantize="int8")
    code = engine.tokenizer.decode(engine.tokenizer.encode(_CODE)[: PROMPT - 24])
    for n in range(3 * rounds):
        prefix = f"# {n}\n{code}"
        cold.append(_timed(engine, prefix))
        warm.append(_timed(engine, prefix[:-40] + f"x{n} = call({n}, "))
    return [
        _under(f"{name} infill cold, p50", 1000 * _median(cold), cold_ms),
        _under(f"{name} infill with a prompt seen, p50", 1000 * _median(warm), warm_ms),
        Figure(f"{name} infill cold, best", 1000 * min(cold), "ms"),
    ]


def _timed(engine: Engine, prefix: str) -> float:
    sampling = Sampling(temperature=1.0, seed=0)
    began = time.perf_counter()
    result = engine.run(InfillRequest(prefix, "\n", (), ANSWER, "psm", sampling))
    assert len(result.ids) == ANSWER
    return time.perf_counter() - began


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _under(name: str, value: float, goal: float, unit: str = "ms") -> Figure:
    return Figure(name, value, unit, f"at most {goal:g} {unit}", value <= goal)


def speculation(folder: Path, rounds: int) -> list[Figure]:
    """Drafts by prompt lookup against none, after a text that repeats itself and after code.

    A random model that chooses greedily soon repeats itself after either, so what drafts cost where nothing
    repeats is not measured here.
    """
    from codellama.runtime.speculate import PromptLookup

    engine = load_engine(str(folder), device="cpu", quantize="int8")
    draft = PromptLookup.draft

    def run(prompt: str, drafts: bool) -> float:
        PromptLookup.draft = draft if drafts else lambda self, most=8: []  # type: ignore[method-assign]
        return engine.run(CompletionRequest(prompt, 96)).stats.decode_s

    figures = []
    for name, prompt, goal in (
        ("repeating text", "x = 1\n" * 40, 1.5),
        ("an answer to code", _CODE[:400], 0.95),
    ):
        with_drafts, without = best(
            rounds, lambda text=prompt: run(text, True), lambda text=prompt: run(text, False)
        )
        figures.append(_ratio(f"speculation on {name}", without / with_drafts, goal))
    PromptLookup.draft = draft  # type: ignore[method-assign]
    return figures


_POCKET = """
import os, time, torch
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
torch.ones(8) @ torch.ones(8)
before = rss()
began = time.perf_counter()
from codellama.runtime import load_engine
engine = load_engine("pocket", device="cpu", quantize="int8")
loaded = time.perf_counter() - began
engine.infill("def f(a):\\n    return ", "\\n", max_tokens=24)
weights = sum(t.nbytes for t in [*engine._model.parameters(), *engine._model.buffers()])
print(loaded, (rss() - before - weights - engine._sessions.nbytes) / 1e6)
"""


def pocket(rounds: int) -> list[Figure]:
    """Loading the pocket model, and memory beside its weights and cache, each in fresh processes."""
    found = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", _POCKET], capture_output=True, text=True, check=True)
        found.append([float(word) for word in done.stdout.split()])
    return [
        _under("pocket model: load after torch's import", min(row[0] for row in found), 1.0, "s"),
        _under("pocket model: memory beside weights and cache", min(row[1] for row in found), 150, "MB"),
    ]


class LlamaCpp:
    """llama.cpp's low-level decode on one GGUF file, two threads; prints nothing."""

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            str(file).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = 2048
        parameters.n_threads = parameters.n_threads_batch = THREADS
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        assert self._context

    def prefill(self, ids: list[int]) -> float:
        """Seconds for the prompt alone."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        began = time.perf_counter()
        self._run(ids)
        return time.perf_counter() - began

    def decode(self, ids: list[int], steps: int) -> float:
        """Seconds for `steps` single tokens after a prompt."""
        self.prefill(ids)
        began = time.perf_counter()
        for n in range(steps):
            self._run([ids[n % len(ids)]])
        return time.perf_counter() - began

    def close(self) -> None:
        """Frees model and context."""
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def _run(self, ids: list[int]) -> None:
        tokens = (self._lib.llama_token * len(ids))(*ids)
        assert self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids))) == 0


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silence(level: int, text: bytes, data: int) -> None:
    pass


if __name__ == "__main__":
    main()
