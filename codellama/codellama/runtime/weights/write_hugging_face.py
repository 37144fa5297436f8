"""Writes a checkpoint as a Hugging Face folder that transformers loads: weights, description, tokenizer."""

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.weights import compressed_tensors
from codellama.runtime.weights.description import description, generation
from codellama.runtime.weights.loading import Progress, load_tensor, outline
from codellama.runtime.weights.tensors import Checkpoint, TensorInfo
from codellama.runtime.weights.write_tokenizer import write_tokenizer

# With int8, what stays floating is float16.
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16}
_STEPS = 127.0  # of int8 on either side of zero
# A shard stands in memory while it is written.
SHARD_BYTES = 2 * 10**9


def planned_bytes(checkpoint: Checkpoint, type_: str) -> int:
    """The size of the tensors that `write` writes."""
    return sum(_nbytes(name, info, type_) for name, info in outline(checkpoint)[1].items())


def _nbytes(name: str, info: TensorInfo, type_: str) -> int:
    if _in_int8(name, info, type_):
        return prod(info.shape) + 4 * info.shape[0]
    return prod(info.shape) * DTYPES[type_].itemsize


def _in_int8(name: str, info: TensorInfo, type_: str) -> bool:
    """Whether a tensor is the matrix of a linear layer inside the layers: the others weigh little."""
    return type_ == "int8" and len(info.shape) == 2 and name.startswith("layers.")


def write(checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path, type_: str, progress: Progress) -> None:
    """Writes the whole checkpoint into the new `folder`, SHARD_BYTES in memory at a time.

    `progress` hears of the bytes written and to write. Raises CheckpointError naming file and tensor, and
    OSError or SafetensorError where the disk is full.
    """
    dtype = DTYPES[type_]
    folder.mkdir()
    described = description(checkpoint.config, tokenizer, str(dtype).removeprefix("torch."), checkpoint.path)
    if type_ == "int8":
        described["quantization_config"] = compressed_tensors.DESCRIPTION
    _write_json(folder / "config.json", described)
    _write_json(folder / "generation_config.json", generation(tokenizer))
    write_tokenizer(checkpoint, tokenizer, folder)
    _write_weights(checkpoint, folder, type_, progress)


def _write_weights(checkpoint: Checkpoint, folder: Path, type_: str, progress: Progress) -> None:
    infos = outline(checkpoint)[1]
    sizes = {name: _nbytes(name, info, type_) for name, info in infos.items()}
    shards = _shards(sizes)
    total, done = sum(sizes.values()), 0
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = (
            f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        )
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors |= _stored(checkpoint, name, infos[name], type_)
            done += sizes[name]
            progress(done, total)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # the library leaves it to its owner alone
        places |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(folder / "model.safetensors.index.json", index)


def _stored(checkpoint: Checkpoint, name: str, info: TensorInfo, type_: str) -> dict[str, Tensor]:
    """A tensor as it is written, with the scales of its rows where it is one of int8."""
    cpu, published = torch.device("cpu"), _published(name)
    if not _in_int8(name, info, type_):
        return {published: load_tensor(checkpoint, info, cpu, DTYPES[type_])}
    weight = load_tensor(checkpoint, info, cpu, torch.float32)
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / _STEPS
    return {
        published: (weight / scale).round().to(torch.int8),
        published + compressed_tensors.SCALE: scale,
    }


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, nbytes in sizes.items():
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def _published(name: str) -> str:
    return name if name.startswith("lm_head") else f"model.{name}"


def _write_json(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
