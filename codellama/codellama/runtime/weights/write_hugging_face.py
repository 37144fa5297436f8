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
from codellama.runtime.weights.description import description, generation
from codellama.runtime.weights.loading import Progress, load_tensor, outline
from codellama.runtime.weights.tensors import Checkpoint, TensorInfo
from codellama.runtime.weights.write_tokenizer import write_tokenizer

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# A shard stands in memory while it is written.
SHARD_BYTES = 2 * 10**9


def planned_bytes(checkpoint: Checkpoint, type_: str) -> int:
    """The size of the tensors that `write` writes."""
    return sum(prod(info.shape) for info in outline(checkpoint)[1].values()) * DTYPES[type_].itemsize


def write(checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path, type_: str, progress: Progress) -> None:
    """Writes the whole checkpoint into the new `folder`, SHARD_BYTES in memory at a time.

    `progress` hears of the bytes written and to write. Raises CheckpointError naming file and tensor, and
    OSError or SafetensorError where the disk is full.
    """
    dtype = DTYPES[type_]
    folder.mkdir()
    described = description(checkpoint.config, tokenizer, str(dtype).removeprefix("torch."), checkpoint.path)
    _write_json(folder / "config.json", described)
    _write_json(folder / "generation_config.json", generation(tokenizer))
    write_tokenizer(checkpoint, tokenizer, folder)
    _write_weights(checkpoint, folder, dtype, progress)


def _write_weights(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype, progress: Progress) -> None:
    infos = outline(checkpoint)[1]
    shards = _shards(infos, dtype.itemsize)
    total, done = sum(prod(info.shape) for info in infos.values()) * dtype.itemsize, 0
    cpu = torch.device("cpu")
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = (
            f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        )
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors[_published(name)] = tensor = load_tensor(checkpoint, infos[name], cpu, dtype)
            done += tensor.nbytes
            progress(done, total)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # the library leaves it to its owner alone
        places |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(infos: dict[str, TensorInfo], itemsize: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        nbytes = prod(info.shape) * itemsize
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
