"""Triton kernels: one new position's attention to what a cache holds, in one launch.

A cache is split among programs, each with a softmax of its own; the one that finishes last puts the parts
together. Keys and values are read as they are kept: in the model's dtype, int8 or fp8. The first part also
turns the new key, packs it and its value, and writes them to the cache. Where a sequence's cache lies and
how far it is filled is read from memory, so that one CUDA graph serves every cache and length.
"""

# mypy: ignore-errors
# ruff: noqa: N803, N806, PLR0913, PLR0917 - a kernel's language, not Python's

import triton
import triton.language as tl

from codellama.runtime.triton_batch import UNITS

# What a row of the table tells of a sequence, int64: addresses of keys, values and their scales, how many
# positions there is room for, how many are filled, addresses of the tables of cosines and sines.
FIELDS = 8


@triton.jit
def _turned(base, place, cosines, sines, D: tl.constexpr, INTERLEAVED: tl.constexpr, inside):
    """Heads turned to their position; `place` counts from `base`, its last axis along a head."""
    d = place % D
    if INTERLEAVED:
        pair = place - d + (d ^ 1)
        angle = d // 2
        first = d % 2 == 0
    else:
        pair = place - d + (d + D // 2) % D
        angle = d % (D // 2)
        first = d < D // 2
    mine = tl.load(base + place, mask=inside, other=0.0)
    other = tl.load(base + pair, mask=inside, other=0.0)
    c, s = tl.load(cosines + angle), tl.load(sines + angle)
    return mine * c + tl.where(first, -other, other) * s


@triton.jit
def _pack(x, CACHE: tl.constexpr, EIGHT: tl.constexpr):
    """One head [D] as a cache keeps it, and its scale: `cache.pack`. EIGHT: 1 for int8, 2 for fp8."""
    scale = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-30)
    if EIGHT == 1:
        scale = scale / 127.0
        steps = x / scale
        packed = ((steps + 12582912.0) - 12582912.0).to(tl.int8)  # to the nearest even
    elif EIGHT == 2:
        scale = scale / 448.0
        packed = (x / scale).to(tl.float8e4nv)
    else:
        scale = scale * 0.0 + 1.0
        packed = x.to(CACHE)
    return packed, scale


@triton.jit
def _sequence(table, row, layer, head, KV: tl.constexpr, D: tl.constexpr, CACHE: tl.constexpr):
    """Where a head's keys, values and scales begin, and how many positions are filled."""
    entry = table + row * 8
    room = tl.load(entry + 4)
    first = (layer * KV + head).to(tl.int64) * room
    keys = tl.multiple_of(tl.load(entry).to(tl.pointer_type(CACHE)), 16) + first * D
    values = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(CACHE)), 16) + first * D
    key_scales = tl.load(entry + 2).to(tl.pointer_type(tl.float32)) + first
    value_scales = tl.load(entry + 3).to(tl.pointer_type(tl.float32)) + first
    return keys, values, key_scales, value_scales, tl.load(entry + 5).to(tl.int32)


