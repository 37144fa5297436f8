"""A tensor that lies in parts: where each part is, and where it belongs. Free of torch at import."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights import mapped
from codellama.runtime.weights.mapped import Extent
from codellama.runtime.weights.tensors import AGAIN, Block

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Elements in a file, and where their first belongs in the tensor that they are part of.

    `at` has an index for each of the tensor's dimensions: where it has more than the part, the first ones
    say which matrix of a stack the part belongs to. Each of `copies` holds the same elements once more.
    """

    extent: Extent
    at: tuple[int, ...]
    copies: tuple[Extent, ...] = ()


class Joined:
    """The tensor that the parts make up."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.dtype = parts[0].extent.dtype
        sizes = [(1,) * (len(p.at) - len(p.extent.shape)) + p.extent.shape for p in parts]
        ends = [
            [n + size for n, size in zip(p.at, s, strict=True)] for p, s in zip(parts, sizes, strict=True)
        ]
        self.shape = tuple(max(end) for end in zip(*ends, strict=True))

    @property
    def file(self) -> Path:
        """The file, or a name that says that several hold it."""
        files = {part.extent.file for part in self.parts}
        first = self.parts[0].extent.file
        return first if len(files) == 1 else first.with_name("consolidated.*.pth")

    def blocks(self, head_dim: int = 0) -> Iterator[Block]:
        """Every part in blocks of rows, those of heads of `head_dim` put in Hugging Face's order.

        Raises CheckpointError where a copy differs.
        """
        for part in self.parts:
            extent = part.extent
            mapped.check_dtype(extent.file, extent.name, extent.dtype)
            stack = len(part.at) - len(extent.shape)
            first, *others = part.at[stack:]
            inner = [slice(n, n + size) for n, size in zip(others, extent.shape[1:], strict=True)]
            outer = [slice(n, n + 1) for n in part.at[:stack]]
            for rows, piece in mapped.row_extents(extent, max(1, head_dim)):
                block = mapped.read(piece)
                _check_copies(part, rows, block)
                if head_dim:
                    block = mapped.halves_from_pairs(block, head_dim)
                place = (*outer, slice(first + rows.start, first + rows.stop), *inner)
                yield place, block[(None,) * stack]


def side_by_side(
    extents: Sequence[Extent], dimension: int, copies: Sequence[Sequence[Extent]] = ()
) -> Joined:
    """Slices of one tensor that lie side by side along `dimension`; each of `copies` holds them once more."""
    width = extents[0].shape[dimension]
    parts = []
    for n, extent in enumerate(extents):
        at = [0] * len(extent.shape)
        at[dimension] = n * width
        parts.append(Part(extent, tuple(at), tuple(copy[n] for copy in copies)))
    return Joined(parts)


def _check_copies(part: Part, rows: slice, block: "Tensor") -> None:
    for copy in part.copies:
        if not mapped.read(mapped.rows_of(copy, rows)).equal(block):
            raise CheckpointError(
                f"{copy.file}: {copy.name} differs from {part.extent.file.name}, which holds the same heads: "
                f"{AGAIN}"
            )
