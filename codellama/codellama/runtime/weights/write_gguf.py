"""Writes a checkpoint as a GGUF file that llama.cpp loads, through the gguf package.

Llama in all its versions. Of Llama 4, GGUF holds sizes only; llama.cpp takes for granted which layers see
everything, how long chunks are and which model goes without norms, so that others than those are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    quants,
)
from gguf.quants import quant_shape_to_byte_shape
from gguf.tensor_mapping import get_tensor_name_map
from numpy.typing import NDArray
from torch import Tensor

from codellama.runtime.chat import read_template
from codellama.runtime.config import LinearScaling, Llama4, ModelConfig
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.rope import frequencies
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.vocabulary import PieceKind
from codellama.runtime.weights.gguf_checkpoint import FAMILY_KEY, implied_llama4
from codellama.runtime.weights.loading import Progress, load_tensor, outline
from codellama.runtime.weights.tensors import Checkpoint, TensorInfo

Type = GGMLQuantizationType

TYPES = {
    "f32": (Type.F32, LlamaFileType.ALL_F32),
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Type.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_FLOATS = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
_LEAST_SCORE = -10_000.0
_ROTATED = ("attn_q.", "attn_k.")
_QUANTISATION_VERSION = 2  # of the block layouts, from ggml.h
_QUANTISED_AT_ONCE = 4 * 2**20  # weights: what quantising needs beside the tensor itself


@dataclass(frozen=True, slots=True)
class _Planned:
    """One tensor of the file: its name there, where it is read, its shape and type.

    `columns` are those of Hugging Face's stack of experts whose transpose it is, None for other tensors.
    """

    name: str
    info: TensorInfo
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    columns: slice | None = None


def planned_bytes(checkpoint: Checkpoint, type_: str) -> int:
    """The size of the tensors that `write` writes; the header adds a few megabytes at most."""
    return sum(_nbytes(planned) for planned in _plan(checkpoint, type_))


def write(checkpoint: Checkpoint, tokenizer: Tokenizer, file: Path, type_: str, progress: Progress) -> None:
    """Writes the whole checkpoint into `file`, one tensor in memory at a time.

    `progress` hears of the bytes written and to write. Raises CheckpointError naming file and tensor, and
    OSError where the disk is full.
    """
    plan = _plan(checkpoint, type_)
    writer = GGUFWriter(file, "llama4" if checkpoint.config.llama4 else "llama")
    try:
        writer.add_name(checkpoint.path.name.removesuffix(".gguf"))
        writer.add_file_type(TYPES[type_][1])
        writer.add_quantization_version(_QUANTISATION_VERSION)
        _add_shape(writer, checkpoint.config)
        _add_vocabulary(writer, tokenizer, checkpoint.config.vocab_size)
        template, _ = read_template(checkpoint.path)
        if template:
            writer.add_chat_template(template)
        divisors = rope_divisors(checkpoint.config)
        if divisors is not None:
            writer.add_tensor_info("rope_freqs.weight", divisors.shape, divisors.dtype, divisors.nbytes)
        for tensor in plan:
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), _nbytes(tensor), raw_dtype=tensor.kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if divisors is not None:
            writer.write_tensor_data(divisors)
        _write_tensors(writer, checkpoint, plan, progress)
    finally:
        writer.close()


def rope_divisors(config: ModelConfig) -> NDArray[np.float32] | None:
    """What each rotary frequency is divided by, [head_dim / 2], where that is not one number for all."""
    if config.rope_scaling is None or isinstance(config.rope_scaling, LinearScaling):
        return None
    plain = frequencies(replace(config, rope_scaling=None))
    divisors: NDArray[np.float32] = (plain / frequencies(config)).float().numpy()
    return divisors


def _plan(checkpoint: Checkpoint, type_: str) -> list[_Planned]:
    config = checkpoint.config
    if config.llama4:
        _check_llama4(checkpoint.path, config, config.llama4)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA4 if config.llama4 else MODEL_ARCH.LLAMA, config.n_layers)
    plan = []
    for info in outline(checkpoint)[1].values():
        for ours, shape, columns in _parts(info):
            name = names.get_name(ours, try_suffixes=(".weight", ".bias"))
            assert name is not None, f"GGUF has no name for {ours}"
            name += "" if name.endswith((".weight", ".bias")) else ".weight"
            kind = _kind(name, shape, TYPES[type_][0], config)
            plan.append(_Planned(name, info, shape, kind, columns))
    return plan


def _parts(info: TensorInfo) -> Iterator[tuple[str, tuple[int, ...], slice | None]]:
    """What the file holds of a tensor: experts transposed, their gate and up projections apart."""
    stem, _, last = info.name.rpartition(".experts.")
    if not stem:
        yield info.name, info.shape, None
        return
    experts, rows, columns = info.shape
    parts = ("gate_proj", "up_proj") if last == "gate_up_proj" else (last,)
    width = columns // len(parts)
    for n, part in enumerate(parts):
        yield f"{stem}.experts.{part}", (experts, width, rows), slice(n * width, (n + 1) * width)


def _check_llama4(path: Path, config: ModelConfig, llama4: Llama4) -> None:
    """Refuses a Llama 4 that llama.cpp would compute otherwise than it is."""
    moe = llama4.moe_layers
    step = moe[0] + 1 if moe else 1
    regular = range(step - 1, config.n_layers, step)
    sizes = (llama4.experts, llama4.experts_per_token, llama4.expert_dim)
    if implied_llama4(*sizes, regular, config.n_layers) != llama4:
        raise InvalidRequest(
            f"{path} is a Llama 4 whose layers, chunks or temperature differ from the published models', for "
            "which GGUF has no words: name a folder to make instead of a .gguf file."
        )


def _kind(
    name: str, shape: tuple[int, ...], wanted: GGMLQuantizationType, config: ModelConfig
) -> GGMLQuantizationType:
    """llama.cpp's own choice: vectors and routers stay float32, the logits' matrix keeps eight bits.

    Its quantiser gives that matrix Q6_K, which the gguf package does not write; Q8_0 is what it falls back
    to itself. Rows that no block divides stay float16.
    """
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return Type.F32
    if shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        return Type.F16
    output = "token_embd.weight" if config.tie_embeddings else "output.weight"
    return Type.Q8_0 if wanted == Type.Q4_0 and name == output else wanted


def _nbytes(planned: _Planned) -> int:
    per_block, size = GGML_QUANT_SIZES[planned.kind]
    return prod(planned.shape) // per_block * size


def _write_tensors(
    writer: GGUFWriter, checkpoint: Checkpoint, plan: list[_Planned], progress: Progress
) -> None:
    total, done = sum(map(_nbytes, plan)), 0
    for planned in plan:
        dtype = _FLOATS.get(planned.kind, torch.float32)
        tensor = load_tensor(checkpoint, planned.info, torch.device("cpu"), dtype)
        if planned.columns:
            tensor = tensor[..., planned.columns].mT
        elif any(part in planned.name for part in _ROTATED) and not checkpoint.config.rope_interleaved:
            tensor = _pairs_from_halves(tensor, checkpoint.config.head_dim)
        writer.write_tensor_data(_encoded(tensor, planned.kind))
        done += _nbytes(planned)
        progress(done, total)


def _pairs_from_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of q_proj or k_proj [H * D, …] from Hugging Face's order (see `rope`) to GGUF's."""
    halves = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def _encoded(tensor: Tensor, kind: GGMLQuantizationType) -> NDArray[Any]:
    """The tensor's bytes in its type."""
    if kind in _FLOATS:
        return tensor.contiguous().view(torch.uint8).numpy()
    rows = tensor.flatten(0, -2)
    out = np.empty(quant_shape_to_byte_shape(rows.shape, kind), dtype=np.uint8)
    step = max(1, _QUANTISED_AT_ONCE // rows.shape[-1])
    for start in range(0, len(rows), step):
        out[start : start + step] = quants.quantize(rows[start : start + step].numpy(), kind)
    return out


def _add_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.llama4:
        writer.add_expert_count(config.llama4.experts)
        writer.add_expert_used_count(config.llama4.experts_per_token)
        writer.add_expert_feed_forward_length(config.llama4.expert_dim)
        writer.add_interleave_moe_layer_step(config.llama4.moe_layers[0] + 1)
    if isinstance(config.rope_scaling, LinearScaling):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
    writer.add_string(FAMILY_KEY, config.family)


def _add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    """The pieces and control ids, padded to `size` where the model embeds more than there are."""
    vocabulary = tokenizer.vocabulary
    spare = range(len(vocabulary.pieces), size)
    writer.add_tokenizer_model("llama" if vocabulary.kind == "sentencepiece" else "gpt2")
    writer.add_tokenizer_pre(vocabulary.pattern or "default")
    writer.add_token_list([*vocabulary.pieces[:size], *(f"[PAD{i}]" for i in spare)])
    writer.add_token_types([*vocabulary.kinds[:size], *(PieceKind.UNUSED for _ in spare)])
    if vocabulary.scores:
        writer.add_token_scores([*vocabulary.scores[:size], *(_LEAST_SCORE for _ in spare)])
    if vocabulary.merges:
        writer.add_token_merges([f"{left} {right}" for left, right in vocabulary.merges])
    for stem, token in _special_ids(tokenizer).items():
        writer.add_uint32(f"tokenizer.ggml.{stem}_token_id", token)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """By the stem of GGUF's key."""
    control, kinds = tokenizer.control, tokenizer.vocabulary.kinds
    ids = {"bos": control.bos, "eos": control.eos}
    if PieceKind.UNKNOWN in kinds:
        ids["unknown"] = kinds.index(PieceKind.UNKNOWN)
    if control.infill:
        infill = control.infill
        ids |= {"fim_pre": infill.pre, "fim_suf": infill.suf, "fim_mid": infill.mid, "eot": infill.eot}
    if control.turns:
        ids["eot"] = control.turns.eot
    return ids
