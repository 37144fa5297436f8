"""The rate of a pass's attention alone, ours and torch's: what the choice in `fused_prefill` rests on."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.gpu_bench import Bench, Record, often
from benchmarks.report import Figure
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from codellama.runtime import fused_prefill


def attention(bench: Bench, record: Record) -> None:
    """At the heads of a 7B, behind 32,768 positions; 300 in a rehearsal."""
    past = 32768 if bench.cuda else 300
    if bench.cuda:
        record.take("cuDNN pieces", partial(_pieces, bench, past))
        for keys, stages in ((128, 2), (64, 3)):
            tile = fused_prefill.Tile(128, keys, 8, stages)
            record.take(f"fused {keys}", partial(_ours, bench, tile, 1024, past))
        for count, length in ((2048, past), (512, 512), (256, bench.long)):
            what = f"fused {count} of {length}"
            record.take(what, partial(_ours, bench, fused_prefill.TILE, count, length))
    for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
        record.take(backend, partial(_torchs, bench, backend, 1024 if bench.cuda else 30, past))


def _tensors(bench: Bench, count: int, length: int) -> list[Tensor]:
    config = bench.shape("7b").config
    sizes = [(config.n_heads, count), (config.n_kv_heads, length), (config.n_kv_heads, length)]
    return [torch.randn(1, *size, config.head_dim, device=bench.device, dtype=bench.dtype) for size in sizes]


def _rate(bench: Bench, count: int, length: int, run: Callable[[], object], causal: bool) -> float:
    """TFLOP/s; of a causal mask only what it leaves is counted."""
    config = bench.shape("7b").config
    seen = count * length - (count * (count - 1) / 2 if causal else 0)
    each = bench.seconds(partial(often, run, 4)) / 4
    return 4 * config.n_heads * config.head_dim * seen / each / 1e12


def _ours(bench: Bench, tile: fused_prefill.Tile, count: int, length: int) -> Iterator[Figure]:
    q, k, v = _tensors(bench, count, length)
    usual, fused_prefill.TILE = fused_prefill.TILE, tile
    try:
        found = _rate(bench, count, length, lambda: fused_prefill.attend(q, k, v), causal=True)
        mixed = fused_prefill.attend(q, k, v).float()
    finally:
        fused_prefill.TILE = usual
    expected = fused_prefill.attend(q, k, v).float()
    error = float((mixed - expected).norm() / expected.norm())
    how = f"{tile.queries} x {tile.keys}, {tile.warps} warps, {tile.stages} stages"
    name = f"fused, {count} queries of {length}, {how}"
    yield Figure(name, found, "TFLOP/s", note=f"differs from the usual by {error:.2g}")


def _torchs(bench: Bench, backend: str, count: int, past: int) -> Iterator[Figure]:
    q, k, v = _tensors(bench, count, past)
    run = partial(functional.scaled_dot_product_attention, q, k, v)
    with sdpa_kernel(getattr(SDPBackend, backend) if bench.cuda else SDPBackend.MATH):
        first = _first(bench, run)
        found = _rate(bench, count, past, run, causal=False)
    name = f"torch's {backend.lower()}, {count} queries of {past}, not causal"
    yield Figure(name, found, "TFLOP/s", note=f"first call {first:.0f} ms")


def _pieces(bench: Bench, past: int) -> Iterator[Figure]:
    """cuDNN's attention to a piece of a cache, which one plan would serve, and its softmax's sums."""
    q, k, v = _tensors(bench, 1024, past)
    k, v = k[:, :, : past // 2], v[:, :, : past // 2]
    run = partial(torch.ops.aten._scaled_dot_product_cudnn_attention, q, k, v, None, True)
    first = _first(bench, run)
    mixed, sums = run()[:2]
    scores = q[:, :, :16].float() @ k.float().transpose(-1, -2) * q.shape[3] ** -0.5
    off = float((sums.reshape(*q.shape[:3])[..., :16] - scores.logsumexp(-1)).abs().max())
    expected = scores.softmax(-1) @ v.float()
    error = float((mixed[:, :, :16].float() - expected).norm() / expected.norm())
    note = f"first call {first:.0f} ms, error {error:.2g}, sums {tuple(sums.shape)} off by {off:.2g}"
    found = _rate(bench, 1024, past // 2, run, causal=False)
    yield Figure(f"cuDNN, 1024 queries of a piece of {past // 2}, with sums", found, "TFLOP/s", note=note)


def _first(bench: Bench, run: Callable[[], object]) -> float:
    """Milliseconds of a first call."""
    bench.wait()
    began = time.perf_counter()
    run()
    bench.wait()
    return 1000 * (time.perf_counter() - began)