@triton.jit
def _angles(table, row, filled, D: tl.constexpr):
    """The rows of cosines and sines of the new position."""
    at = filled.to(tl.int64) * (D // 2)
    cosines = tl.load(table + row * 8 + 6).to(tl.pointer_type(tl.float32)) + at
    sines = tl.load(table + row * 8 + 7).to(tl.pointer_type(tl.float32)) + at
    return cosines, sines


@triton.jit
def _share(filled, split, S: tl.constexpr, BLOCK: tl.constexpr):
    """Where a program's positions begin and end, of those that are filled."""
    chunk = tl.cdiv(tl.cdiv(filled, S), BLOCK) * BLOCK
    begin = split * chunk
    return begin, tl.minimum(begin + chunk, filled)


@triton.jit
def _add(
    keys,
    values,
    key_scales,
    value_scales,
    filled,
    qkv,
    head,
    cosines,
    sines,
    KV: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    CACHE: tl.constexpr,
    EIGHT: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """Writes the new position's key and value to the cache; returns them, packed, with their scales."""
    d = tl.arange(0, D)
    k = _turned(qkv + (H + head) * D, d, cosines, sines, D, INTERLEAVED, d < D)
    v = tl.load(qkv + (H + KV + head) * D + d)
    key, key_scale = _pack(k, CACHE, EIGHT)
    value, value_scale = _pack(v, CACHE, EIGHT)
    at = filled.to(tl.int64)
    tl.store(keys + at * D + d, key)
    tl.store(values + at * D + d, value)
    if EIGHT:
        tl.store(key_scales + at, key_scale)
        tl.store(value_scales + at, value_scale)
    return key, value, key_scale, value_scale


@triton.jit
def _join(
    parts, tops, counts, out, row, head, S: tl.constexpr, KV: tl.constexpr, G: tl.constexpr, D: tl.constexpr
):
    """The parts' softmaxes as one, by the last program of a head; the count begins anew."""
    tl.debug_barrier()
    arrived = tl.atomic_add(counts + row * KV + head, 1, sem="acq_rel", scope="gpu")
    if arrived == S - 1:
        s, d = tl.arange(0, S), tl.arange(0, D)
        for g in tl.static_range(G):
            at = ((row * KV + head) * G + g) * S + s
            top, total = tl.load(tops + 2 * at), tl.load(tops + 2 * at + 1)
            factor = tl.exp2(top - tl.max(top, axis=0))
            some = total > 0
            part = tl.load(parts + at[:, None] * D + d[None, :], mask=some[:, None], other=0.0)
            mixed = tl.sum(part * factor[:, None], axis=0) / tl.sum(total * factor, axis=0)
            tl.store(out + ((row * KV + head) * G + g) * D + d, mixed)
        tl.store(counts + row * KV + head, 0)


@triton.jit(do_not_specialize=["layer"])
def attend_one(
    qkv,
    table,
    parts,
    tops,
    counts,
    out,
    layer,
    factor,
    S: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    CACHE: tl.constexpr,
    EIGHT: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Where every query head has keys of its own: qkv [B, 3 KV D] float32 to out [B, KV D].

    Every row of a block of positions has a softmax of its own until the end, so that no program waits for
    its threads within the loop. `factor` is the scores' scale in powers of two.
    """
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    keys, values, key_scales, value_scales, filled = _sequence(table, row, layer, head, KV, D, CACHE)
    cosines, sines = _angles(table, row, filled, D)
    qkv += row * 3 * KV * D
    d, lane = tl.arange(0, D), tl.arange(0, BLOCK)
    q = _turned(qkv + head * D, d, cosines, sines, D, INTERLEAVED, d < D) * factor
    begin, end = _share(filled, split, S, BLOCK)
    top = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mixed = tl.zeros([BLOCK, D], tl.float32)
    if split == 0:
        key, value, key_scale, value_scale = _add(
            keys, values, key_scales, value_scales, filled, qkv, head, cosines, sines,
            KV, KV, D, CACHE, EIGHT, INTERLEAVED,
        )  # fmt: skip
        score = tl.sum(q * key.to(tl.float32), axis=0) * key_scale
        own = lane == 0
        top = tl.where(own, score, top)
        total = tl.where(own, 1.0, total)
        mixed = tl.where(own[:, None], (value.to(tl.float32) * value_scale)[None, :], mixed)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        at = start + lane
        inside = at < end
        place = at[:, None].to(tl.int64) * D + d[None, :]
        k = tl.load(keys + place, mask=inside[:, None], other=0.0)
        v = tl.load(values + place, mask=inside[:, None], other=0.0)
        score = tl.sum(k.to(tl.float32) * q[None, :], axis=1)
        if EIGHT:
            score = score * tl.load(key_scales + at, mask=inside, other=0.0)
        score = tl.where(inside, score, -1e30)
        higher = tl.maximum(top, score)
        p = tl.where(inside, tl.exp2(score - higher), 0.0)
        less = tl.exp2(top - higher)
        total = total * less + p
        if EIGHT:
            p = p * tl.load(value_scales + at, mask=inside, other=0.0)
        mixed = mixed * less[:, None] + v.to(tl.float32) * p[:, None]
        top = higher
    highest = tl.max(top, axis=0)
    share = tl.exp2(top - highest)
    at = (row * KV + head) * S + split
    tl.store(parts + at * D + d, tl.sum(mixed * share[:, None], axis=0))
    tl.store(tops + 2 * at, highest)
    tl.store(tops + 2 * at + 1, tl.sum(total * share, axis=0))
    _join(parts, tops, counts, out, row, head, S, KV, 1, D)


@triton.jit(do_not_specialize=["layer"])
def attend_groups(
    qkv,
    table,
    parts,
    tops,
    counts,
    out,
    layer,
    factor,
    S: tl.constexpr,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    CACHE: tl.constexpr,
    EIGHT: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Where G query heads share keys: the same on matrix units, qkv [B, (G + 2) KV D] to out [B, G KV D]."""
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    keys, values, key_scales, value_scales, filled = _sequence(table, row, layer, head, KV, D, CACHE)
    cosines, sines = _angles(table, row, filled, D)
    H: tl.constexpr = KV * G
    qkv += row * (H + 2 * KV) * D
    d, lane, g = tl.arange(0, D), tl.arange(0, BLOCK), tl.arange(0, 16)
    heads = g[:, None] * D + d[None, :]
    q = _turned(qkv + head * G * D, heads, cosines, sines, D, INTERLEAVED, (g < G)[:, None]) * factor
    begin, end = _share(filled, split, S, BLOCK)
    top = tl.full([16], -1e30, tl.float32)
    total = tl.zeros([16], tl.float32)
    mixed = tl.zeros([16, D], tl.float32)
    if split == 0:
        key, value, key_scale, value_scale = _add(
            keys, values, key_scales, value_scales, filled, qkv, head, cosines, sines,
            KV, H, D, CACHE, EIGHT, INTERLEAVED,
        )  # fmt: skip
        top = tl.sum(q * key.to(tl.float32)[None, :], axis=1) * key_scale
        total += 1.0
        mixed += (value.to(tl.float32) * value_scale)[None, :]
    q = q.to(tl.bfloat16).to(UNITS)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        at = start + lane
        inside = at < end
        place = at[:, None].to(tl.int64) * D + d[None, :]
        k = tl.load(keys + place, mask=inside[:, None], other=0.0).to(tl.float32).to(tl.bfloat16).to(UNITS)
        v = tl.load(values + place, mask=inside[:, None], other=0.0).to(tl.float32).to(tl.bfloat16).to(UNITS)
        score = tl.dot(q, tl.trans(k))  # [16, BLOCK]
        if EIGHT:
            score = score * tl.load(key_scales + at, mask=inside, other=0.0)[None, :]
        score = tl.where(inside[None, :], score, -1e30)
        higher = tl.maximum(top, tl.max(score, axis=1))
        p = tl.where(inside[None, :], tl.exp2(score - higher[:, None]), 0.0)
        less = tl.exp2(top - higher)
        total = total * less + tl.sum(p, axis=1)
        if EIGHT:
            p = p * tl.load(value_scales + at, mask=inside, other=0.0)[None, :]
        mixed = tl.dot(p.to(tl.bfloat16).to(UNITS), v, mixed * less[:, None])
        top = higher
    at = ((row * KV + head) * G + g) * S + split
    tl.store(parts + at[:, None] * D + d[None, :], mixed, mask=(g < G)[:, None])
    tl.store(tops + 2 * at, top, mask=g < G)
    tl.store(tops + 2 * at + 1, total, mask=g < G)
    _join(parts, tops, counts, out, row, head, S, KV, G, D)
