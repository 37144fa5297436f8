"""A GGUF file of the architecture llama or llama4 as a checkpoint. Free of torch at import.

Names, the order of the rows of Llama's query and key projections, and the layout of Llama 4's experts are
turned from llama.cpp's to Hugging Face's. Quantised tensors come out in float32, through the gguf package.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.runtime.config import FrequencyDivisors, LinearScaling, Llama4, ModelConfig, RopeScaling
from codellama.runtime.errors import CheckpointError, UnsupportedArchitecture
from codellama.runtime.weights import mapped
from codellama.runtime.weights.gguf import GgufTensor, read_header
from codellama.runtime.weights.mapped import Extent, halves_from_pairs
from codellama.runtime.weights.tensors import AGAIN, Block, Format, TensorInfo, row_blocks

if TYPE_CHECKING:
    from torch import Tensor

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# Llama 4's layers have either the three of a dense one, or a router, experts and a shared expert.
_INNER4 = {
    **{theirs: ours.replace("mlp.", "feed_forward.") for theirs, ours in _INNER.items()},
    "ffn_gate_inp": "feed_forward.router",
    "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
    "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
    "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
}
# All experts of a layer in one tensor each, which Hugging Face transposes and lays side by side.
_EXPERTS = {"gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"), "down_proj": ("ffn_down_exps",)}
FAMILY_KEY = "codellama.family"  # ours: GGUF has no word for what a Llama is a member of
_MAVERICK_EXPERTS = 128  # the model without norms of queries and keys is told by them
_MOST_LAYERS = 2**12  # far above any Llama's; lists of so many are made before the tensors are compared
_DIVISORS = "rope_freqs.weight"
# What the gguf package dequantises and we have checked.
_QUANTISED = ("Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")


class GgufCheckpoint:
    """One .gguf file."""

    format: Format = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        stored = {tensor.name: tensor for tensor in self.header.tensors}
        self.config = _Description(path, self.header.metadata, stored).config()
        llama4 = self.config.llama4 is not None
        self._stored = {
            ours: tensor for name, tensor in stored.items() if (ours := hugging_face_name(name, llama4))
        }
        self._experts = dict(_experts(path, self.config.llama4, stored)) if self.config.llama4 else {}

    def infos(self) -> list[TensorInfo]:
        found = [TensorInfo(name, t.shape, t.dtype, self.path) for name, t in self._stored.items()]
        for name, parts in self._experts.items():
            experts, rows, columns = parts[0].shape
            shape = (experts, columns, rows * len(parts))
            found.append(TensorInfo(name, shape, parts[0].dtype, self.path))
        return found

    def blocks(self, info: TensorInfo) -> Iterator[Block]:
        if info.name in self._experts:
            yield from self._expert_blocks(self._experts[info.name])
            return
        tensor = self._stored[info.name]
        turned = not self.config.rope_interleaved and ("q_proj." in info.name or "k_proj." in info.name)
        multiple = self.config.head_dim if turned else 1
        width = tensor.nbytes // tensor.shape[0]
        for rows in row_blocks(tensor.shape, _row_bytes(tensor), multiple):
            block = _read(self.path, tensor, rows, width)
            yield (rows,), halves_from_pairs(block, multiple) if turned else block

    def _expert_blocks(self, parts: tuple[GgufTensor, ...]) -> Iterator[Block]:
        for part, tensor in enumerate(parts):
            experts, height, columns = tensor.shape
            flat = replace(tensor, shape=(experts * height, columns))
            for expert in range(experts):
                for rows in row_blocks((height, columns), _row_bytes(flat)):
                    here = slice(expert * height + rows.start, expert * height + rows.stop)
                    block = _read(self.path, flat, here, tensor.nbytes // flat.shape[0])
                    there = slice(part * height + rows.start, part * height + rows.stop)
                    yield (slice(expert, expert + 1), slice(None), there), block.T[None]


def hugging_face_name(name: str, llama4: bool = False) -> str | None:
    """Hugging Face's name of a GGUF tensor; None for what is no weight of its own in a Llama (or Llama 4)."""
    layer = _LAYER.fullmatch(name)
    inner = _INNER4 if llama4 else _INNER
    if layer and layer[2] in inner:
        return f"model.layers.{layer[1]}.{inner[layer[2]]}.{layer[3]}"
    return _TOP.get(name)


