"""The engine on a CPU, beside llama.cpp and transformers in one run: `python -m benchmarks.engine`.

Llamas of random weights (40 and 11 million parameters, 260 for int4) whose answers do not end by themselves.
Each figure is the best of several rounds, the sides taking turns, since other work on the machine only ever
slows a round down; read the ratios before the absolute numbers. `--section` runs another part than the speed
and writes `results/engine-SECTION`.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from benchmarks import report
from benchmarks.engine_peers import PROMPT, THREADS, against_peers, best, in_four_bits
from benchmarks.report import Figure, at_least, at_most
from transformers import LlamaConfig, LlamaForCausalLM

from codellama.runtime import Engine, load_engine
from codellama.runtime.records import CompletionRequest, InfillRequest, Request, Result, Sampling

ANSWER = 24
_CODE = Path(__file__).read_text(encoding="utf-8")


def main() -> None:
    """Measures and writes `results/engine`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--section", default="speed", choices=("speed", "int4", "speculation", "requests", "pocket")
    )
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
        if section == "int4":
            larger = Path(folder) / "250m"
            write_model(larger, dim=1024, layers=20, vocabulary=8192)
            figures += in_four_bits(larger, "260M", rounds)
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
        at_most(f"{name} infill cold, p50", 1000 * _median(cold), cold_ms),
        at_most(f"{name} infill with a prompt seen, p50", 1000 * _median(warm), warm_ms),
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
        figures.append(at_least(f"speculation on {name}", without / with_drafts, goal))
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
        at_most("pocket model: load after torch's import", min(row[0] for row in found), 1.0, "s"),
        at_most("pocket model: memory beside weights and cache", min(row[1] for row in found), 150, "MB"),
    ]


if __name__ == "__main__":
    main()
