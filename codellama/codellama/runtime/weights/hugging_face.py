"""Reads Hugging Face folders: `config.json` and the weights, one file or shards. Free of torch at import.

Weights are `model.safetensors`, or else `pytorch_model.bin`, of which nothing is run (see `pickled`).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights import compressed_tensors, mapped, pickled, safetensors
from codellama.runtime.weights.tensors import AGAIN, Block, Format, TensorInfo, read_json

# Llama 4's folders hold its text decoder under a name of its own, beside what sees pictures.
_TEXT, _VISION = "language_model.", ("vision_model.", "multi_modal_projector.")
_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"


class HuggingFaceCheckpoint:
    """A folder as transformers writes it."""

    format: Format = "hugging-face"

    def __init__(self, path: Path) -> None:
        self.path = path
        config = path / "config.json"
        described = read_json(config)
        self._quantised = bool(described.get("quantization_config"))
        if self._quantised:
            compressed_tensors.check(described["quantization_config"], str(config))
        self.config = ModelConfig.from_hugging_face(described, str(config))
        self._stored: dict[str, TensorInfo] = {}
        self._pickled: dict[str, mapped.Extent] = {}
        self._int8: dict[str, tuple[TensorInfo, TensorInfo]] = {}

    def infos(self) -> list[TensorInfo]:
        if not self._stored:
            files, places = _files(self.path)
            for file in files:
                for info in self._read(file):
                    if places.get(info.name, file.name) == file.name and not info.name.startswith(_VISION):
                        self._stored[info.name.removeprefix(_TEXT)] = info
            if self._quantised:
                self._int8 = compressed_tensors.paired(self._stored)
        scales = {name + compressed_tensors.SCALE for name in self._int8}
        return [replace(i, name=name) for name, i in self._stored.items() if name not in scales]

    def blocks(self, info: TensorInfo) -> Iterator[Block]:
        if info.name in self._int8:
            return compressed_tensors.blocks(*self._int8[info.name])
        stored = self._stored[info.name]
        if stored.name in self._pickled:
            return mapped.blocks(self._pickled[stored.name])
        return safetensors.blocks(stored)

    def _read(self, file: Path) -> list[TensorInfo]:
        if file.suffix != ".bin":
            return safetensors.infos(file)
        extents = pickled.extents(file)
        self._pickled |= {extent.name: extent for extent in extents}
        return [TensorInfo(e.name, e.shape, e.dtype, e.file) for e in extents]


def _files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files of the weights, and the names of those that the index gives for each tensor."""
    for name in (_SAFETENSORS, _PICKLED):
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not places:
                raise CheckpointError(f"{index} has no weight_map: {AGAIN}")
            suffix = Path(name).suffix
            for place in places.values():
                if not isinstance(place, str) or Path(place).name != place or not place.endswith(suffix):
                    raise CheckpointError(
                        f"{index} names {place!r:.200}, which is no {suffix} file of its folder: {AGAIN}"
                    )
            return sorted({folder / place for place in places.values()}), places
        if (folder / name).is_file():
            return [folder / name], {}
    raise CheckpointError(
        f"{folder / _SAFETENSORS} is missing: a model folder needs its .safetensors files, or "
        "pytorch_model.bin."
    )
