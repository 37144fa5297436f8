"""A GGUF file of the llama architecture as a checkpoint. Free of torch at import.

Names, and the order of the rows of the query and key projections, are turned from llama.cpp's to Hugging
Face's. Quantised tensors come out in float32, through the gguf package.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.runtime.config import FrequencyDivisors, LinearScaling, ModelConfig, RopeScaling
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
FAMILY_KEY = "codellama.family"  # ours: GGUF has no word for what a Llama is a member of
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
        self._stored = {ours: tensor for name, tensor in stored.items() if (ours := hugging_face_name(name))}

    def infos(self) -> list[TensorInfo]:
        return [TensorInfo(name, t.shape, t.dtype, self.path) for name, t in self._stored.items()]

    def blocks(self, info: TensorInfo) -> Iterator[Block]:
        tensor = self._stored[info.name]
        turned = "q_proj." in info.name or "k_proj." in info.name
        multiple = self.config.head_dim if turned else 1
        width = tensor.nbytes // tensor.shape[0]
        # Dequantising makes several arrays of a block's size: small ones stay in the processor's cache.
        row_bytes = 4 * prod(tensor.shape[1:]) * (4 if tensor.dtype in _QUANTISED else 1)
        for rows in row_blocks(tensor.shape, row_bytes, multiple):
            block = _read(self.path, tensor, rows, width)
            yield (rows,), halves_from_pairs(block, multiple) if turned else block


def hugging_face_name(name: str) -> str | None:
    """Hugging Face's name of a GGUF tensor; None for what is no weight of a Llama."""
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in _INNER:
        return f"model.layers.{layer[1]}.{_INNER[layer[2]]}.{layer[3]}"
    return _TOP.get(name)


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
            max_context=self._size("context_length"),
            tie_embeddings="output.weight" not in self._stored,
            attention_bias="blk.0.attn_q.bias" in self._stored,
            mlp_bias="blk.0.ffn_up.bias" in self._stored,
            family=str(self._metadata.get(FAMILY_KEY, "llama")),
        )

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._metadata.get(f"llama.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self._path} gives no number as llama.{key}, but {value!r:.40}: {AGAIN}")
        return value

    def _size(self, key: str, default: int | None = None) -> int:
        value = self._number(key, default)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self._path} gives no size as llama.{key}, but {value}: {AGAIN}")
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
        kind = self._metadata.get("llama.rope.scaling.type", "none")
        if kind == "linear":
            return LinearScaling(self._number("rope.scaling.factor"))
        if kind != "none":
            raise UnsupportedArchitecture(
                f"{self._path} asks for RoPE scaling {kind!r:.40}, which is not computed: choose another "
                "Llama."
            )
        return None

    def _refuse_unsupported(self) -> None:
        kind = self._metadata.get("general.architecture")
        if kind != "llama":
            raise UnsupportedArchitecture(
                f"{self._path} holds a model of the architecture {kind!r:.40}, and of GGUF files only "
                "'llama' is read: choose a Llama, or its Hugging Face folder."
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
