"""Triton kernels: products of a few rows with int8 and int4 weights that no instruction converts.

Activations stand in two halves of int8, as `linear.split_int8` makes them, each block of 16 with a step of
its own, so that four products are one instruction and their sums are exact integers; each kernel packs what
it writes for the next. A weight matrix is read once, by whole blocks; all that stands around a product is
done in passing, as in `triton_products`. How int4 weights lie is told in `int4`.
"""

# mypy: ignore-errors
# ruff: noqa: N803, N806, PLR0912, PLR0913, PLR0915, PLR0917, RET505, RUF005 - a kernel's language, not Python's

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# Four products as one instruction, which the interpreter and other makers' GPUs have not.
FOUR = tl.constexpr(not triton.knobs.runtime.interpret and torch.version.hip is None)


@triton.jit
def _byte(w, place: tl.constexpr):
    """A word's byte as a signed number."""
    return (w << (24 - 8 * place)) >> 24


@triton.jit
def _four(w, c):
    """Sums of the products of four bytes, signed."""
    if FOUR:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, 0;", "=r,r,r", [w, c], dtype=tl.int32, is_pure=True, pack=1
        )
    total = _byte(w, 0) * _byte(c, 0) + _byte(w, 1) * _byte(c, 1)
    return total + _byte(w, 2) * _byte(c, 2) + _byte(w, 3) * _byte(c, 3)


@triton.jit
def _dots(w, coarse, fine):
    """Words of weights [N, B, 4] with halves [B, 4]: sums of 16 products [N, B], in steps / 254."""
    return tl.sum(_four(w, coarse[None]) * 254 + _four(w, fine[None]), axis=2).to(tl.float32)


