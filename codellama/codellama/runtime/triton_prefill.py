"""Triton kernels of a prompt's pass: attention behind a cached past, rotation, SwiGLU's gate, packed keys.

Imported only where there is a GPU; `fused_prefill` starts them, checks them, and says when they serve. Sums
are in float32, results in the dtype of what they are written to.
"""

# mypy: ignore-errors
# ruff: noqa: N803, PLR0913, PLR0917 - a kernel's language, not Python's

import triton
import triton.language as tl


@triton.jit
def _tile(x, row_stride, place, length, BOUND: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Keys or values [N, D] from `place` on; with BOUND those behind `length` are 0."""
    rows = place + tl.arange(0, N)
    at = x + rows[:, None] * row_stride + tl.arange(0, D)[None, :]
    if BOUND:
        tile = tl.load(at, mask=(rows < length)[:, None], other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def _seen(
    queries, k, v, k_row, v_row, first, last, start, rows, length, scale, peak, total, mixed,
    EDGE: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The softmax so far, and the keys from `first` to `last`; with EDGE not all queries see all of them."""
    for place in range(first, last, N):
        keys = _tile(k, k_row, place, length, EDGE, N, D)
        scores = tl.dot(queries, keys.T)  # [M, N]
        if EDGE:
            seen = (place + tl.arange(0, N))[None, :] <= start + rows[:, None]
            scores = tl.where(seen, scores, float("-inf"))
        top = tl.maximum(peak, tl.max(scores, 1) * scale)
        # A query that has seen nothing yet has no top.
        base = tl.where(top == float("-inf"), 0.0, top) if EDGE else top
        weights = tl.math.exp2(scores * scale - base[:, None])
        kept = tl.math.exp2(peak - base)
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None]
        values = _tile(v, v_row, place, length, EDGE, N, D)
        mixed = tl.dot(weights.to(values.dtype), values, mixed)
        peak = top
    return peak, total, mixed


# Not compiled anew for lengths that sixteen divides.
@triton.jit(do_not_specialize=["count", "length"])
def attend_kernel(
    q, k, v, out, heights, q_head, q_row, k_head, k_row, v_head, v_row, count, length, heads, share, scale,
    GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Causal attention of the last `count` of `length` positions, M queries of a head in each program.

    FlashAttention-2 (arXiv 2307.08691): scores stay on the chip. Keys are read where the cache has them,
    GROUP query heads from the same. With SPLIT, a program sees `share` keys only, and leaves the logarithm
    (base 2) of its softmax's sum in `heights` [parts, count, heads], for the parts to be merged by; out is
    [parts, count, heads, D]. `scale` has log2(e) in it.
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    part = tl.program_id(2)
    start = length - count
    shared = head // GROUP
    rows = tile * M + tl.arange(0, M)
    dims = tl.arange(0, D)
    inside = rows < count
    q += head.to(tl.int64) * q_head
    k += shared.to(tl.int64) * k_head
    v += shared.to(tl.int64) * v_head
    queries = tl.load(q + rows[:, None] * q_row + dims[None, :], mask=inside[:, None], other=0.0)
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    mixed = tl.zeros([M, D], tl.float32)
    first = part * share  # a multiple of N
    last = tl.minimum(first + share, tl.minimum(start + (tile + 1) * M, length))
    # All queries of the tile see the keys before `whole`.
    whole = tl.maximum(first, tl.minimum(last, (start + tile * M + 1) // N * N))
    peak, total, mixed = _seen(
        queries, k, v, k_row, v_row, first, whole, start, rows, length, scale, peak, total, mixed, False, N, D
    )
    peak, total, mixed = _seen(
        queries, k, v, k_row, v_row, whole, last, start, rows, length, scale, peak, total, mixed, True, N, D
    )
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    row = (part * count + rows).to(tl.int64) * heads + head
    tl.store(out + row[:, None] * D + dims[None, :], mixed.to(out.dtype.element_ty), mask=inside[:, None])
    if SPLIT:
        # log2(0) is -inf: a part in which a query sees nothing weighs nothing.
        tl.store(heights + row, peak + tl.math.log2(total), mask=inside)


@triton.jit
def rotate_kernel(
    x, cos, sin, out, x_row, heads, HALF: tl.constexpr, HEADS: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """One position of x [T, heads, 2 * HALF] turned by its angles, as `rope.apply_rope` turns it."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    inside = head < heads
    if INTERLEAVED:
        place = head * (2 * HALF) + 2 * pair
        other = place + 1
    else:
        place = head * (2 * HALF) + pair
        other = place + HALF
    c = tl.load(cos + row * HALF + pair)
    s = tl.load(sin + row * HALF + pair)
    real = tl.load(x + row * x_row + place, mask=inside, other=0.0).to(tl.float32)
    imaginary = tl.load(x + row * x_row + other, mask=inside, other=0.0).to(tl.float32)
    out += row * heads * (2 * HALF)
    tl.store(out + place, (real * c - imaginary * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + other, (imaginary * c + real * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_kernel(gate, up, out, gate_row, up_row, width, SIZE: tl.constexpr):
    """silu(gate) * up, of a row's next SIZE numbers."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = place < width
    g = tl.load(gate + row * gate_row + place, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + place, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])
def unpack_kernel(
    x, scale, out, x_head, scale_head, count, D: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Keys or values of ROWS positions of a head [KV, count, D] times their scales [KV, count]."""
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = rows.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    inside = rows < count
    wide = tl.load(x + head * x_head + at, mask=inside[:, None], other=0.0).to(tl.float32)
    by = tl.load(scale + head * scale_head + rows, mask=inside, other=0.0)
    to = out + head * count.to(tl.int64) * D + at
    tl.store(to, (wide * by[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
