"""Compiles what a step of Code Llama 7B runs, in a process for each kind: `python -m benchmarks.gpu_compile`.

A fresh machine's minutes on a GPU are few, and Triton compiles one kernel after another. What it keeps on
disk the benchmark finds again. Nothing is measured; a candidate that does not run is told of.
"""

import subprocess
import sys
import time
from dataclasses import replace
from itertools import product

import torch
from benchmarks.gpu_models import Shape, cache_of, random_model, shapes

from codellama.runtime.cache import CacheKind
from codellama.runtime.fused_tuning import activations, off
from codellama.runtime.graphs import GraphedModel
from codellama.runtime.linear import Quantisation

KINDS: tuple[Quantisation | None, ...] = (None, "int8", "fp8", "int4")


@torch.inference_mode()
def compile_kind(kind: Quantisation | None, rows: int) -> None:
    """All candidates of a layer's products and of the head's, and a step of each kind of cache."""
    device = torch.device("cuda")
    shape = Shape(replace(shapes()["7b"].config, n_layers=1))
    model, _ = random_model(shape, device, torch.bfloat16, kind)
    assert isinstance(model, GraphedModel)
    step = model._fused
    assert step is not None, "torch's kernels step"
    for one in (*step.layers[0], step.head):
        x, out = activations(one, step.packed)
        for tile in one.tiles(rows == 1, x.packed):
            words = f"{kind or 'bf16'} {one.matrix.outputs} x {one.matrix.inputs}, {rows} rows, {tile}"
            try:
                error = off(replace(one, few=tile, many=tile), x, out, rows)
                if not error < 0.02:
                    print(f"OFF by {error:.2g}: {words}", flush=True)
            except Exception as refusal:  # noqa: BLE001 - the others are worth having
                print(f"DOES NOT RUN: {words}: {str(refusal)[-300:]}", flush=True)
    caches: tuple[CacheKind | None, ...] = (None, "int8", "fp8") if kind is None else (None,)
    for cache in caches:
        one_more = [cache_of(model, 64, 8, cache) for _ in range(rows)]
        model.together(torch.ones(rows, dtype=torch.long, device=device), one_more)


def main() -> None:
    """One process for each kind of weights and for one and several rows, at the same time."""
    if len(sys.argv) > 1:
        named = [kind for kind in KINDS if kind and kind == sys.argv[1]]
        compile_kind(named[0] if named else None, int(sys.argv[2]))
        return
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu_compile"]
    running = [
        subprocess.Popen([*command, kind or "bf16", str(rows)]) for kind, rows in product(KINDS, (1, 8))
    ]
    failed = sum(process.wait() != 0 for process in running)
    print(f"compiled in {time.monotonic() - began:.1f} s, {failed} processes failed", flush=True)


if __name__ == "__main__":
    main()
