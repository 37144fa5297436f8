"""Reads one .safetensors file, through the safetensors package. Free of torch at import.

The package checks the header against the file's size before anything is read.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights.mapped import check_dtype
from codellama.runtime.weights.tensors import AGAIN, Block, TensorInfo, row_blocks, shown

if TYPE_CHECKING:
    from torch import Tensor

# Headers up to this size are looked through for the tensor that is wrong.
_MOST_EXPLAINED_BYTES = 4 * 2**20
_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}


def infos(file: Path) -> list[TensorInfo]:
    """The tensors of a file; raises CheckpointError where its header is wrong."""
    with _opened(file, "np") as content:
        slices = ((name, content.get_slice(name)) for name in content.keys())  # noqa: SIM118 - no mapping
        return [TensorInfo(name, tuple(s.get_shape()), str(s.get_dtype()), file) for name, s in slices]


def blocks(info: TensorInfo) -> Iterator[Block]:
    """The tensor in blocks of rows.

    Each block maps the file anew, so that the pages of the last one are given back.
    """
    check_dtype(info.file, info.name, info.dtype)
    if not info.shape:
        with _opened(info.file, "pt") as content:
            yield (), content.get_tensor(info.name)
        return
    for here in row_blocks(info.shape, prod(info.shape[1:]) * 4):
        yield (here,), rows(info, here)


def rows(info: TensorInfo, here: slice) -> "Tensor":
    """Rows of a tensor of any dtype."""
    with _opened(info.file, "pt") as content:
        part: Tensor = content.get_slice(info.name)[here]
    return part


@contextmanager
def _opened(file: Path, framework: str) -> Iterator[Any]:
    try:
        with safe_open(file, framework=framework) as content:
            yield content
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file} is missing: a model folder needs all its .safetensors files."
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({shown(str(error))}{_culprit(file)}): {AGAIN}"
        ) from error


def _culprit(file: Path) -> str:
    """The first tensor whose shape, dtype and place do not agree: the package does not always name it."""
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if length > min(file.stat().st_size, _MOST_EXPLAINED_BYTES):
                return ""
            header = json.loads(content.read(length))
        data = file.stat().st_size - 8 - length
        for name, entry in header.items():
            if name != "__metadata__" and not _fits(entry, data):
                return f", tensor `{shown(name)}`"
    except (OSError, ValueError, RecursionError, AttributeError):
        pass
    return ""


def _fits(entry: Any, data: int) -> bool:
    try:
        width, (start, end) = _BITS[entry["dtype"]], entry["data_offsets"]
        return (
            min(entry["shape"], default=0) >= 0
            and 8 * (end - start) == width * prod(entry["shape"])
            and end <= data
        )
    except (LookupError, TypeError, ValueError):
        return False
