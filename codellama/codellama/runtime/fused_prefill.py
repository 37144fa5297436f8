"""When a prompt's pass takes the fused kernels of `triton_prefill`, and how they are started.

They serve on a CUDA device, in bfloat16 or float16, where nothing is trained. torch's own attention is slower
there in one way or another: its cuDNN backend, first choice on Hopper since 2.11, takes some fifty
milliseconds for each new length to plan; FlashAttention-2 leaves processors idle for few queries. Before
their first use on a device the kernels are compared with float32; where they don't run or differ, a warning
says so once, and torch's own operations compute instead, slower and the same.
"""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codellama.runtime.rope import apply_rope

# A share of the keys has at least so many tiles, or merging costs more than it saves.
_LEAST_TILES = 16
_MOST_PARTS = 16
_GATE_WIDTH, _UNPACKED_ROWS = 1024, 32
_DTYPES = (torch.bfloat16, torch.float16)
_HEAD_DIMS = (16, 32, 64, 128, 256)
# What bfloat16 loses in a softmax and a rotation; a kernel that is wrong is far beyond.
_MOST_OFF = 0.02


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program of attention takes at once."""

    queries: int
    keys: int
    warps: int
    stages: int  # tiles of keys under way


# For many queries, and for few.
TILE, SMALL_TILE = Tile(128, 64, 8, 3), Tile(16, 64, 4, 3)

_log = logging.getLogger(__name__)


def serves(x: Tensor, head_dim: int, group: int) -> bool:
    """Whether attention and rotation of a pass over x [1, T, ...] are fused; `group` heads share keys."""
    if not _suits(x) or head_dim not in _HEAD_DIMS:
        return False
    return _trusted(functools.partial(attention_error, head_dim, group), x.device, x.dtype, head_dim, group)


def gates(x: Tensor) -> bool:
    """Whether `gated` serves for x [1, T, ...]."""
    return _suits(x) and _trusted(gate_error, x.device, x.dtype)


def unpacks(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether `unpacked` serves for packed keys or values [1, KV, S, D]."""
    if x.device.type != "cuda" or dtype not in _DTYPES or x.shape[-1] not in _HEAD_DIMS:
        return False
    return _trusted(functools.partial(unpacking_error, x.dtype), x.device, dtype, x.dtype)


def _suits(x: Tensor) -> bool:
    if x.device.type != "cuda" or x.dim() < 3 or torch.is_grad_enabled():
        return False
    return x.shape[0] == 1 and x.shape[1] > 1 and x.dtype in _DTYPES


# What `_trusted` has found.
_found: dict[tuple[object, ...], bool] = {}


def _trusted(error: Callable[[torch.device, torch.dtype], float], *key: Any) -> bool:
    """Whether a kernel runs on a device, in a dtype, and computes what float32 does; found once."""
    known = _found.get(key)
    if known is not None:
        return known
    device, dtype = key[:2]
    try:
        off = error(device, dtype)
    except Exception as refusal:  # noqa: BLE001 - no compiler, no memory, another GPU: torch computes instead
        _log.warning("A fused kernel does not run on this GPU (%s): prompts are read slower.", refusal)
        off = math.inf
    else:
        if not off <= _MOST_OFF:
            _log.warning("A fused kernel is off by %.3g on this GPU: prompts are read slower.", off)
    _found[key] = off <= _MOST_OFF
    return _found[key]


