"""Reads a Hugging Face folder: `config.json` and `*.safetensors`, one file or shards.

Tensors are memory-mapped and copied once, to the device and dtype that is asked for.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError
from codellama.runtime.model import Transformer

_AGAIN = "the file is damaged or incomplete, fetch the checkpoint again."


def read_config(folder: Path) -> ModelConfig:
    """The shape that `config.json` gives; raises CheckpointError."""
    return ModelConfig.from_hugging_face(_read_json(folder / "config.json"), str(folder / "config.json"))


def load_transformer(
    folder: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype, positions: int
) -> Transformer:
    """The model with its weights on `device` in `dtype`; raises CheckpointError naming the tensor."""
    with torch.device("meta"):
        model = Transformer(config, 0)
    wanted = dict(model.named_parameters())
    loaded: dict[str, Tensor] = {}
    for name, tensor, file in _tensors(folder):
        ours = name.removeprefix("model.")
        if ours not in wanted:
            continue  # rotary tables in old checkpoints, a tied head that is stored all the same
        shape, expected = tuple(tensor.shape), tuple(wanted[ours].shape)
        if shape != expected:
            raise CheckpointError(f"{file}: {name} has the shape {shape}, not {expected}: {_AGAIN}")
        loaded[ours] = tensor.to(device=device, dtype=dtype)
    missing = sorted(wanted.keys() - loaded.keys())
    if missing:
        raise CheckpointError(f"{folder} lacks the tensor {missing[0]}: {_AGAIN}")
    model.load_state_dict(loaded, strict=False, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.set_positions(positions)
    return model.to(device).eval().requires_grad_(False)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor, Path]]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = _read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise CheckpointError(f"{index} has no weight_map: {_AGAIN}")
        files = sorted({folder / str(name) for name in places.values()})
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if file.resolve().parent != folder.resolve() and not file.is_symlink():
            raise CheckpointError(f"{index} names {file}, outside of its folder: {_AGAIN}")
        try:
            with safe_open(file, framework="pt") as content:
                for name in content.keys():  # noqa: SIM118 - safe_open is no mapping
                    yield name, content.get_tensor(name), file
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{file} is missing: a model folder needs all its .safetensors files."
            ) from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): {_AGAIN}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {_AGAIN}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object: {_AGAIN}")
    return data
