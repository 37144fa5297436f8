"""What was extracted from one content, packed for the store and unpacked again. Pure.

A reference costs about three bytes this way and a symbol's row about thirty-five, a fifth of what they
take as rows with indexes; a worker process hands the writer bytes that go into the database as they are.
"""

import json
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from operator import sub
from typing import Any, NamedTuple, overload

from codellama_index.captures import Mentions
from codellama_index.extract import Chunk, Extract
from codellama_index.records import Span, Symbol
from codellama_index.words import identifiers, searchable

_LEVEL = 6
# BM25 hardly tells a fourth occurrence of a word from a third; leaving it out saves a fifth of the index.
_OCCURRENCES = 3
_LONGEST_WORD, LONGEST_NUMBER = 40, 4
_NO_TOKEN = re.compile(r"[^\w$]")


class Passage(NamedTuple):
    """The words to find a chunk by."""

    body: str
    name: str


class Packed(NamedTuple):
    """One content as it is stored: plain values only, so that `marshal` can carry it."""

    size: int
    imports: str
    names: tuple[str, ...]
    symbols: bytes
    mentions: bytes
    tokens: str
    chunks: bytes
    passages: tuple[Passage, ...]


def pack(text: str, extract: Extract) -> Packed:
    """All of an extract; `text` is what it was extracted from."""
    lines = text.splitlines()
    # A method is found by the words of its class, and a function by the comment above it: neither stands
    # in its own lines.
    around = {(s.start_line, s.name): f"{s.scope}\n{s.docstring}" for s in extract.symbols}
    passages = tuple(
        Passage(
            _words(around.get((start, name), ""), lines[start - 1 : end]),
            searchable(name),
        )
        for start, end, name in extract.chunks
    )
    names = dict.fromkeys(map(token, dict.fromkeys(extract.references.names)))
    return Packed(
        len(text.encode("utf-8", "replace")),
        "\n".join(extract.imports),
        tuple(symbol.name for symbol in extract.symbols),
        pack_symbols(extract.symbols),
        pack_mentions(extract.references),
        " ".join(names),
        pack_chunks(extract.chunks),
        passages,
    )


def token(name: str) -> str:
    """The word by which the references to a name are found; names that differ in odd characters share one."""
    return _NO_TOKEN.sub("_", name)


def pack_symbols(symbols: Sequence[Symbol]) -> bytes:
    """Symbols without their path, column by column: like stands beside like and compresses well."""
    rows = [
        (
            *(s.name, s.kind, s.line, s.start_line, s.end_line, s.span.start, s.span.end),
            *(s.scope, s.signature, s.docstring),
        )
        for s in symbols
    ]
    if not rows:
        return b""
    return zlib.compress(json.dumps(list(zip(*rows, strict=True)), ensure_ascii=False).encode(), _LEVEL)


@lru_cache(maxsize=256)
def unpack_symbols(path: str, packed: bytes) -> "Outline":
    """The symbols of a file; raises ValueError or zlib.error where the bytes are damaged."""
    return Outline(path, packed)


class Outline(Sequence[Symbol]):
    """A file's symbols in their order. Each is made when it is asked for: most questions are about one."""

    def __init__(self, path: str, packed: bytes) -> None:
        self._path = path
        self._columns: list[list[Any]] = json.loads(zlib.decompress(packed)) if packed else [[]] * 10
        if len({len(column) for column in self._columns}) != 1 or len(self._columns) != 10:
            raise ValueError("the columns of symbols differ in length")

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, place: int) -> Symbol: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Symbol, ...]: ...
    def __getitem__(self, place: int | slice) -> Symbol | tuple[Symbol, ...]:
        if isinstance(place, slice):
            return tuple(self[n] for n in range(*place.indices(len(self))))
        name, kind, line, first, last, start, end, *rest = (column[place] for column in self._columns)
        return Symbol(self._path, name, kind, line, first, last, Span(start, end), *rest)

    def of_passage(self, start_line: int, end_line: int) -> Symbol | None:
        """The definition that begins a passage, else the innermost one around it; fields aside."""
        _, kinds, _, starts, ends, *_ = self._columns
        around = None
        for n, (start, kind) in enumerate(zip(starts, kinds, strict=True)):
            if start == start_line and kind != "field":
                return self[n]
            if start <= start_line and end_line <= ends[n] and kind != "field":
                around = n
        return None if around is None else self[around]