@torch.no_grad()
def attention_error(head_dim: int, group: int, device: torch.device, dtype: torch.dtype) -> float:
    """How far attention and rotation are off, relative to float32: for many and few queries, in parts or not.

    It compiles what prompts need.
    """
    chance = torch.Generator().manual_seed(0)

    def some(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=chance).to(device, dtype)

    found = []
    keys, values = some(1, 2, 1500, head_dim), some(1, 2, 1500, head_dim)
    for count, length, parts in ((300, 1111, 1), (300, 1111, 3), (5, 700, 2), (40, 40, 1), (9, 400, 1)):
        q, k, v = some(1, 2 * group, count, head_dim), keys[:, :, :length], values[:, :, :length]
        hidden = torch.ones(count, length, dtype=torch.bool, device=device).triu(length - count + 1)
        wide = [x.float().repeat_interleave(group, 1) for x in (k, v)]
        scores = q.float() @ wide[0].transpose(-1, -2) / math.sqrt(head_dim)
        expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ wide[1]
        found.append(_error(attend(q, k, v, parts), expected))
    x, angles = some(1, 7, 2 * group, head_dim), some(7, head_dim // 2).float()
    cos, sin = angles.cos(), angles.sin()
    for interleaved in (False, True):
        expected = apply_rope(x.float(), cos, sin, interleaved)
        found.append(_error(rotate(x, cos, sin, interleaved), expected))
    return max(found)


@torch.no_grad()
def gate_error(device: torch.device, dtype: torch.dtype) -> float:
    """How far `gated` is off, relative to float32."""
    chance = torch.Generator().manual_seed(0)
    gate, up = torch.randn(1, 7, 3000, generator=chance).to(device, dtype).chunk(2, dim=-1)
    return _error(gated(gate, up), functional.silu(gate.float()) * up.float())


@torch.no_grad()
def unpacking_error(packed: torch.dtype, device: torch.device, dtype: torch.dtype) -> float:
    """How far `unpacked` is off, relative to float32."""
    chance = torch.Generator().manual_seed(0)
    room = torch.randn(1, 3, 90, 64, generator=chance).mul_(20).to(device, packed)
    scale = torch.rand(1, 3, 90, 1, generator=chance).to(device)
    x, by = room[:, :, :77], scale[:, :, :77]
    return _error(unpacked(x, by, dtype), x.float() * by)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def attend(q: Tensor, k: Tensor, v: Tensor, parts: int | None = None) -> Tensor:
    """Causal attention of q [1, H, T, D] to k, v [1, KV, S, D], the queries being the last T of S positions.

    The keys are looked at in `parts` at the same time, by default in as many as fill the GPU. Any strides
    serve whose last is 1. Returns [1, H, T, D], the heads of a position side by side in memory.
    """
    from codellama.runtime.triton_prefill import attend_kernel

    _, heads, count, dim = q.shape
    length = k.shape[2]
    assert q.shape[0] == 1
    assert length >= count
    assert q.stride(3) == k.stride(3) == v.stride(3) == 1
    tile = TILE if count > SMALL_TILE.queries else SMALL_TILE
    tiles = -(-count // tile.queries)
    if parts is None:
        parts = _parts(tiles * heads, length // tile.keys, _processors(q.device))
    share = -(-length // (parts * tile.keys)) * tile.keys
    shape = (parts, count, heads, dim)
    out = torch.empty(shape, device=q.device, dtype=q.dtype if parts == 1 else torch.float32)
    heights = out if parts == 1 else torch.empty(shape[:3], device=q.device, dtype=torch.float32)
    attend_kernel[(tiles, heads, parts)](
        q,
        k,
        v,
        out,
        heights,
        *(stride for x in (q, k, v) for stride in x.stride()[1:3]),
        count,
        length,
        heads,
        share,
        dim**-0.5 * math.log2(math.e),
        GROUP=heads // k.shape[1],
        D=dim,
        M=tile.queries,
        N=tile.keys,
        SPLIT=parts > 1,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    mixed = out if parts == 1 else merged(out, heights)[None].to(q.dtype)
    return mixed.transpose(1, 2)


def merged(parts: Tensor, heights: Tensor) -> Tensor:
    """Softmaxes over shares of the keys as one, [T, H, D] float32.

    `parts` [P, T, H, D] are the shares' own, `heights` [P, T, H] the logarithms (base 2) of their sums.
    """
    weights = torch.exp2(heights - heights.amax(0))
    return (parts * (weights / weights.sum(0))[..., None]).sum(0)


@functools.cache
def _parts(programs: int, tiles: int, processors: int) -> int:
    """In how many shares the keys are looked at: the fewest that leave no fifth of the processors idle."""
    best, most = 1, 0.0
    for parts in range(1, min(_MOST_PARTS, max(1, tiles // _LEAST_TILES)) + 1):
        rounds = -(-programs * parts // processors)
        busy = programs * parts / (rounds * processors)
        if busy > most + 0.02:
            best, most = parts, busy
        if busy >= 0.8:
            break
    return best


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """As `rope.apply_rope`: x [1, T, H, D], whose heads lie side by side, by tables [T, D / 2]."""
    from codellama.runtime.triton_prefill import rotate_kernel

    _, count, heads, dim = x.shape
    assert x.shape[0] == 1
    assert x.stride()[2:] == (dim, 1)
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    out = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    block = min(16, 1 << (heads - 1).bit_length())
    rotate_kernel[(count, -(-heads // block))](
        x, cos, sin, out, x.stride(1), heads, HALF=dim // 2, HEADS=block, INTERLEAVED=interleaved
    )
    return out


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both [1, T, F], in one pass over memory."""
    from codellama.runtime.triton_prefill import gate_kernel

    _, count, width = gate.shape
    assert gate.shape[0] == 1
    assert gate.stride(2) == up.stride(2) == 1
    out = torch.empty(gate.shape, device=gate.device, dtype=gate.dtype)
    gate_kernel[(count, -(-width // _GATE_WIDTH))](
        gate, up, out, gate.stride(1), up.stride(1), width, SIZE=_GATE_WIDTH
    )
    return out


def unpacked(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Packed keys or values [1, KV, S, D], a cache's, times their scales [1, KV, S, 1], in one pass."""
    from codellama.runtime.triton_prefill import unpack_kernel

    _, heads, count, dim = x.shape
    assert x.shape[0] == 1
    assert x.stride()[2:] == (dim, 1)
    assert scale.stride(2) == 1
    out = torch.empty(x.shape, device=x.device, dtype=dtype)
    unpack_kernel[(-(-count // _UNPACKED_ROWS), heads)](
        x, scale, out, x.stride(1), scale.stride(1), count, D=dim, ROWS=_UNPACKED_ROWS
    )
    return out
