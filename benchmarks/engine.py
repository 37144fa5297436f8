"""The engine on a CPU, beside llama.cpp and transformers in one run: `python -m benchmarks.engine`.

Two Llamas of random weights (40 and 11 million parameters) whose answers never end by themselves. Each
figure is the best of several rounds, the sides taking turns, since other work on the machine only ever
slows a round down; read the ratios before the absolute numbers. llama.cpp is asked through its low-level
decode with two threads; sampling, which that leaves out, is in our figures. `--section` runs another part
than the speed and writes `results/engine-SECTION`.
"""

import argparse
import contextlib
import ctypes
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from benchmarks import report
from benchmarks.report import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from codellama.runtime import Engine, load_engine
from codellama.runtime.records import CompletionRequest, InfillRequest, Request, Result, Sampling
from codellama.runtime.weights.convert import convert

THREADS = 2
PROMPT, ANSWER = 512, 24
_CODE = Path(__file__).read_text(encoding="utf-8")


def main() -> None:
    """Measures and writes `results/engine`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--section", default="speed", choices=("speed", "speculation", "requests", "pocket"))
    arguments = parser.parse_args()
    rounds, section = arguments.rounds, arguments.section
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "40m", Path(folder) / "11m"
        write_model(large, dim=512, layers=10, vocabulary=8192)
        write_model(small, dim=320, layers=6, vocabulary=8192)
        figures: list[Figure] = []
        if section == "speed":
            figures += against_peers(large, rounds)
            figures += infill(large, "40M", rounds, cold_ms=300, warm_ms=120)
            figures += infill(small, "11M", rounds, cold_ms=120, warm_ms=60)
        if section == "speculation":
            figures += speculation(large, rounds)
        if section == "requests":
            figures += a_thousand(small)
        if section == "pocket":
            figures += pocket(rounds)
    load = f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores at the end"
    name = "engine" if section == "speed" else f"engine-{section}"
    print(report.write(name, figures, ("torch", "transformers", "llama_cpp_python"), {"note": load}))


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
    plain = load_engine(str(folder), device="cpu", quantize="int8", kernels="torch")
    gguf = folder.parent / "model.gguf"
    convert(folder, gguf, "q8_0")
    peer = LlamaCpp(gguf)
    reference = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = engine.tokenizer.encode(_CODE)[:PROMPT]
    steps = 48

    def ours(engine: Engine = engine) -> float:
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

    def our_prefill(engine: Engine = engine) -> float:
        first = next(chance)  # a prompt that no cache has seen
        text = f"# {first}\n" + engine.tokenizer.decode(ids)
        result = engine.run(CompletionRequest(text, 1))
        return result.stats.prefill_s / result.stats.prompt_tokens

    def their_prefill() -> float:
        return peer.prefill(ids) / len(ids)

    step, peer_step, reference_step, plain_step = best(
        rounds, ours, theirs, transformers, lambda: ours(plain)
    )
    block, peer_block, plain_block, product = best(
        rounds, our_prefill, their_prefill, lambda: our_prefill(plain), _product
    )
    peer.close()
    weights, read = _weights(engine), _read_seconds(rounds, _weights(engine))
    operations = 2 * (weights - engine.config.vocab_size * engine.config.dim)  # one position has logits
    return [
        Figure("40M decode, int8", 1 / step, "tokens/s"),
        Figure("llama.cpp decode, Q8_0", 1 / peer_step, "tokens/s", note="two threads, as built from source"),
        Figure("transformers decode, float32", 1 / reference_step, "tokens/s"),
        _ratio("decode against llama.cpp", peer_step / step, 1.0),
        _ratio("decode against transformers", reference_step / step, 4.0),
        Figure("40M prefill, int8", 1 / block, "tokens/s"),
        Figure("llama.cpp prefill, Q8_0", 1 / peer_block, "tokens/s"),
        _ratio("prefill against llama.cpp", peer_block / block, 2.0),
        Figure("40M decode by torch's kernels", 1 / plain_step, "tokens/s", note="without a compiler"),
        Figure("40M prefill by torch's kernels", 1 / plain_block, "tokens/s"),
        Figure(
            "reading so many bytes", weights / read / 1e9, "GB/s", note="two threads, a copy of the weights"
        ),
        Figure("decode, share of that reading", read / step, "x"),
        Figure("bfloat16 matrix rate", 1 / product / 1e9, "GFLOP/s", note="torch, 2048 x 2048"),
        Figure("prefill, share of that rate", operations / block * product, "x"),
    ]


def _weights(engine: Engine) -> int:
    """Bytes of int8 weights that a step reads, about one for each."""
    config = engine.config
    layer = config.dim * (2 * config.n_heads + 2 * config.n_kv_heads) * config.head_dim
    return config.n_layers * (layer + 3 * config.dim * config.ffn_dim) + config.vocab_size * config.dim


def _read_seconds(rounds: int, nbytes: int) -> float:
    """Seconds to read so many bytes once, all cores at it, again and again as a step does."""
    data = torch.ones(nbytes // 4)

    def read() -> float:
        began = time.perf_counter()
        for _ in range(5):
            data.sum()
        return (time.perf_counter() - began) / 5

    return best(rounds, read)[0]


def _product() -> float:
    """Seconds for one operation of a large bfloat16 product."""
    a = torch.ones(2048, 2048, dtype=torch.bfloat16)
    began = time.perf_counter()
    a @ a
    return (time.perf_counter() - began) / (2 * 2048**3)


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
    """Drafts by prompt lookup against none: on an answer that repeats its input, and on code that does not.

    The first is a random model's, which soon repeats itself; the second are the pocket model's completions
    at places in this repository, greedy as an editor asks for them.
    """
    from codellama.runtime.speculate import PromptLookup

    draft = PromptLookup.draft

    def run(engine: Engine, requests: list[Request], drafts: bool) -> float:
        PromptLookup.draft = draft if drafts else lambda self, most=8: []  # type: ignore[method-assign]
        results = [engine.run(request) for request in requests]
        return sum(result.stats.decode_s for result in results)

    repeating = load_engine(str(folder), device="cpu", quantize="int8")
    pocket = load_engine("pocket", device="cpu", quantize="int8")
    places = [n for n, line in enumerate(_CODE.splitlines()) if line.startswith("    ") and len(line) > 20][
        ::12
    ]
    lines = _CODE.splitlines(keepends=True)
    code: list[Request] = [
        InfillRequest("".join(lines[:n])[-1200:] + lines[n][:8], "".join(lines[n + 1 :])[:400], (), 24)
        for n in places
    ]
    figures = []
    for name, engine, requests, goal in (
        ("repeating text", repeating, [CompletionRequest("x = 1\n" * 40, 96)], 1.5),
        ("completions in this file", pocket, code, 0.95),
    ):
        with_drafts, without = best(
            rounds,
            lambda engine=engine, requests=requests: run(engine, list(requests), True),
            lambda engine=engine, requests=requests: run(engine, list(requests), False),
        )
        figures.append(_ratio(f"speculation on {name}", without / with_drafts, goal))
    PromptLookup.draft = draft  # type: ignore[method-assign]
    return figures


def _after(steps: int) -> Callable[[], bool]:
    """Asks to cancel once it has been asked so often."""
    asked = iter(range(10**7))
    return lambda: next(asked) >= steps


def a_thousand(folder: Path) -> list[Figure]:
    """A thousand requests from eight threads, a third of them cancelled: the answers of one by one."""
    chance = random.Random(0)
    requests: list[Request] = []
    for n in range(1000):
        start = chance.randrange(0, 3000, 50)
        sampling = Sampling(temperature=chance.choice([0.0, 1.0]), seed=n)
        prompt = _CODE[start : start + chance.choice([80, 300, 900])]
        requests.append(CompletionRequest(prompt, chance.randint(1, 12), sampling))
    engine = load_engine(str(folder), device="cpu", quantize="int8")
    patience = {n: chance.randint(0, 8) for n in range(1000) if chance.random() < 0.33}
    found: dict[int, Result] = {}
    queue = list(range(1000))
    before = psutil.Process().memory_info().rss

    def work() -> None:
        while queue:
            with contextlib.suppress(IndexError):
                n = queue.pop()
                found[n] = engine.run(requests[n], _after(patience.get(n, 10**6)))

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    grown = psutil.Process().memory_info().rss - before - engine._sessions.nbytes
    whole = [n for n in range(0, 1000, 5) if n not in patience]
    alone = load_engine(str(folder), device="cpu", quantize="int8")
    same = sum(alone.run(requests[n]).ids == found[n].ids for n in whole)
    cancelled = sum(result.finish_reason == "cancelled" for result in found.values())
    return [
        Figure(
            "requests answered or cancelled",
            len(found),
            "",
            "1000",
            len(found) == 1000,
            f"{cancelled} cancelled",
        ),
        Figure(
            "answers as one by one",
            same / len(whole),
            "",
            "all",
            same == len(whole),
            f"of {len(whole)} looked at",
        ),
        Figure("requests left behind", engine._scheduler.jobs, "", "0", engine._scheduler.jobs == 0),
        Figure("memory beside the caches", grown / 1e6, "MB"),
        Figure("requests a second", 1000 / seconds, "1/s"),
    ]


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
model = engine.model
tensors = [] if hasattr(model, "weight_bytes") else [*model.parameters(), *model.buffers()]
weights = sum(t.nbytes for t in tensors) or model.weight_bytes
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