def pack_chunks(chunks: Sequence[Chunk]) -> bytes:
    """Chunks column by column: first lines since the last chunk's, lengths, names."""
    if not chunks:
        return b""
    starts, ends, names = zip(*chunks, strict=True)
    gaps = [start - last for last, start in zip((0, *starts), starts, strict=False)]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    return zlib.compress(json.dumps([gaps, lengths, names], ensure_ascii=False).encode(), _LEVEL)


def unpack_chunks(packed: bytes) -> tuple[Chunk, ...]:
    """The chunks in their order; raises ValueError or zlib.error where the bytes are damaged."""
    columns = zip(*_chunk_columns(packed), strict=True)
    return tuple(Chunk(start, start + length, name) for start, length, name in columns)


def unpack_chunk(packed: bytes, place: int) -> Chunk:
    """One of the chunks; raises LookupError where it is none, else as `unpack_chunks`."""
    starts, lengths, names = _chunk_columns(packed)
    return Chunk(starts[place], starts[place] + lengths[place], names[place])


@lru_cache(maxsize=1024)
def _chunk_columns(packed: bytes) -> tuple[list[int], list[int], list[str]]:
    if not packed:
        return [], [], []
    gaps, lengths, names = json.loads(zlib.decompress(packed))
    return list(accumulate(gaps)), lengths, names


def pack_mentions(mentions: Mentions) -> bytes:
    """References as three arrays: which name, bytes since the last one's start, lines since the last one."""
    if not mentions:
        return b""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(mentions.names))}
    which = array("I", map(numbers.__getitem__, mentions.names))
    starts, lines = _gaps(mentions.starts), _gaps(mentions.lines)
    names = json.dumps(list(numbers), ensure_ascii=False).encode()
    head = array("I", [len(names), len(mentions)]).tobytes()
    return zlib.compress(head + names + _planes(which) + _planes(starts) + _planes(lines), _LEVEL)


class UnpackedMentions:
    """One content's references, unpacked; raises ValueError or zlib.error where they are damaged."""

    def __init__(self, packed: bytes) -> None:
        self.names: list[str] = []
        self._which = self._starts = self._lines = array("I")
        if not packed:
            return
        content = zlib.decompress(packed)
        length, count = array("I", content[:8])
        self.names = json.loads(content[8 : 8 + length])
        planes = [content[8 + length + n * 4 * count :][: 4 * count] for n in range(3)]
        self._which, self._starts, self._lines = (_unplaned(plane, count) for plane in planes)

    def counts(self) -> dict[str, int]:
        """How often each name is used."""
        return {self.names[number]: n for number, n in Counter(self._which).items()}

    def of(self, name: str) -> Iterator[tuple[int, int]]:
        """(line, first byte) of each use of a name, in order."""
        if name not in self.names:
            return
        number = self.names.index(name)
        places = zip(self._which, accumulate(self._lines), accumulate(self._starts), strict=True)
        for which, line, start in places:
            if which == number:
                yield line, start


def _words(around: str, lines: Sequence[str]) -> str:
    """The words of a passage, like beside like: a second place costs one byte then."""
    body = "\n".join(lines)
    said = [line for line in around.splitlines() if line not in body]
    counts = Counter(chain.from_iterable(map(_telling, identifiers("\n".join([*said, body])))))
    return " ".join(
        [word if n == 1 else " ".join([word] * min(n, _OCCURRENCES)) for word, n in counts.items()]
    )


@lru_cache(maxsize=1 << 16)
def _telling(identifier: str) -> tuple[str, ...]:
    """Its words that are worth finding a passage by: no lone letters, no long numbers, no data."""
    words = searchable(identifier).split()
    return tuple(
        word for word in words if 1 < len(word) <= (LONGEST_NUMBER if word.isdigit() else _LONGEST_WORD)
    )


def _gaps(numbers: Sequence[int]) -> "array[int]":
    return array("I", map(sub, numbers, chain((0,), numbers)))


def _planes(numbers: "array[int]") -> bytes:
    """All first bytes, then all second bytes, and so on: the rare high bytes compress to nothing."""
    content = numbers.tobytes()
    return b"".join(content[n :: numbers.itemsize] for n in range(numbers.itemsize))


def _unplaned(content: bytes, count: int) -> "array[int]":
    mixed = bytearray(4 * count)
    for n in range(4):
        mixed[n::4] = content[n * count : (n + 1) * count]
    return array("I", bytes(mixed))
