"""Triton kernels: products of one row with a weight matrix, which read the weights once and write no more.

A decode step is bound by reading weights, so all that stands around a product is done in passing: the
RMSNorm before it (a factor that is known only after the loop), SwiGLU between two of them, the sum with
what was there. Activations are float32; weights are float, int8, fp8 or int4. What is launched with which
numbers stands in `fused_step`; products of several rows in `triton_batch`. With TRITON_INTERPRET=1 the
kernels run on a CPU: so they are tested.
"""

# mypy: ignore-errors
# ruff: noqa: N803, PLR0913, PLR0917, PLR0912 - a kernel's language, not Python's

import triton
import triton.language as tl

# Bits of an integer where a float's fraction stands are that integer times 2^-149; inputs times UP make
# products of them that are no longer so small, in units of UNIT.
UP = tl.constexpr(2.0**96)
UNIT = tl.constexpr(2.0**-53)


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
def _stretch(row, start, columns, k, EVEN: tl.constexpr):
    """Some columns of one row as float32, as far as there are any."""
    if EVEN:
        return tl.load(row + start + columns).to(tl.float32)
    return tl.load(row + start + columns, mask=start + columns < k, other=0.0).to(tl.float32)


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
):
    """out [n] of x [k] and weight [n or 2n, k] in float, int8 or fp8; a program sums BN outputs."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    columns = tl.arange(0, BK)
    here = weight + rows[:, None].to(tl.int64) * k + columns[None, :]
    there = weight + (rows[:, None] + n).to(tl.int64) * k + columns[None, :]
    first = tl.zeros([BN, BK], tl.float32)
    second = tl.zeros([BN, BK], tl.float32)
    squares = tl.zeros([BK], tl.float32)
    whole = tl.zeros([BK], tl.float32)
    if AHEAD:
        next_w = _part(here, 0, columns, k, EVEN)
        if GATED:
            next_u = _part(there, 0, columns, k, EVEN)
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
        v = _stretch(x, start, columns, k, EVEN)
        if NORM:
            g = _stretch(gain, start, columns, k, EVEN)
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
def _four_bits(w, scales, x0, x1, x2, x3, x4, x5, x6, x7, whole):
    """What words [BN, BW] of eight weights add to the sums, in units of 2^-53.

    A nibble where it stands is a float below the least exponent, q 2^(b - 149), so no instruction converts
    it: its input carries 2^(96 - b) for that. `whole` is the sum of the eight inputs.
    """
    down = w >> 12
    p = (w & 0xF).to(tl.float32, bitcast=True) * x0[None, :]
    p += (w & 0xF0).to(tl.float32, bitcast=True) * x1[None, :]
    p += (w & 0xF00).to(tl.float32, bitcast=True) * x2[None, :]
    p += (w & 0xF000).to(tl.float32, bitcast=True) * x3[None, :]
    p += (w & 0xF0000).to(tl.float32, bitcast=True) * x4[None, :]
    p += (down & 0xF00).to(tl.float32, bitcast=True) * x5[None, :]
    p += (down & 0xF000).to(tl.float32, bitcast=True) * x6[None, :]
    p += (down & 0xF0000).to(tl.float32, bitcast=True) * x7[None, :]
    step = (scales << 16).to(tl.float32, bitcast=True)
    middle = (scales & -65536).to(tl.float32, bitcast=True)
    return step * p + (middle - 8.0 * step) * whole[None, :]


@triton.jit
def _input(x, gain, place, inside, NORM: tl.constexpr):
    """Inputs at some places, what they are multiplied with, and their squares."""
    v = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    square = v * v
    if NORM:
        v = v * tl.load(gain + place, mask=inside, other=0.0).to(tl.float32)
    return v, square


@triton.jit
def _words(weight, scales, row, start, j, words, groups, GROUP: tl.constexpr):
    """Some words of some rows with their scales, as far as there are any."""
    word = start + j
    inside = (word < words)[None, :]
    w = tl.load(weight + row * words + word[None, :], mask=inside, other=0)
    s = tl.load(scales + row * groups + word[None, :] // (GROUP // 8), mask=inside, other=0)
    return w, s


@triton.jit
def int4_one(
    x,
    gain,
    weight,
    scales,
    out,
    n,
    k,
    words,
    eps,
    GROUP: tl.constexpr,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    ADD: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """out [n] of x [k] and words [n or 2n, k / 8], scales [n or 2n, k / GROUP] of two bfloat16 each."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    groups = k // GROUP
    j = tl.arange(0, BW)
    first = tl.zeros([BN, BW], tl.float32)
    second = tl.zeros([BN, BW], tl.float32)
    squares = tl.zeros([BW], tl.float32)
    row, up_row = rows[:, None].to(tl.int64), (rows[:, None] + n).to(tl.int64)
    if AHEAD:
        next_w, next_s = _words(weight, scales, row, 0, j, words, groups, GROUP)
        if GATED:
            next_u, next_t = _words(weight, scales, up_row, 0, j, words, groups, GROUP)
    for start in tl.range(0, words, BW, num_stages=STAGES):
        word = start + j
        inside = word < words
        if AHEAD:
            w, s = next_w, next_s
            next_w, next_s = _words(weight, scales, row, start + BW, j, words, groups, GROUP)
            if GATED:
                u, t = next_u, next_t
                next_u, next_t = _words(weight, scales, up_row, start + BW, j, words, groups, GROUP)
        else:
            w, s = _words(weight, scales, row, start, j, words, groups, GROUP)
            if GATED:
                u, t = _words(weight, scales, up_row, start, j, words, groups, GROUP)
        place = word // 32 * 256 + word % 32
        x0, q0 = _input(x, gain, place + 0, inside, NORM)
        x1, q1 = _input(x, gain, place + 32, inside, NORM)
        x2, q2 = _input(x, gain, place + 64, inside, NORM)
        x3, q3 = _input(x, gain, place + 96, inside, NORM)
        x4, q4 = _input(x, gain, place + 128, inside, NORM)
        x5, q5 = _input(x, gain, place + 160, inside, NORM)
        x6, q6 = _input(x, gain, place + 192, inside, NORM)
        x7, q7 = _input(x, gain, place + 224, inside, NORM)
        squares += q0 + q1 + q2 + q3 + q4 + q5 + q6 + q7
        whole = (x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7) * UNIT
        x0, x1, x2, x3 = x0 * UP, x1 * (UP / 16), x2 * (UP / 256), x3 * (UP / 4096)
        x4, x5, x6, x7 = x4 * (UP / 65536), x5 * (UP / 256), x6 * (UP / 4096), x7 * (UP / 65536)
        first += _four_bits(w, s, x0, x1, x2, x3, x4, x5, x6, x7, whole)
        if GATED:
            second += _four_bits(u, t, x0, x1, x2, x3, x4, x5, x6, x7, whole)
    total, other = tl.sum(first, axis=1) / UNIT, tl.sum(second, axis=1) / UNIT
    _finish(out, rows, total, other, squares, k, eps, GATED, NORM, ADD)


@triton.jit
def embed(ids, table, out, width, BLOCK: tl.constexpr):
    """out [B, width] float32: the rows of a table that ids [B] name."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    token = tl.load(ids + row).to(tl.int64)
    value = tl.load(table + token * width + column, mask=inside, other=0.0)
    tl.store(out + row * width + column, value.to(tl.float32), mask=inside)
