"""Which tiles a fused step's products run fastest with on this GPU: measured before a capture, and kept.

A candidate multiplies the model's own weights, a layer after another, so that none is found in a cache, in a
CUDA graph, so that starting it counts as little as it will. One that does not compile, or whose result is
off, is out. What was found lies beside the compiled library and is measured anew when the GPU, torch,
Triton, the candidates or the shape change. Small models are not measured: starting kernels is what they cost.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import torch
import triton
from torch import Tensor
from torch.nn import functional

from codellama.runtime.fused_products import PACKED_TILES, ROWS, TILES, Activations, Matrix, Product, Tile
from codellama.runtime.int4 import unpack_words

# Weights below which nothing is measured.
LEAST_BYTES = 2**30
# What measuring may take, for steps of one and of several sequences.
_SECONDS = {True: 6.0, False: 4.0}
# Sequences of a step of several that is measured, and products of a measurement.
_BATCH, _REPEATS = 8, 12
# bfloat16 activations are off by 0.003; a kernel that is wrong is beyond this.
_MOST_OFF = 0.02
# Outputs that are compared, at either end.
_COMPARED = 64

_log = logging.getLogger(__name__)


def choose(places: Sequence[Sequence[Product]], few: bool, packed: bool, folder: Path) -> list[Tile | None]:
    """The tile of each place, whose products in all layers are given; None is the usual one.

    Raises RuntimeError where no candidate computes what it should.
    """
    tables = repr((TILES, PACKED_TILES))
    name = torch.cuda.get_device_name(places[0][0].matrix.weight.device)
    shapes = [(p.matrix.kind, p.matrix.outputs, p.matrix.inputs, p.matrix.group) for p, *_ in places]
    subject = (name, torch.__version__, triton.__version__, tables, shapes, few, packed)
    file = folder / f"tiles-{hashlib.sha256(repr(subject).encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [None if row is None else Tile(*row) for row in kept]
    deadline = time.perf_counter() + _SECONDS[few]
    found: list[Tile | None] = []
    for products in places:
        tile = _fastest(products, few, packed, deadline)
        # Where no time was left, what a matrix of the same kind runs with.
        kinds = [matrices[0].matrix.kind for matrices in places[: len(found)]]
        others = [known for known, kind in zip(found, kinds, strict=True) if kind == products[0].matrix.kind]
        found.append(tile or next(reversed(others), None))
    with contextlib.suppress(OSError):  # a folder that cannot be written: measured again next time
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as new:
            json.dump([None if tile is None else astuple(tile) for tile in found], new)
        os.replace(new.name, file)
    return found


def _fastest(products: Sequence[Product], few: bool, packed: bool, deadline: float) -> Tile | None:
    first = products[0]
    x, out = activations(first, packed)
    rows = 1 if few else _BATCH
    best, least = None, math.inf
    tiles = first.tiles(few, x.packed)
    for tile in tiles:
        if time.perf_counter() > deadline:
            return best
        tried = [replace(product, few=tile, many=tile) for product in products[:_REPEATS]]
        try:
            error = off(tried[0], x, out, rows)
            seconds = _seconds(tried, x, out, rows) if error < _MOST_OFF else math.inf
        except Exception as refusal:  # noqa: BLE001 - too much shared memory, no such instruction: the others run
            _log.debug("%s of %s does not run: %s", tile, first.matrix.kind, refusal)
            continue
        rate = first.matrix.nbytes / seconds / 1e9
        _log.debug(
            "%s %d x %d, %d rows, %s: %.0f GB/s, error %.1e",
            *(first.matrix.kind, first.matrix.outputs, first.matrix.inputs, rows, astuple(tile), rate, error),
        )
        if seconds < least:
            best, least = tile, seconds
    if best is None:
        raise RuntimeError(f"products of {first.matrix.kind} weights are wrong here")
    return best


def activations(product: Product, packed: bool) -> tuple[Activations, Activations | Tensor]:
    """Some inputs of a product, and where it writes; what other kernels read is packed."""
    matrix = product.matrix
    device, packed = matrix.weight.device, packed and matrix.integers
    x = Activations(matrix.inputs, device, packed)
    x.values.normal_()
    x.pack()
    if product.add or product.gated:
        return x, Activations(product.outputs, device, packed)
    return x, torch.zeros(ROWS, product.outputs, device=device)


@torch.no_grad()
def off(product: Product, x: Activations, out: Activations | Tensor, rows: int) -> float:
    """How far the first and the last outputs are from float32's, relative to them."""
    values = out if isinstance(out, Tensor) else out.values
    values.zero_()
    product.launch(x, out, rows)
    count = product.outputs
    some = torch.arange(count, device=values.device)
    some = torch.cat((some[:_COMPARED], some[-_COMPARED:]))
    wide = x.values[:rows]
    if product.norm is not None:
        factor = torch.rsqrt(wide.square().mean(-1, keepdim=True) + product.norm.eps)
        wide = wide * factor * product.norm.weight.float()
    expected = wide @ _weights(product.matrix, some).T
    if product.gated:
        expected = functional.silu(expected) * (wide @ _weights(product.matrix, some + count).T)
    error = (values[:rows, some].float() - expected).norm() / expected.norm()
    return float(error)  # nan, which is not less than anything, where a kernel wrote no numbers


def _weights(matrix: Matrix, some: Tensor) -> Tensor:
    """What the matrix computes with for some outputs, float32."""
    if matrix.kind == "fp8":  # which not every torch indexes
        weight = matrix.weight.view(torch.uint8)[some].view(matrix.weight.dtype)
    else:
        weight = matrix.weight[some]
    if matrix.scale is None:
        return weight.float()
    if matrix.group:
        return unpack_words(weight, matrix.scale[some], matrix.group).float()
    return weight.float() * matrix.scale.flatten()[some, None]


def _seconds(products: Sequence[Product], x: Activations, out: Activations | Tensor, rows: int) -> float:
    """Of one product, in a graph of several; the least of some runs."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for product in products:
            product.launch(x, out, rows)
    least = math.inf
    for _ in range(4):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        least = min(least, begin.elapsed_time(end) / 1000 / len(products))
    return least
