"""The runtime on one GPU at Code Llama's shapes, random weights: `python -m benchmarks.gpu --section NAME`.

Each section takes under nine minutes on an H200 and leaves `results/DEVICE-SECTION.json`. Run `ceilings`
first: the others read the measured bandwidth and matrix rate from its file, and tell their share of them.
`--tiny` runs the same code on a CPU at sizes of no meaning and writes nothing: a rehearsal.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from benchmarks import report
from benchmarks.gpu_models import Shape, cache_of, ids_of, quantised_error, random_model, shapes, tiny_shapes
from benchmarks.report import Figure
from torch import Tensor

from codellama.runtime.cache import CacheKind
from codellama.runtime.footprint import cache_bytes
from codellama.runtime.generation import LanguageModel, prefill_block
from codellama.runtime.linear import Quantisation


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how large: `long` stands for 100,000 tokens, `bandwidth` and `rate` for what was measured."""

    device: torch.device
    shapes: dict[str, Shape]
    lengths: tuple[int, ...]
    long: int
    fresh: int
    steps: int
    rounds: int
    bandwidth: float = math.nan  # bytes a second
    rate: float = math.nan  # operations a second

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def precisions(self) -> tuple[Quantisation | None, ...]:
        return (None, "fp8", "int8", "int4") if self.device.type == "cuda" else (None, "int8", "int4")

    def seconds(self, run: Callable[[], object]) -> float:
        """The least time of several runs, the device's work included."""
        run()
        times = []
        for _ in range(self.rounds):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - began)
        return min(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ceilings(bench: Bench) -> list[Figure]:
    """What the device can do at best: copying memory, multiplying matrices."""
    cuda = bench.device.type == "cuda"
    source = torch.empty(2**32 if cuda else 2**22, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / bench.seconds(lambda: target.copy_(source))
    width = 16384 if cuda else 256
    a = torch.randn(width, width, device=bench.device, dtype=bench.dtype)
    rate = 2 * width**3 / bench.seconds(lambda: a @ a)
    return [
        Figure("bandwidth", copied / 1e9, "GB/s", note="read and written by a copy"),
        Figure("matrix rate", rate / 1e12, "TFLOP/s", note=f"{bench.dtype}".removeprefix("torch.")),
    ]


def decode(bench: Bench) -> list[Figure]:
    """Tokens a second at batch 1 and 8, by model and precision, and the share of reading the weights once."""
    found = []
    for name, shape in bench.shapes.items():
        plain = math.nan
        for precision in bench.precisions:
            if name == "70b" and precision != "int8":
                continue
            model, nbytes = random_model(shape, bench.device, bench.dtype, precision)
            kind = precision or "bf16"
            single = bench.seconds(partial(_steps, model, bench, 1)) / bench.steps
            eight = bench.seconds(partial(_steps, model, bench, 8)) / bench.steps
            share = nbytes / bench.bandwidth / single
            plain = single if precision is None else plain
            goals = {"bf16": (share, 0.8), "int8": (plain / single, 1.6), "int4": (plain / single, 2.3)}
            value, goal = goals.get(kind, (math.nan, math.nan))
            words = f"at least {goal} " + ("of the roofline" if precision is None else "x bf16")
            figure = Figure(
                f"{name} {kind} decode", 1 / single, "tokens/s", note=f"{share:.0%} of the roofline"
            )
            found.append(figure)
            found.append(Figure(f"{name} {kind} decode, batch 8", 8 / eight, "tokens/s"))
            if not math.isnan(value):
                found.append(Figure(f"{name} {kind} against its goal", value, "x", words, value >= goal))
            del model
            _forget(bench)
    return found


def _steps(model: LanguageModel, bench: Bench, batch: int) -> None:
    caches = [cache_of(model, 64 + bench.steps, 64) for _ in range(batch)]
    ids = torch.ones(batch, dtype=torch.long, device=bench.device)
    with torch.inference_mode():
        for _ in range(bench.steps):
            logits = model(ids[None], caches[0])[0] if batch == 1 else model.together(ids, caches)
            ids = logits.argmax(-1)


def prefill(bench: Bench) -> list[Figure]:
    """Seconds for prompts of several lengths, in the blocks of real requests, and the share of the rate."""
    name, shape = next(iter(bench.shapes.items()))
    model, nbytes = random_model(shape, bench.device, bench.dtype, None)
    found = []
    for length in bench.lengths:
        ids = ids_of(length)
        seconds = bench.seconds(lambda ids=ids: _prefill(model, ids, 0))
        config = shape.config
        products = 2 * nbytes / bench.dtype.itemsize * length
        attention = 2 * config.n_layers * config.n_heads * config.head_dim * length**2
        share = (products + attention) / seconds / bench.rate
        found.append(
            Figure(
                f"{name} prefill of {length}, of the matrix rate",
                share,
                "x",
                "at least 0.55 x",
                share >= 0.55,
            )
        )
        goal = "at most 12 s" if length == bench.long else ""
        found.append(
            Figure(f"{name} prefill of {length}", seconds, "s", goal, seconds <= 12 if goal else None)
        )
    return found


def _prefill(model: LanguageModel, ids: list[int], cached: int) -> Tensor:
    cache = cache_of(model, len(ids) + 1, cached)
    with torch.inference_mode():
        logits = prefill_block(model, cache, ids)
        while cache.length < len(ids):
            logits = prefill_block(model, cache, ids)
        return logits.argmax().cpu()


def long(bench: Bench) -> list[Figure]:
    """Decode behind a long prompt, by the cache's precision; the roofline counts weights and cache."""
    name, shape = next(iter(bench.shapes.items()))
    kinds: tuple[CacheKind | None, ...] = (None, "int8", "fp8")
    found = []
    for kind in kinds:
        model, nbytes = random_model(shape, bench.device, bench.dtype, None, kind)
        cache = cache_of(model, bench.long + bench.steps, bench.long)
        ids = torch.ones(1, 1, dtype=torch.long, device=bench.device)

        def run(model: LanguageModel = model, cache=cache, ids: Tensor = ids) -> None:  # type: ignore[no-untyped-def]
            cache.rewind(bench.long)
            with torch.inference_mode():
                for _ in range(bench.steps):
                    model(ids, cache)[0, -1].argmax()

        step = bench.seconds(run) / bench.steps
        read = nbytes + cache_bytes(shape.config, bench.long, 1 if kind else bench.dtype.itemsize)
        share = read / bench.bandwidth / step
        what = f"{name} decode at {bench.long}, {kind or 'plain'} cache"
        found.append(Figure(what, 1 / step, "tokens/s"))
        found.append(Figure(f"{what}, of the roofline", share, "x", "at least 0.65 x", share >= 0.65))
        del model, cache
        _forget(bench)
    return found


def ttft(bench: Bench) -> list[Figure]:
    """Time to the first token where all but the last few tokens of a long prompt are cached."""
    name, shape = next(iter(bench.shapes.items()))
    model, _ = random_model(shape, bench.device, bench.dtype, None)
    cached = (bench.long - bench.fresh) // model.resume_every * model.resume_every
    ids = ids_of(bench.long)
    ms = 1000 * bench.seconds(lambda: _prefill(model, ids, cached))
    what = f"{name} first token, {cached} of {bench.long} reused"
    return [Figure(what, ms, "ms", "under 100 ms", ms < 100)]


def memory(bench: Bench) -> list[Figure]:
    """The most that a model takes beside its weights, for a prompt of some length: does it fit one card?"""
    found = []
    for name, precision in (("34b", None), ("70b", "int8")):
        shape = bench.shapes.get(name) or next(iter(bench.shapes.values()))
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        model, nbytes = random_model(shape, bench.device, bench.dtype, precision)  # type: ignore[arg-type]
        _prefill(model, ids_of(bench.lengths[1]), 0)
        peak = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else nbytes
        found.append(
            Figure(
                f"{name} {precision or 'bf16'}, peak", peak / 1e9, "GB", note=f"weights {nbytes / 1e9:.1f}"
            )
        )
        del model
        _forget(bench)
    return found


def peers(bench: Bench) -> list[Figure]:
    """transformers' generate beside our steps, the same shape and dtype."""
    from transformers import LlamaForCausalLM

    name, shape = next(iter(bench.shapes.items()))
    model, _ = random_model(shape, bench.device, bench.dtype, None)
    ours = bench.seconds(partial(_steps, model, bench, 1)) / bench.steps
    del model
    _forget(bench)
    with torch.device(bench.device):
        peer = LlamaForCausalLM(shape.transformers()).to(bench.dtype).eval()
    rows = torch.ones(1, 64, dtype=torch.long, device=bench.device)
    options = {"max_new_tokens": bench.steps, "min_new_tokens": bench.steps, "do_sample": False}

    def generate() -> None:
        with torch.inference_mode():
            peer.generate(rows, attention_mask=torch.ones_like(rows), pad_token_id=0, **options)

    theirs = bench.seconds(generate) / bench.steps
    return [
        Figure(f"{name} decode", 1 / ours, "tokens/s"),
        Figure(f"{name} transformers", 1 / theirs, "tokens/s", note="prompt of 64 tokens included"),
        Figure("against transformers", theirs / ours, "x", "at least 5 x", theirs / ours >= 5),
    ]


def correctness(bench: Bench) -> list[Figure]:
    """Greedy ids against the CPU at a small shape, and what quantised layers lose at a real width."""
    shape = tiny_shapes()["7b"]
    found = []
    here, _ = random_model(shape, bench.device, torch.float32, None)
    there, _ = random_model(shape, torch.device("cpu"), torch.float32, None)
    ids = ids_of(100)
    same = 0
    caches = [cache_of(model, 140, 0) for model in (here, there)]
    with torch.inference_mode():
        rows = [_last(model, cache, ids) for model, cache in zip((here, there), caches, strict=True)]
        for _ in range(32):
            tokens = [int(row.argmax()) for row in rows]
            same += tokens[0] == tokens[1]
            rows = [_last(m, c, [tokens[1]]) for m, c in zip((here, there), caches, strict=True)]
    found.append(Figure("greedy ids as on the CPU, of 32", same, "", "all", same == 32))
    width = next(iter(bench.shapes.values())).config.dim
    for precision in bench.precisions[1:]:
        assert precision is not None
        error = quantised_error(width, bench.device, bench.dtype, precision)
        found.append(Figure(f"{precision} layer, relative error", error, "", "under 0.15", error < 0.15))
    return found


def _last(model: LanguageModel, cache: object, ids: list[int]) -> Tensor:
    rows = torch.tensor([ids], device=model.device)
    logits: Tensor = model(rows, cache, last_only=True)[0, -1]
    return logits.float().cpu()


def _forget(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


SECTIONS: dict[str, Callable[[Bench], list[Figure]]] = {
    section.__name__: section
    for section in (ceilings, correctness, decode, prefill, long, ttft, memory, peers)
}


def main() -> None:
    """Runs one section, or all of them tiny."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--section", choices=SECTIONS)
    parser.add_argument("--models", default="7b,13b,34b,70b", help="sizes for decode, with commas")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        bench = Bench(torch.device("cpu"), tiny_shapes(), (16, 48), 48, 9, 3, 1, 1e10, 1e11)
        for name, section in SECTIONS.items():
            if arguments.section in (None, name):
                for figure in section(bench):
                    print(name, figure.name, f"{figure.value:.3g}", figure.unit)
        return
    if not torch.cuda.is_available() or not arguments.section:
        parser.error("give --section on a machine with a CUDA GPU, or --tiny to rehearse on a CPU")
    sizes = {name: shape for name, shape in shapes().items() if name in arguments.models.split(",")}
    place = torch.device("cuda")
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(place).lower().removeprefix("nvidia "))
    limits = _ceilings(report.RESULTS / f"{device}-ceilings.json") if arguments.section != "ceilings" else ()
    bench = Bench(place, sizes, (512, 8192, 32768, 100_000), 100_000, 256, 64, 3, *limits)
    figures = SECTIONS[arguments.section](bench)
    versions = {"cuda": str(torch.version.cuda), "torch": torch.__version__}
    print(
        report.write(f"{device}-{arguments.section}", figures, ("torch", "transformers"), {"gpu": versions})
    )


def _ceilings(file: Path) -> tuple[float, float]:
    """Bandwidth and matrix rate as measured before; unknown where they were not."""
    if not file.is_file():
        return (math.nan, math.nan)
    figures = {row["name"]: row["value"] for row in json.loads(file.read_text(encoding="utf-8"))["figures"]}
    return figures["bandwidth"] * 1e9, figures["matrix rate"] * 1e12


if __name__ == "__main__":
    main()
