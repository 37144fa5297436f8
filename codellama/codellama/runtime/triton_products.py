"""Triton kernels: products of a few rows with a weight matrix, which read the weights once and write no more.

A decode step is bound by reading weights, so all that stands around a product is done in passing: the
RMSNorm before it (a factor that is known only after the loop), SwiGLU between two of them, the sum with
what was there. Activations are float32; weights are float, fp8 or int8. What is launched with which numbers
stands in `fused_products`. With TRITON_INTERPRET=1 the kernels run on a CPU: so they are tested.
"""

# mypy: ignore-errors
# ruff: noqa: N803, PLR0913, PLR0915, PLR0917, PLR0912 - a kernel's language, not Python's

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from codellama.runtime.triton_integers import pack_blocks

# Bits of an integer where a float's fraction stands are that integer times 2^-149; inputs times UP make
# products of them that are no longer so small, in units of UNIT.
UP = tl.constexpr(2.0**96)
UNIT = tl.constexpr(2.0**-53)
# What matrix units multiply; the interpreter knows no such product of bfloat16.
UNITS = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@triton.jit
def _finish(
    out, rows, total, second, squares, k, eps, GATED: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr
):
    """Writes the sums of one row of activations: behind its norm, gated, added to what is there."""
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, axis=0) / k + eps)
        total = total * factor
        if GATED:
            second = second * factor
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * second
    if ADD:
        total = total + tl.load(out + rows)
    tl.store(out + rows, total)


@triton.jit
def _wide(w, MAGIC: tl.constexpr):
    """Weights as float32; with MAGIC an int8's bits as they stand, (q + 128) 2^-149."""
    if MAGIC:
        return ((w.to(tl.int32) & 0xFF) ^ 0x80).to(tl.float32, bitcast=True)
    return w.to(tl.float32)


@triton.jit
def _part(rows, start, columns, k, EVEN: tl.constexpr):
    """Some columns of some rows, as far as there are any."""
    if EVEN:
        return tl.load(rows + start)
    return tl.load(rows + start, mask=(start + columns < k)[None, :], other=0.0)


