"""Triton kernels: products of up to 16 rows with a weight matrix, on matrix units in bfloat16.

What stands around a product is done in passing, as `triton_products` does it for one row; weights are of the
same kinds. With TRITON_INTERPRET=1 the kernels run on a CPU: so they are tested.
"""

# mypy: ignore-errors
# ruff: noqa: N803, PLR0913, PLR0917 - a kernel's language, not Python's

import triton
import triton.language as tl

# What matrix units multiply; the interpreter knows no such product of bfloat16.
UNITS = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@triton.jit
def _units(w):
    """Numbers of any kind for matrix units."""
    return w.to(tl.float32).to(tl.bfloat16).to(UNITS)


@triton.jit
def _inputs(x, gain, place, inside, row, k, batch, NORM: tl.constexpr):
    """Inputs of up to 16 rows at some places, multiplied by the gain, and their squares: [places, 16]."""
    there = inside[:, None] & (row[None, :] < batch)
    v = tl.load(x + row[None, :].to(tl.int64) * k + place[:, None], mask=there, other=0.0).to(tl.float32)
    square = v * v
    if NORM:
        v = v * tl.load(gain + place, mask=inside, other=0.0).to(tl.float32)[:, None]
    return v, square


@triton.jit
def _finish(
    out,
    rows,
    row,
    batch,
    n,
    total,
    second,
    squares,
    k,
    eps,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    ADD: tl.constexpr,
):
    """Writes the sums [outputs, 16]: behind their norms, gated, added to what is there."""
    if NORM:
        factor = tl.rsqrt(squares / k + eps)
        total = total * factor[None, :]
        second = second * factor[None, :]
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * second
    target = out + row[None, :].to(tl.int64) * n + rows[:, None]
    written = (row[None, :] < batch) & (rows[:, None] < n)
    if ADD:
        total = total + tl.load(target, mask=written, other=0.0)
    tl.store(target, total, mask=written)


@triton.jit(do_not_specialize=["batch"])
def product_many(
    x,
    gain,
    weight,
    scale,
    out,
    batch,
    n,
    k,
    words,
    eps,
    GROUP: tl.constexpr,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    SCALED: tl.constexpr,
    ADD: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """out [batch, n] of x [batch, k], at most 16 rows, on matrix units in bfloat16.

    Weights as in the kernels for one row; BK counts words of eight weights where GROUP tells of int4.
    """
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.arange(0, 16)
    columns = tl.arange(0, BK)
    first = tl.zeros([BN, 16], tl.float32)
    second = tl.zeros([BN, 16], tl.float32)
    squares = tl.zeros([16], tl.float32)
    kept = tl.minimum(rows, n - 1)
    here, there = kept[:, None].to(tl.int64), (kept[:, None] + n).to(tl.int64)
    if GROUP:
        groups = k // GROUP
        for start in tl.range(0, words, BK, num_stages=STAGES):
            word = start + columns
            inside = word < words
            group = word[None, :] // (GROUP // 8)
            w = tl.load(weight + here * words + word[None, :], mask=inside[None, :], other=0)
            s = tl.load(scale + here * groups + group, mask=inside[None, :], other=0)
            if GATED:
                u = tl.load(weight + there * words + word[None, :], mask=inside[None, :], other=0)
                t = tl.load(scale + there * groups + group, mask=inside[None, :], other=0)
            for i in tl.static_range(8):
                v, square = _inputs(
                    x, gain, word // 32 * 256 + word % 32 + 32 * i, inside, row, k, batch, NORM
                )
                squares += tl.sum(square, axis=0)
                v = v.to(tl.bfloat16).to(UNITS)
                first = tl.dot(_nibbles(w, s, i), v, first)
                if GATED:
                    second = tl.dot(_nibbles(u, t, i), v, second)
    else:
        for start in tl.range(0, k, BK, num_stages=STAGES):
            column = start + columns
            inside = column < k
            w = tl.load(weight + here * k + column[None, :], mask=inside[None, :], other=0.0)
            if GATED:
                u = tl.load(weight + there * k + column[None, :], mask=inside[None, :], other=0.0)
            v, square = _inputs(x, gain, column, inside, row, k, batch, NORM)
            squares += tl.sum(square, axis=0)
            v = v.to(tl.bfloat16).to(UNITS)
            first = tl.dot(_units(w), v, first)
            if GATED:
                second = tl.dot(_units(u), v, second)
    if SCALED:
        first = first * tl.load(scale + kept)[:, None]
        if GATED:
            second = second * tl.load(scale + n + kept)[:, None]
    _finish(out, rows, row, batch, n, first, second, squares, k, eps, GATED, NORM, ADD)


@triton.jit
def _nibbles(w, scales, i: tl.constexpr):
    """The i-th weight of each word, in bfloat16."""
    step = (scales << 16).to(tl.float32, bitcast=True)
    middle = (scales & -65536).to(tl.float32, bitcast=True)
    return ((((w >> (4 * i)) & 15) - 8).to(tl.float32) * step + middle).to(tl.bfloat16).to(UNITS)