def implied_llama4(experts: int, per_token: int, width: int, moe: Sequence[int], layers: int) -> Llama4:
    """The Llama 4 that a file with these experts holds: all else llama.cpp takes for granted."""
    return Llama4(
        experts=experts,
        experts_per_token=per_token,
        expert_dim=width,
        moe_layers=tuple(moe),
        nope_layers=tuple(range(3, layers, 4)),
        qk_norm=experts != _MAVERICK_EXPERTS,
    )


def _experts(
    path: Path, llama4: Llama4, stored: Mapping[str, GgufTensor]
) -> Iterator[tuple[str, tuple[GgufTensor, ...]]]:
    """What makes up the experts' tensors, by Hugging Face's names."""
    for layer in llama4.moe_layers:
        for ours, theirs in _EXPERTS.items():
            names = [f"blk.{layer}.{name}.weight" for name in theirs]
            for name in names:
                if name not in stored:
                    raise CheckpointError(f"{path} lacks the tensor {name}: {AGAIN}")
                if len(stored[name].shape) != 3 or stored[name].shape != stored[names[0]].shape:
                    raise CheckpointError(f"{path}: {name} has the shape {stored[name].shape}: {AGAIN}")
            yield (
                f"model.layers.{layer}.feed_forward.experts.{ours}",
                tuple(stored[name] for name in names),
            )


def _row_bytes(tensor: GgufTensor) -> int:
    """What a row takes while it is read.

    Dequantising makes several arrays of a block's size: small ones stay in the processor's cache.
    """
    return 4 * prod(tensor.shape[1:]) * (4 if tensor.dtype in _QUANTISED else 1)


def _read(path: Path, tensor: GgufTensor, rows: slice, width: int) -> "Tensor":
    start = tensor.start + rows.start * width
    shape = (rows.stop - rows.start, *tensor.shape[1:])
    if tensor.dtype in mapped.ITEM_BYTES:
        strides = (tensor.shape[1], 1) if len(shape) > 1 else (1,)
        return mapped.read(Extent(tensor.name, shape, strides, tensor.dtype, path, start))
    if tensor.dtype not in _QUANTISED:
        raise CheckpointError(
            f"{path}: {tensor.name} is stored as {tensor.dtype}, and F32, F16, BF16, "
            f"{', '.join(_QUANTISED)} are read: choose another quantisation of the model."
        )
    import numpy as np
    import torch
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    content, offset = mapped.read_bytes(path, start, shape[0] * width)
    raw = np.frombuffer(content, np.uint8, shape[0] * width, offset).reshape(shape[0], width)
    return torch.from_numpy(dequantize(raw, GGMLQuantizationType[tensor.dtype])).view(shape)