@triton.jit
def product_one(
    x,
    gain,
    weight,
    scale,
    out,
    n,
    k,
    eps,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    SCALED: tl.constexpr,
    ADD: tl.constexpr,
    MAGIC: tl.constexpr,
    EVEN: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [n] of x [k] and weight [n or 2n, k] in float, int8 or fp8; a program sums BN outputs."""
    if PDL:
        gdc_launch_dependents()
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    columns = tl.arange(0, BK)
    here = weight + rows[:, None].to(tl.int64) * k + columns[None, :]
    there = weight + (rows[:, None] + n).to(tl.int64) * k + columns[None, :]
    first = tl.zeros([BN, BK], tl.float32)
    second = tl.zeros([BN, BK], tl.float32)
    squares = tl.zeros([BK], tl.float32)
    whole = tl.zeros([BK], tl.float32)
    if AHEAD:  # weights are no other kernel's to write
        next_w = _part(here, 0, columns, k, EVEN)
        if GATED:
            next_u = _part(there, 0, columns, k, EVEN)
    if PDL:
        gdc_wait()
    for start in tl.range(0, k, BK, num_stages=STAGES):
        if AHEAD:
            w = next_w
            next_w = _part(here, start + BK, columns, k, False)
            if GATED:
                u = next_u
                next_u = _part(there, start + BK, columns, k, False)
        else:
            w = _part(here, start, columns, k, EVEN)
            if GATED:
                u = _part(there, start, columns, k, EVEN)
        if EVEN:
            v = tl.load(x + start + columns).to(tl.float32)
            if NORM:
                g = tl.load(gain + start + columns).to(tl.float32)
        else:
            inside = start + columns < k
            v = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
            if NORM:
                g = tl.load(gain + start + columns, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += v * v
            v = v * g
        if MAGIC:
            whole += v
            v = v * UP
        first += _wide(w, MAGIC) * v[None, :]
        if GATED:
            second += _wide(u, MAGIC) * v[None, :]
    total = tl.sum(first, axis=1)
    other = tl.sum(second, axis=1)
    if MAGIC:
        less = 128.0 * tl.sum(whole, axis=0)
        total = total / UNIT - less
        other = other / UNIT - less
    if SCALED:
        total = total * tl.load(scale + rows)
        if GATED:
            other = other * tl.load(scale + n + rows)
    _finish(out, rows, total, other, squares, k, eps, GATED, NORM, ADD)


@triton.jit
def _units(w):
    """Numbers of any kind for matrix units."""
    return w.to(tl.float32).to(tl.bfloat16).to(UNITS)


@triton.jit(do_not_specialize=["batch"])
def product_many(
    codes,
    numbers,
    weight,
    scale,
    out,
    gain,
    next_codes,
    next_numbers,
    batch,
    n,
    k,
    eps,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    SCALED: tl.constexpr,
    ADD: tl.constexpr,
    PACK: tl.constexpr,
    GAIN: tl.constexpr,
    SQUARES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [batch, n] of inputs [16, k] in bfloat16, of which `batch` rows count, on matrix units.

    With PACK the results, times `gain` with GAIN, are handed on in bfloat16 as well.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.arange(0, 16)
    columns = tl.arange(0, BK)
    first = tl.zeros([BN, 16], tl.float32)
    second = tl.zeros([BN, 16], tl.float32)
    kept = tl.minimum(rows, n - 1)
    here, there = kept[:, None].to(tl.int64), (kept[:, None] + n).to(tl.int64)
    for start in tl.range(0, k, BK, num_stages=STAGES):
        column = start + columns
        inside = column < k
        w = tl.load(weight + here * k + column[None, :], mask=inside[None, :], other=0.0)
        if GATED:
            u = tl.load(weight + there * k + column[None, :], mask=inside[None, :], other=0.0)
        v = tl.load(codes + row[None, :] * k + column[:, None], mask=inside[:, None], other=0.0).to(UNITS)
        first = tl.dot(_units(w), v, first)
        if GATED:
            second = tl.dot(_units(u), v, second)
    if SCALED:
        first = first * tl.load(scale + kept)[:, None]
        if GATED:
            second = second * tl.load(scale + n + kept)[:, None]
    if NORM:
        lane = tl.arange(0, SQUARES)[None, :]
        at = numbers + (row * 3 + 2)[:, None] * (k // 16) + lane
        squares = tl.sum(tl.load(at, mask=lane < k // 16, other=0.0), axis=1)
        factor = tl.rsqrt(squares / k + eps)
        first = first * factor[None, :]
        second = second * factor[None, :]
    if GATED:
        first = first / (1.0 + tl.exp(-first)) * second
    target = out + row[None, :].to(tl.int64) * n + rows[:, None]
    written = (row[None, :] < batch) & (rows[:, None] < n)
    if ADD:
        first = first + tl.load(target, mask=written, other=0.0)
    tl.store(target, first, mask=written)
    if PACK:
        times = first
        if GAIN:
            times = first * tl.load(gain + kept).to(tl.float32)[:, None]
        i = tl.arange(0, BN)  # as many blocks of 16 as outputs, in 16 rows
        block = tl.program_id(0) * (BN // 16) + i % (BN // 16)
        flat, raw = tl.reshape(tl.trans(times), [BN, 16]), tl.reshape(tl.trans(first), [BN, 16])
        inside = (i // (BN // 16) < batch) & (block * 16 < n)
        pack_blocks(flat, raw, next_codes, next_numbers, i // (BN // 16), block, inside, n)


@triton.jit
def embed(ids, table, out, gain, codes, numbers, width, PACK: tl.constexpr, BLOCK: tl.constexpr):
    """out [B, width] float32: the rows of a table that ids [B] name; with PACK, times `gain`, packed too."""
    row = tl.program_id(0)
    block = tl.program_id(1) * (BLOCK // 16) + tl.arange(0, BLOCK // 16)
    column = block[:, None] * 16 + tl.arange(0, 16)[None, :]
    inside = column < width
    token = tl.load(ids + row).to(tl.int64)
    value = tl.load(table + token * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, value, mask=inside)
    if PACK:
        times = value * tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
        pack_blocks(times, value, codes, numbers, row, block, block * 16 < width, width)
