"""Reads Hugging Face folders: `config.json` and `*.safetensors`. Free of torch at import."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights import safetensors
from codellama.runtime.weights.tensors import AGAIN, Block, Format, TensorInfo, assemble

if TYPE_CHECKING:
    from torch import Tensor

_SAFETENSORS = "model.safetensors"


class HuggingFaceCheckpoint:
    """A folder as transformers writes it."""

    format: Format = "hugging-face"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        self.config = ModelConfig.from_hugging_face(read_json(config), str(config))
        self._infos: list[TensorInfo] | None = None

    def infos(self) -> list[TensorInfo]:
        if self._infos is None:
            self._infos = [info for file in _files(self.path) for info in safetensors.infos(file)]
        return self._infos

    def blocks(self, info: TensorInfo) -> Iterator[Block]:
        return safetensors.blocks(info)

    def tensors(self) -> "Iterator[tuple[TensorInfo, Tensor]]":
        return assemble(self)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises CheckpointError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object: {AGAIN}")
    return data


def _files(folder: Path) -> list[Path]:
    index = folder / f"{_SAFETENSORS}.index.json"
    if not index.is_file():
        return [folder / _SAFETENSORS]
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"{index} has no weight_map: {AGAIN}")
    files = sorted({folder / str(name) for name in places.values()})
    for file in files:
        if file.resolve().parent != folder.resolve() and not file.is_symlink():
            raise CheckpointError(f"{index} names {file}, outside of its folder: {AGAIN}")
    return files