class _Description:
    """The header's metadata as a ModelConfig."""

    def __init__(self, path: Path, metadata: Mapping[str, object], stored: dict[str, GgufTensor]) -> None:
        self._path, self._metadata, self._stored = path, metadata, stored
        self._kind = metadata.get("general.architecture")

    def config(self) -> ModelConfig:
        self._refuse_unsupported()
        embeddings = self._stored.get("token_embd.weight")
        if embeddings is None:
            raise CheckpointError(f"{self._path} lacks the tensor token_embd.weight: {AGAIN}")
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, list) and len(tokens) > embeddings.shape[0]:
            raise CheckpointError(
                f"{self._path}: the tokenizer has {len(tokens)} pieces and token_embd.weight embeds "
                f"{embeddings.shape[0]}: they do not belong together, fetch the checkpoint again."
            )
        llama4 = self._llama4() if self._kind == "llama4" else None
        dim, heads = self._size("embedding_length"), self._size("attention.head_count")
        return ModelConfig(
            vocab_size=embeddings.shape[0],
            dim=dim,
            n_layers=self._size("block_count"),
            n_heads=heads,
            n_kv_heads=self._size("attention.head_count_kv", heads),
            head_dim=self._size("attention.key_length", dim // heads),
            ffn_dim=self._size("feed_forward_length"),
            norm_eps=self._number("attention.layer_norm_rms_epsilon"),
            rope_theta=self._number("rope.freq_base", 1e4),
            rope_scaling=self._scaling(),
            rope_interleaved=llama4 is not None,
            max_context=self._size("context_length"),
            tie_embeddings="output.weight" not in self._stored,
            attention_bias="blk.0.attn_q.bias" in self._stored,
            mlp_bias="blk.0.ffn_up.bias" in self._stored,
            llama4=llama4,
            family=str(self._metadata.get(FAMILY_KEY, self._kind)),
        )

    def _llama4(self) -> Llama4:
        """GGUF gives the experts' sizes; the rest is the architecture's own, as llama.cpp takes it."""
        if self._metadata.get("llama4.attention.sliding_window", 1) == 0:
            raise UnsupportedArchitecture(
                f"{self._path} holds a Llama 4 without chunks of attention, which is not read from GGUF: "
                "choose its Hugging Face folder."
            )
        layers, step = self._size("block_count"), self._size("interleave_moe_layer_step")
        if layers > _MOST_LAYERS:
            raise CheckpointError(f"{self._path} describes a model of {layers} layers: {AGAIN}")
        return implied_llama4(
            self._size("expert_count"),
            self._size("expert_used_count"),
            self._size("expert_feed_forward_length"),
            range(step - 1, layers, step),
            layers,
        )

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._metadata.get(f"{self._kind}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(
                f"{self._path} gives no number as {self._kind}.{key}, but {value!r:.40}: {AGAIN}"
            )
        return value

    def _size(self, key: str, default: int | None = None) -> int:
        value = self._number(key, default)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self._path} gives no size as {self._kind}.{key}, but {value}: {AGAIN}")
        return value

    def _scaling(self) -> RopeScaling | None:
        divisors = self._stored.get(_DIVISORS)
        if divisors:
            if divisors.dtype != "F32" or len(divisors.shape) != 1:
                raise CheckpointError(
                    f"{self._path}: {_DIVISORS} is {divisors.dtype} of {divisors.shape}: {AGAIN}"
                )
            content, offset = mapped.read_bytes(self._path, divisors.start, divisors.nbytes)
            return FrequencyDivisors(struct.unpack_from(f"<{divisors.shape[0]}f", content, offset))
        kind = self._metadata.get(f"{self._kind}.rope.scaling.type", "none")
        if kind == "linear":
            return LinearScaling(self._number("rope.scaling.factor"))
        if kind != "none":
            raise UnsupportedArchitecture(
                f"{self._path} asks for RoPE scaling {kind!r:.40}, which is not computed: choose another "
                "Llama."
            )
        return None

    def _refuse_unsupported(self) -> None:
        if self._kind not in ("llama", "llama4"):
            raise UnsupportedArchitecture(
                f"{self._path} holds a model of the architecture {self._kind!r:.40}, and of GGUF files only "
                "'llama' and 'llama4' are read: choose a Llama, or its Hugging Face folder."
            )
        parts = self._metadata.get("split.count", 1)
        if parts != 1:
            raise CheckpointError(
                f"{self._path} is one of {parts} parts of a model: join them with llama.cpp's "
                "`llama-gguf-split --merge`, and name the file that it writes."
            )
        if self._metadata.get("llama.expert_count"):
            raise UnsupportedArchitecture(
                f"{self._path} holds a mixture of experts, which is not read from GGUF: choose its Hugging "
                "Face folder."
            )
