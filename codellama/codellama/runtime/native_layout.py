"""The structures of `native.c`, and weights and memory as it reads them."""

import ctypes

import torch
from torch import Tensor

from codellama.runtime.linear import Int4Linear, Int8Linear

# What outputs are padded to: two vectors of 16 lanes.
OUTPUTS = 32
# Activations of a row that share a step.
_GROUP = 32


class LinearStruct(ctypes.Structure):
    """`linear`: packed weights."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
    )


class LayerStruct(ctypes.Structure):
    """`layer`."""

    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("feed_forward_norm", ctypes.c_void_p),
        ("qkv", LinearStruct),
        ("o", LinearStruct),
        ("gate_up", LinearStruct),
        ("down", LinearStruct),
    )


class ModelStruct(ctypes.Structure):
    """`model`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("dim", "layers", "heads", "kv_heads", "head_dim", "ffn")),
        ("eps", ctypes.c_float),
        ("embedding", ctypes.c_void_p),
        ("layer", ctypes.POINTER(LayerStruct)),
        ("norm", ctypes.c_void_p),
        ("head", LinearStruct),
    )


class CacheStruct(ctypes.Structure):
    """`cache`: one sequence's keys and values."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scale", "value_scale")),
        ("capacity", ctypes.c_int64),
    )


class BatchStruct(ctypes.Structure):
    """`batch`: the rows of a pass."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "wanted")),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("ids", "positions")),
        ("caches", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine")),
    )


class WorkspaceStruct(ctypes.Structure):
    """`workspace`: what passes write to."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "wide", "input", "bytes", "step", "sums")),
        ("scores", ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        *((name, ctypes.c_int32) for name in ("arrived", "sleeping", "turn")),
    )


def lanes_of(library: ctypes.CDLL) -> int:
    """How wide the compiled code's vectors are: 16 lanes with AVX-512 VNNI, else 8."""
    return ctypes.c_int64.in_dll(library, "codellama_lanes").value


def packed_linear(layer: Int8Linear | Int4Linear, lanes: int) -> tuple[list[Tensor], LinearStruct]:
    """Weights in the tiles that `native.c` reads, and the tensors that hold them; int4 in `fours` of 32."""
    more = -layer.out_features % OUTPUTS
    padded = torch.nn.functional.pad
    if isinstance(layer, Int4Linear):
        assert (layer.layout, layer.group) == ("fours", _GROUP)
        weight = _tiles(layer.packed.view(layer.out_features, -1, 4), more, lanes)
        pairs, scale = _tiles(layer.scales[..., None], more, lanes), None
    else:
        weight = _tiles(layer.weight.view(layer.out_features, -1, 4), more, lanes)
        weight = weight.view(torch.uint8).bitwise_xor_(128)
        pairs, scale = None, padded(layer.scale, (0, more))
    bias = None if layer.bias is None else padded(layer.bias, (0, more))
    found = (weight, pairs, scale, bias)
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in found)
    struct = LinearStruct(*addresses, layer.out_features + more, layer.in_features)
    return [tensor for tensor in found if tensor is not None], struct


def _tiles(rows: Tensor, more: int, lanes: int) -> Tensor:
    """[N, K, B] with so many more rows of zeros, as [N / lanes, K, lanes, B]."""
    if more:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, 0, 0, more))
    return rows.view(-1, lanes, *rows.shape[1:]).transpose(1, 2).contiguous()


def make_workspace(rows: int, dim: int, inputs: int, outputs: int) -> tuple[list[Tensor], WorkspaceStruct]:
    """Room for `rows` rows of products of at most so many inputs and outputs, and the tensors it is."""
    groups = -(-inputs // _GROUP)
    room = [
        torch.empty(rows, dim),
        torch.empty(rows, outputs),
        torch.empty(rows, inputs),
        torch.empty(rows, inputs, dtype=torch.int8),
        torch.empty(rows, groups),
        torch.empty(rows, groups, dtype=torch.int32),
    ]
    return room, WorkspaceStruct(*(tensor.data_ptr() for tensor in room), None, inputs, outputs)