@triton.jit
def _load(at, inside, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(at)
    return tl.load(at, mask=inside, other=0)


@triton.jit
def _halves(codes, at, words, inside, EVEN: tl.constexpr):
    """Some words [B, 4] of both halves of one row's inputs."""
    return _load(codes + at, inside, EVEN), _load(codes + words + at, inside, EVEN)


@triton.jit
def _inputs(codes, numbers, row, k, block, inside, GROUP: tl.constexpr, EVEN: tl.constexpr):
    """What one row's inputs [k] are multiplied with, by blocks of 16, or 32 where weights have four bits."""
    t = tl.arange(0, 4)[None, :]
    words = k // 4
    codes += row * 2 * words
    numbers += row * 3 * (k // 16)
    if GROUP:
        at = block[:, None] * 8 + t
        c, f = _halves(codes, at, words, inside[:, None], EVEN)
        d, g = _halves(codes, at + 4, words, inside[:, None], EVEN)
        s = _load(numbers + 2 * block, inside, EVEN)
        v = _load(numbers + 2 * block + 1, inside, EVEN)
        sums = numbers + k // 16 + 2 * block
        return c, f, d, g, s, v, _load(sums, inside, EVEN) + _load(sums + 1, inside, EVEN)
    else:  # or the kernel's compiler looks at both
        c, f = _halves(codes, block[:, None] * 4 + t, words, inside[:, None], EVEN)
        s = _load(numbers + block, inside, EVEN)
        return c, f, c, f, s, s, s


@triton.jit
def _weights(weight, scale, rows, k, block, inside, GROUP: tl.constexpr, EVEN: tl.constexpr):
    """Words [N, B, 4] of some rows of weights, and their scales where they have four bits."""
    t = tl.arange(0, 4)
    SIZE: tl.constexpr = 32 if GROUP else 16
    place = block[None, :, None] * 4 + t[None, None, :]
    w = _load(
        weight + rows[:, None, None].to(tl.int64) * (k // SIZE * 4) + place, inside[None, :, None], EVEN
    )
    if GROUP:
        group = block[None, :] // (GROUP // 32)
        return w, _load(scale + rows[:, None] * (k // GROUP) + group, inside[None, :], EVEN)
    else:
        return w, w


@triton.jit
def _added(w, scales, x, GROUP: tl.constexpr):
    """What words [N, B, 4] add to the sums [N, B] of one row."""
    if GROUP:
        dots = _dots(w & 0x0F0F0F0F, x[0], x[1]) * x[4][None]
        dots += _dots((w >> 4) & 0x0F0F0F0F, x[2], x[3]) * x[5][None]
        step = (scales << 16).to(tl.float32, bitcast=True)
        middle = (scales & -65536).to(tl.float32, bitcast=True)
        return step * dots + (middle - 8.0 * step) * x[6][None]
    return _dots(w, x[0], x[1]) * x[4][None]


@triton.jit
def pack_blocks(v, raw, codes, numbers, row, block, inside, width):
    """Blocks v [B, 16] of some rows for the next product, with the squares of `raw`.

    codes [rows, 2, width] are two halves of int8, numbers [rows, 3, width / 16] float32 their steps, sums and
    squares; or codes [rows, width] are in bfloat16, with squares alone.
    """
    blocks = width // 16
    at = numbers + row * 3 * blocks + block
    tl.store(at + 2 * blocks, tl.sum(raw * raw, axis=1), mask=inside)
    if codes.dtype.element_ty == tl.int8:
        _pack_halves(v, codes, at, row, block, inside, width)
    else:
        place = (row * width + block * 16)[:, None] + tl.arange(0, 16)[None, :]
        tl.store(codes + place, v.to(tl.bfloat16), mask=inside[:, None])


@triton.jit
def _pack_halves(v, codes, at, row, block, inside, width):
    step = tl.maximum(tl.max(tl.abs(v), axis=1), 1e-30) / 127.0
    scaled = v / step[:, None]
    coarse = (scaled + 12582912.0) - 12582912.0  # to the nearest even
    fine = ((scaled - coarse) * 254.0 + 12582912.0) - 12582912.0
    place = (row * 2 * width + block * 16)[:, None] + tl.arange(0, 16)[None, :]
    tl.store(codes + place, coarse.to(tl.int8), mask=inside[:, None])
    tl.store(codes + place + width, fine.to(tl.int8), mask=inside[:, None])
    tl.store(at, step / 254.0, mask=inside)
    tl.store(at + width // 16, tl.sum(v, axis=1), mask=inside)


@triton.jit
def integer_product(
    codes,
    numbers,
    weight,
    scale,
    out,
    gain,
    next_codes,
    next_numbers,
    n,
    k,
    eps,
    GROUP: tl.constexpr,
    GATED: tl.constexpr,
    NORM: tl.constexpr,
    ADD: tl.constexpr,
    PACK: tl.constexpr,
    GAIN: tl.constexpr,
    EVEN: tl.constexpr,
    R: tl.constexpr,
    BN: tl.constexpr,
    BB: tl.constexpr,
    SQUARES: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [rows, n] of packed inputs [rows, k] and weights [n or 2n, k], for R rows and BN outputs.

    Programs of the same weights are neighbours, which find them in the GPU's cache.

    GROUP is 0 for int8, or how many weights of four bits share a scale. With PACK the results, times `gain`
    with GAIN, are packed as well, in blocks of 16 outputs.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    rows = tl.program_id(1) * BN + tl.arange(0, BN)
    b = tl.arange(0, BB)
    blocks = k // (32 if GROUP else 16)
    first, second = (), ()
    for _ in tl.static_range(R):
        first = first + (tl.zeros([BN, BB], tl.float32),)
        second = second + (tl.zeros([BN, BB], tl.float32),)
    for start in tl.range(0, blocks, BB, num_stages=STAGES):
        block = start + b
        inside = block < blocks
        w, q = _weights(weight, scale, rows, k, block, inside, GROUP, EVEN)
        u, p = w, q
        if GATED:
            u, p = _weights(weight, scale, rows + n, k, block, inside, GROUP, EVEN)
        sums, others = (), ()
        for r in tl.static_range(R):
            x = _inputs(codes, numbers, tl.program_id(0) * R + r, k, block, inside, GROUP, EVEN)
            sums = sums + (first[r] + _added(w, q, x, GROUP),)
            if GATED:
                others = others + (second[r] + _added(u, p, x, GROUP),)
        first = sums
        if GATED:
            second = others
    for r in tl.static_range(R):
        row = tl.program_id(0) * R + r
        total, other = tl.sum(first[r], axis=1), tl.sum(second[r], axis=1)
        if GROUP == 0:
            total = total * tl.load(scale + rows)
            if GATED:
                other = other * tl.load(scale + n + rows)
        if NORM:
            lane = tl.arange(0, SQUARES)
            at = numbers + row * 3 * (k // 16) + 2 * (k // 16) + lane
            squares = tl.load(at, mask=lane < k // 16, other=0.0)
            factor = tl.rsqrt(tl.sum(squares, axis=0) / k + eps)
            total = total * factor
            other = other * factor
        if GATED:
            total = total / (1.0 + tl.exp(-total)) * other
        target = out + row * n + rows
        if ADD:
            total = total + tl.load(target)
        tl.store(target, total)
        if PACK:
            times = total
            if GAIN:
                times = total * tl.load(gain + rows).to(tl.float32)
            i = tl.arange(0, BN // 16)
            flat, raw = tl.reshape(times, [BN // 16, 16]), tl.reshape(total, [BN // 16, 16])
            block = tl.program_id(1) * (BN // 16) + i
            pack_blocks(flat, raw, next_codes, next_numbers, row, block, i < BN // 16, n)
