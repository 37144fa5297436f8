"""Reads parts of a tensor from a file through memory maps. Free of torch at import.

Each read maps only the bytes that it needs, so that what has been copied out is given back at once.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights.tensors import AGAIN, Block, row_blocks

if TYPE_CHECKING:
    from torch import Tensor

# Bytes of an element, and torch's name, of the dtypes that weights come in.
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor's elements in a file: `start` in bytes, `strides` in elements."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    file: Path
    start: int

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


def read_bytes(file: Path, start: int, length: int) -> tuple[mmap.mmap, int]:
    """A private map of the file that holds the bytes, and where in it they begin."""
    before = start % mmap.ALLOCATIONGRANULARITY
    try:
        with file.open("rb") as content:
            return (
                mmap.mmap(content.fileno(), before + length, offset=start - before, access=mmap.ACCESS_COPY),
                before,
            )
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing: a model folder needs all its files.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): {AGAIN}") from error


def blocks(extent: Extent) -> Iterator[Block]:
    """The tensor in blocks of rows; raises CheckpointError where it holds no floating numbers."""
    check_dtype(extent.file, extent.name, extent.dtype)
    if not extent.shape:
        yield (), read(extent)
        return
    for rows, part in row_extents(extent):
        yield (rows,), read(part)


def check_dtype(file: Path, name: str, dtype: str) -> None:
    """Refuses what is not stored as plain floating numbers, such as FP8 with scales of its own."""
    if dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{file}: {name} is stored as {dtype}, and {', '.join(ITEM_BYTES)} are read: choose another "
            "variant of the checkpoint."
        )


def row_extents(extent: Extent, multiple: int = 1) -> Iterator[tuple[slice, Extent]]:
    """The tensor cut into blocks of rows, each but the last a multiple of `multiple` rows."""
    width = prod(extent.shape[1:]) * 4
    for rows in row_blocks(extent.shape, width, multiple):
        yield rows, rows_of(extent, rows)


def rows_of(extent: Extent, rows: slice) -> Extent:
    """The part of a tensor that these rows make up."""
    start = extent.start + rows.start * extent.strides[0] * ITEM_BYTES[extent.dtype]
    return replace(extent, shape=(rows.stop - rows.start, *extent.shape[1:]), start=start)


def read(extent: Extent) -> "Tensor":
    """The elements as a tensor over the map, in the file's dtype."""
    import torch

    content, offset = read_bytes(extent.file, extent.start, extent.span * ITEM_BYTES[extent.dtype])
    dtype: torch.dtype = getattr(torch, _TORCH[extent.dtype])
    flat = torch.frombuffer(content, dtype=dtype, count=extent.span, offset=offset)
    return flat.as_strided(extent.shape, extent.strides)


def halves_from_pairs(rows: "Tensor", head_dim: int) -> "Tensor":
    """Query or key rows [heads * head_dim, in], each head's from Meta's order into Hugging Face's.

    Meta's rotary embedding turns neighbouring pairs, Hugging Face's the two halves of a head.
    """
    heads = rows.shape[0] // head_dim
    return rows.view(heads, head_dim // 2, 2, -1).transpose(1, 2).reshape(rows.shape)
