"""Reads GGUF files: the header here, the data through the gguf package. Free of torch at import.

The package's own reader trusts every count that a file holds, so a damaged file could make it run or
allocate without end. Here each count and offset is checked against the file's size before it is used.
"""

import array
import mmap
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights.tensors import AGAIN, shown

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Far above what any Llama has (1,200 tensors, a vocabulary and its merges of 650,000 strings).
_MOST_ENTRIES = 2**16
_MOST_STRINGS = 2**21

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `shape` as torch has it (rows first), `start` its first byte in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the data.

    Values of `metadata` are int, float, bool, str, `array.array` of numbers, or list of str or bool.
    """

    metadata: Mapping[str, object]
    tensors: tuple[GgufTensor, ...]


def read_header(path: Path) -> GgufHeader:
    """Reads and checks the header of a .gguf file; raises CheckpointError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _HeaderReader(path, content).read()
    except (OSError, ValueError) as error:  # mmap refuses an empty file with a ValueError
        raise CheckpointError(f"{path} cannot be read ({error}): {AGAIN}") from error


class _HeaderReader:
    """A cursor over the file that never leaves it."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path, self._content = path, content
        self._size = len(content)
        self._at = 0
        self._strings = 0

    def read(self) -> GgufHeader:
        if self._size < 24 or self._content[:4] != _MAGIC:
            raise CheckpointError(f"{self._path} is no GGUF file: name one, or fetch it again.")
        self._at = 4
        version = self._number("I")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{self._path} is a GGUF file of version {version}, and versions 2 and 3 in little-endian "
                "order are read: convert it with a current llama.cpp."
            )
        tensors, entries = int(self._number("Q")), int(self._number("Q"))
        self._check(tensors <= min(_MOST_ENTRIES, self._left // 24), f"cannot hold {tensors} tensors")
        self._check(entries <= min(_MOST_ENTRIES, self._left // 13), f"cannot hold {entries} entries")
        metadata: dict[str, object] = {}
        for _ in range(entries):
            key = self._string()
            self._check(key not in metadata, f"holds the key {key!r:.80} twice")
            metadata[key] = self._value(int(self._number("I")), key)
        found = [self._tensor() for _ in range(tensors)]
        return GgufHeader(metadata, self._placed(found, metadata.get("general.alignment", 32)))

    @property
    def _left(self) -> int:
        return self._size - self._at

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise CheckpointError(f"{self._path} {problem}: {AGAIN}")

    def _take(self, count: int, what: str) -> int:
        """Moves on by `count` bytes; where they begin."""
        self._check(count <= self._left, f"ends inside {what}")
        self._at += count
        return self._at - count

    def _number(self, code: str) -> int | float | bool:
        at = self._take(struct.calcsize("<" + code), "its header")
        number: int | float | bool = struct.unpack_from("<" + code, self._content, at)[0]
        return number

    def _string(self) -> str:
        length = int(self._number("Q"))
        at = self._take(length, "a text of its header")
        return self._content[at : at + length].decode("utf-8", "replace")

    def _value(self, kind: int, key: str) -> object:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        self._check(kind == _ARRAY, f"holds a value of the unknown type {kind} under {key!r:.80}")
        items, count = int(self._number("I")), int(self._number("Q"))
        if items == _STRING:
            self._strings += count
            self._check(
                count <= self._left // 8 and self._strings <= _MOST_STRINGS,
                f"cannot hold the {count} texts of {key!r:.80}",
            )
            return [self._string() for _ in range(count)]
        self._check(items in _SCALARS, f"holds an array of the unknown type {items} under {key!r:.80}")
        width = struct.calcsize("<" + _SCALARS[items])
        at = self._take(count * width, f"the array {key!r:.80}")
        raw = self._content[at : at + count * width]
        if items == 7:
            return [byte != 0 for byte in raw]
        numbers = array.array(_SCALARS[items])
        numbers.frombytes(raw)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = int(self._number("I"))
        self._check(1 <= dimensions <= 4, f"gives {shown(name)} {dimensions} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dimensions))[::-1]
        self._check(all(0 < n < 2**48 for n in shape), f"gives {shown(name)} the shape {shape}")
        return name, shape, int(self._number("I")), int(self._number("Q"))

    def _placed(
        self, found: list[tuple[str, tuple[int, ...], int, int]], alignment: object
    ) -> tuple[GgufTensor, ...]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        self._check(
            isinstance(alignment, int) and 0 < alignment <= 2**16 and alignment & (alignment - 1) == 0,
            f"gives the alignment {alignment}",
        )
        assert isinstance(alignment, int)
        base = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in found:
            self._check(name not in tensors, f"holds the tensor {shown(name)} twice")
            try:
                dtype = GGMLQuantizationType(kind)
            except ValueError as error:
                raise CheckpointError(
                    f"{self._path}: {shown(name)} has the unknown type {kind}: {AGAIN}"
                ) from error
            per_block, block_bytes = GGML_QUANT_SIZES[dtype]
            self._check(
                shape[-1] % per_block == 0, f"gives {shown(name)} rows of {shape[-1]} in {dtype.name}"
            )
            nbytes = prod(shape) // per_block * block_bytes
            self._check(base + offset + nbytes <= self._size, f"ends before the tensor {shown(name)} does")
            self._check(offset % alignment == 0, f"places {shown(name)} off its alignment")
            tensors[name] = GgufTensor(name, shape, dtype.name, base + offset, nbytes)
        end, last = 0, ""
        for tensor in sorted(tensors.values(), key=lambda t: t.start):
            self._check(tensor.start >= end, f"lets {shown(tensor.name)} overlap {shown(last)}")
            end, last = tensor.start + tensor.nbytes, tensor.name
        return tuple(tensors.values())
