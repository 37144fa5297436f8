"""What Llama 4 has in Meta's folders beyond other Llamas. Free of torch.

By llama-models, models/llama4 (args.py, model.py, ffn.py, moe.py): some weights lie fused or under names
that tell their shapes, and each of its modules takes them apart as it loads them. Rows of queries and keys
stay as they are, since Llama 4 turns neighbouring pairs in every format.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from codellama.runtime.config import Llama4, ModelConfig
from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights import mapped
from codellama.runtime.weights.joined import Joined, Part
from codellama.runtime.weights.mapped import Extent
from codellama.runtime.weights.tensors import AGAIN

_MARKS = ("moe_args", "nope_layer_interval", "attention_chunk_size", "use_qk_norm", "attn_temperature_tuning")
_RENAMED = {
    "attention.wqkv.layer_norm_weight": "attention_norm.weight",
    "feed_forward.mlp.layer_norm_weight": "ffn_norm.weight",
    "feed_forward.norm.weight": "ffn_norm.weight",
    "feed_forward.mlp.fc2_weight": "feed_forward.w2.weight",
    "feed_forward.w_in_shared_FD.weight": "feed_forward.shared_expert.w1.weight",
    "feed_forward.w_swiglu_FD.weight": "feed_forward.shared_expert.w3.weight",
    "feed_forward.w_out_shared_DF.weight": "feed_forward.shared_expert.w2.weight",
}
_LAYER = re.compile(r"(layers\.\d+\.)(.+)")
_ROUTER, _ROUTER_THERE = "feed_forward.router.weight", "feed_forward.router_DE"
_GATE, _UP, _DOWN = (f"feed_forward.experts.moe_w_{n}" for n in ("in_eD_F", "swiglu_eD_F", "out_eF_D"))


def llama4(params: Mapping[str, Any]) -> Llama4 | None:
    """What `params.json` tells of Llama 4, None for other Llamas; raises as numbers and tables do."""
    if not any(params.get(mark) for mark in _MARKS):
        return None
    layers, moe = int(params["n_layers"]), dict(params.get("moe_args") or {})
    if layers > 2**12:
        raise ValueError(f"{layers} layers")
    step, interval = int(moe.get("interleave_moe_layer_step", 1)), params.get("nope_layer_interval")
    chunk = params.get("attention_chunk_size")
    tempered = params.get("attn_temperature_tuning", False)
    return Llama4(
        experts=int(moe.get("num_experts", 1)),
        experts_per_token=int(moe.get("top_k", 1)),
        expert_dim=expert_dim(params, moe) if moe else 1,
        moe_layers=tuple(range(layers))[step - 1 :: step] if moe else (),
        nope_layers=tuple(range(layers))[int(interval) - 1 :: int(interval)] if interval else (),
        chunk=int(chunk) if chunk else None,
        qk_norm=bool(params.get("use_qk_norm", False)),
        floor_scale=float(params.get("floor_scale", 8192)),
        temperature_scale=float(params.get("attn_scale", 0.1)) if tempered else 0.0,
    )


def expert_dim(params: Mapping[str, Any], moe: Mapping[str, Any]) -> int:
    """Width inside an expert, by the rule of Meta's reference (moe.py)."""
    width = int(2 * int(float(params["ffn_exp"]) * int(params["dim"])) / 3)
    width = int(float(params["ffn_dim_multiplier"]) * width)
    if moe.get("auto_scale_F", True):
        width = int(width / (float(moe.get("capacity_factor", 1.0)) + 1))
    multiple = int(params.get("multiple_of", 256))
    return -(-width // multiple) * multiple


def plainly_named(rank: Mapping[str, Extent], config: ModelConfig) -> dict[str, Extent]:
    """One file's tensors under the names that other Llamas have them by, what is fused taken apart."""
    plain: dict[str, Extent] = {}
    for name, extent in rank.items():
        layer = _LAYER.fullmatch(name)
        start, inner = (layer[1], layer[2]) if layer else ("", name)
        if inner == "attention.wqkv.weight":
            heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
            for part, rows in zip("qkv", _cut(extent, heads), strict=True):
                plain[f"{start}attention.w{part}.weight"] = rows
        elif inner == "feed_forward.mlp.fc1_weight":
            for part, rows in zip("13", _cut(extent, (1, 1)), strict=True):
                plain[f"{start}feed_forward.w{part}.weight"] = rows
        elif inner == _ROUTER_THERE:
            plain[start + _ROUTER] = replace(extent, shape=extent.shape[::-1], strides=extent.strides[::-1])
        else:
            plain[start + _RENAMED.get(inner, inner)] = extent
    return plain


def experts(config: ModelConfig, ranks: Sequence[Mapping[str, Extent]]) -> dict[str, Joined]:
    """The experts' tensors by Hugging Face's names: gate and up [E, C, 2 F] side by side, down [E, F, C]."""
    assert config.llama4 is not None
    found = {}
    for layer in config.llama4.moe_layers:
        here = f"layers.{layer}."
        gate, up, down = (_stacks(here + name, config, ranks) for name in (_GATE, _UP, _DOWN))
        width = gate[0][0].shape[1]
        total = width * len(ranks)
        found[f"model.{here}feed_forward.experts.gate_up_proj"] = Joined(
            [
                Part(expert, (n, 0, before + rank * width))
                for before, stacks in ((0, gate), (total, up))
                for rank, stack in enumerate(stacks)
                for n, expert in enumerate(stack)
            ]
        )
        height = down[0][0].shape[0]
        found[f"model.{here}feed_forward.experts.down_proj"] = Joined(
            [
                Part(expert, (n, rank * height, 0))
                for rank, stack in enumerate(down)
                for n, expert in enumerate(stack)
            ]
        )
    return found


def _stacks(name: str, config: ModelConfig, ranks: Sequence[Mapping[str, Extent]]) -> list[list[Extent]]:
    """Each file's part of every expert's matrix."""
    assert config.llama4 is not None
    stacks = []
    for number, rank in enumerate(ranks):
        if name not in rank:
            file = next(iter(rank.values())).file
            raise CheckpointError(f"{file.with_name(f'consolidated.{number:02}.pth')} lacks {name}: {AGAIN}")
        stacks.append(_stack(rank[name], config.llama4.experts))
        if stacks[-1][0].shape != stacks[0][0].shape:
            raise CheckpointError(f"{rank[name].file}: {name} has the shape {rank[name].shape}: {AGAIN}")
    return stacks


def _stack(extent: Extent, count: int) -> list[Extent]:
    """The matrices of a tensor [count, rows, columns], whose first two dimensions may lie as one."""
    mapped.check_dtype(extent.file, extent.name, extent.dtype)
    shape = extent.shape
    if len(shape) == 2 and 0 not in shape and shape[0] % count == 0:
        rows = shape[0] // count
        return [mapped.rows_of(extent, slice(n * rows, (n + 1) * rows)) for n in range(count)]
    if len(shape) == 3 and 0 not in shape and shape[0] == count:
        stack = (mapped.rows_of(extent, slice(n, n + 1)) for n in range(count))
        return [replace(matrix, shape=shape[1:], strides=extent.strides[1:]) for matrix in stack]
    raise CheckpointError(f"{extent.file}: {extent.name} has the shape {shape} for {count} experts: {AGAIN}")


def _cut(extent: Extent, shares: tuple[int, ...]) -> list[Extent]:
    """The tensor cut between rows, in these proportions."""
    mapped.check_dtype(extent.file, extent.name, extent.dtype)
    if not extent.shape or not extent.shape[0] or extent.shape[0] % sum(shares):
        raise CheckpointError(f"{extent.file}: {extent.name} has the shape {extent.shape}: {AGAIN}")
    unit, start, parts = extent.shape[0] // sum(shares), 0, []
    for share in shares:
        parts.append(mapped.rows_of(extent, slice(start, start + share * unit)))
        start += share * unit
    return parts
