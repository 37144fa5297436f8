"""Reads Meta's folders: `params.json` and `consolidated.NN.pth`, one file a rank. Free of torch at import.

Each file holds a slice of every tensor, as the model was spread over GPUs; how they join stands in
`_JOINS`, what is peculiar to Llama 4 in `meta_llama4`. Meta's rotary embedding turns neighbouring pairs,
Hugging Face's the two halves of a head, so the rows of the query and key projections are put in Hugging
Face's order.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from codellama.runtime.config import Llama3Scaling, ModelConfig
from codellama.runtime.errors import CheckpointError, UnsupportedArchitecture
from codellama.runtime.identify import usual_context
from codellama.runtime.weights import meta_llama4, pickled
from codellama.runtime.weights.joined import Joined, side_by_side
from codellama.runtime.weights.mapped import Extent
from codellama.runtime.weights.tensors import AGAIN, Block, Format, TensorInfo, read_json

_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.weight")
_TOP = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_INNER4 = {
    **{theirs: ours.replace("mlp.", "feed_forward.") for theirs, ours in _INNER.items()},
    "feed_forward.router": "feed_forward.router",
    "feed_forward.shared_expert.w1": "feed_forward.shared_expert.gate_proj",
    "feed_forward.shared_expert.w2": "feed_forward.shared_expert.down_proj",
    "feed_forward.shared_expert.w3": "feed_forward.shared_expert.up_proj",
}
# The dimension along which the ranks' slices lie side by side; norms are whole in each.
_JOINS = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1}
# What params.json holds for Llama 3.2 Vision, and for quantised or adapted models.
_NOT_READ = ("vision_chunk_size", "quantization_args", "lora_args")


class MetaCheckpoint:
    """A folder as Meta hands it out."""

    format: Format = "meta"

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(path.glob("consolidated.*.pth"))
        if not files:
            raise CheckpointError(
                f"{path / 'consolidated.00.pth'} is missing: a Meta folder needs all its .pth files."
            )
        for rank, file in enumerate(files):
            if file.name != f"consolidated.{rank:02}.pth":
                raise CheckpointError(
                    f"{path / f'consolidated.{rank:02}.pth'} is missing: a Meta folder needs all its files."
                )
        self._ranks = [{e.name: e for e in pickled.extents(file)} for file in files]
        params = path / "params.json"
        self._embeddings = self._shard(0, "tok_embeddings.weight")
        shape = _shape(read_json(params), params, self._embeddings, len(files))
        if shape.llama4:
            self._ranks = [meta_llama4.plainly_named(rank, shape) for rank in self._ranks]
        # params.json gives neither the context nor whether the head is the embeddings' own.
        tied = "output.weight" not in self._ranks[0]
        self.config = replace(shape, max_context=usual_context(shape), tie_embeddings=tied)
        self._check_ranks(len(files))
        self._parts: dict[str, Joined] = {}

    def infos(self) -> list[TensorInfo]:
        if not self._parts:
            llama4 = self.config.llama4 is not None
            for name in self._ranks[0]:
                ours = hugging_face_name(name, llama4)
                if ours:
                    self._parts[ours] = self._joined(name)
            if llama4:
                self._parts |= meta_llama4.experts(self.config, self._ranks)
        return [
            TensorInfo(name, joined.shape, joined.dtype, joined.file) for name, joined in self._parts.items()
        ]

    def blocks(self, info: TensorInfo) -> Iterator[Block]:
        return self._parts[info.name].blocks(self._turned(info.name))

    def _check_ranks(self, ranks: int) -> None:
        """Query rows tell into how many files the model was split."""
        rows, width = (*self._shard(0, "layers.0.attention.wq.weight").shape, 0)[:2]
        queries = self.config.n_heads * self.config.head_dim
        if width == self.config.dim and rows * ranks < queries:
            raise CheckpointError(
                f"{self.path / f'consolidated.{ranks:02}.pth'} is missing: the model was split into "
                f"{queries // rows} files, and {ranks} are there."
            )

    def _turned(self, name: str) -> int:
        """The size of the heads whose rows are to be put in order; 0 for other tensors."""
        turned = name.endswith(("q_proj.weight", "k_proj.weight")) and not self.config.rope_interleaved
        return self.config.head_dim if turned else 0

    def _shard(self, rank: int, name: str) -> Extent:
        try:
            extent = self._ranks[rank][name]
        except KeyError as error:
            raise CheckpointError(
                f"{self.path / f'consolidated.{rank:02}.pth'} lacks the tensor {name}: {AGAIN}"
            ) from error
        if not extent.shape or 0 in extent.shape:
            raise CheckpointError(f"{extent.file}: {name} has the shape {extent.shape}: {AGAIN}")
        return extent

    def _joined(self, name: str) -> Joined:
        kind = name.removesuffix(".weight").rpartition(".")[2]
        parts = [self._shard(rank, name) for rank in range(len(self._ranks))]
        for part in parts:
            if (part.shape, part.dtype) != (parts[0].shape, parts[0].dtype):
                raise CheckpointError(
                    f"{part.file}: {name} has the shape {part.shape} in {part.dtype}, and "
                    f"{parts[0].shape} in {parts[0].dtype} in {parts[0].file.name}: {AGAIN}"
                )
        if kind == "tok_embeddings":
            dimension = 1 if self._embeddings.shape[-1] < self.config.dim else 0
        elif kind in _JOINS:
            dimension = _JOINS[kind]
        else:
            return side_by_side(parts[:1], 0)
        if len(parts[0].shape) <= dimension:
            raise CheckpointError(f"{parts[0].file}: {name} has the shape {parts[0].shape}: {AGAIN}")
        if kind in ("wk", "wv"):
            # More ranks than key/value heads: neighbouring ranks hold the same head.
            copies = len(parts) * parts[0].shape[0] // (self.config.n_kv_heads * self.config.head_dim)
            if copies > 1:
                return side_by_side(parts[::copies], 0, [parts[n::copies] for n in range(1, copies)])
        return side_by_side(parts, dimension)


def hugging_face_name(name: str, llama4: bool = False) -> str | None:
    """Hugging Face's name of Meta's tensor; None for rotary tables and what the language model lacks."""
    if name in _TOP:
        return _TOP[name]
    layer = _LAYER.fullmatch(name)
    inner = _INNER4 if llama4 else _INNER
    if layer and layer[2] in inner:
        return f"model.layers.{layer[1]}.{inner[layer[2]]}.weight"
    return None


def _shape(params: dict[str, Any], file: Path, embeddings: Extent, ranks: int) -> ModelConfig:
    """The shape that `params.json` gives, with the vocabulary of the embeddings."""
    params = params.get("model") or params
    for key in _NOT_READ:
        if params.get(key):
            raise UnsupportedArchitecture(
                f"{file} has {key}, which is not read from Meta's format: choose the Hugging Face folder of "
                "the model."
            )
    try:
        dim, heads = int(params["dim"]), int(params["n_heads"])
        # Llama 1 and 2 slice the embeddings' columns, Llama 3 and later their rows.
        by_rows = embeddings.shape[-1] == dim
        llama4 = meta_llama4.llama4(params)
        return ModelConfig(
            vocab_size=embeddings.shape[0] * (ranks if by_rows else 1),
            dim=dim,
            n_layers=int(params["n_layers"]),
            n_heads=heads,
            n_kv_heads=int(params.get("n_kv_heads") or heads),
            head_dim=int(params.get("head_dim") or dim // heads),
            ffn_dim=ffn_dim(dim, params),
            norm_eps=float(params["norm_eps"]),
            rope_theta=float(params.get("rope_theta", 5e5 if llama4 else 1e4)),
            rope_scaling=rope_scaling(params, llama4 is not None),
            rope_interleaved=llama4 is not None,
            llama4=llama4,
            family="llama4" if llama4 else "llama",
        )
    except KeyError as error:
        raise CheckpointError(f"{file} has no {error}: it does not describe a Llama: {AGAIN}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{file} holds a value that is no size ({error}): {AGAIN}") from error


def rope_scaling(params: dict[str, Any], llama4: bool = False) -> Llama3Scaling | None:
    """Meta's files only say whether to scale; its code then takes 8, which is wrong for Llama 3.2."""
    if not params.get("use_scaled_rope"):
        return None
    if llama4:
        high = float(params.get("rope_high_freq_factor") or 1)
        return Llama3Scaling(float(params.get("rope_scaling_factor") or 16), 1.0, high, 8192)
    small = int(params["dim"]) <= 3072  # Llama 3.2 1B and 3B
    factor = params.get("rope_scaling_factor") or (32 if small else 8)
    return Llama3Scaling(float(factor), 1.0, float(params.get("rope_high_freq_factor") or 4), 8192)


def ffn_dim(dim: int, params: dict[str, Any]) -> int:
    """Width inside SwiGLU, by the rule of Meta's reference."""
    width = int(2 * 4 * dim / 3)
    if params.get("ffn_dim_multiplier") is not None:
        width = int(float(params["ffn_dim_multiplier"]) * width)
    multiple = int(params["multiple_of"])
    return -(-width // multiple) * multiple
