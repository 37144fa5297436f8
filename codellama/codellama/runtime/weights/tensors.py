"""What every reader of a checkpoint yields: tensors by Hugging Face's names. Free of torch at import.

A reader opens a checkpoint by its headers alone, and refuses there what contradicts itself: all that is
read later has been checked against the size of its file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["hugging-face", "meta", "gguf"]

# Bytes of a tensor that are read at a time: what a load needs beside the weights themselves.
BLOCK_BYTES = 4 * 2**20

# The largest index of a Llama (Maverick's) is far below this.
_MOST_JSON_BYTES = 64 * 2**20

AGAIN = "the file is damaged or incomplete, fetch the checkpoint again."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor, from the headers.

    `name` and `shape` are Hugging Face's, whatever the format; `dtype` is the file's (F32, BF16, Q4_K, …);
    `file` holds it (`consolidated.*.pth`: a part is in each).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


# A place in a tensor and what belongs there, in a floating dtype that torch computes with.
Block = tuple[tuple[slice, ...], "Tensor"]


class Checkpoint(Protocol):
    """A model on disk, opened by its headers."""

    path: Path
    format: Format
    config: ModelConfig

    def infos(self) -> list[TensorInfo]:
        """Every tensor of the language model, in no particular order."""
        ...

    def blocks(self, info: TensorInfo) -> Iterator[Block]:
        """The tensor in pieces of about BLOCK_BYTES, read as they are asked for.

        Raises CheckpointError naming file and tensor.
        """
        ...


def row_blocks(shape: tuple[int, ...], row_bytes: int, multiple: int = 1) -> Iterator[slice]:
    """Slices of the first dimension that cover `shape`, each of about BLOCK_BYTES, in `multiple` rows."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes * multiple)) * multiple
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def shown(text: str) -> str:
    """A text out of a file, fit for a sentence: short, and nothing that a terminal obeys."""
    return text if text.isprintable() and len(text) <= 200 else repr(text[:200])


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises CheckpointError."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than any description of a model: {AGAIN}")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({shown(str(error))}): {AGAIN}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object: {AGAIN}")
    return data
