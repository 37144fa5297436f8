"""A file's bytes to what the index keeps of it: symbols, references, imports, chunks. Pure.

Broken source yields what can be read of it. Nothing here touches the disk or the store.
"""

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from codellama_index.captures import Mentions, captures
from codellama_index.languages import language_of
from codellama_index.records import Symbol
from codellama_index.symbols import symbols

CHUNK_LINES = 60
WINDOW_LINES = 40

_WORD = re.compile(r"\w").search
_WITH_MEMBERS = frozenset({"class", "interface", "enum", "module"})
_OWN_CHUNK = frozenset({"function", "method", "macro", "type"}) | _WITH_MEMBERS


class Chunk(NamedTuple):
    """A passage to search: 1-based lines, inclusive, and the name of the definition it is, if it is one."""

    start_line: int
    end_line: int
    name: str


@dataclass(frozen=True, slots=True)
class Extract:
    """All that the index keeps of one file's content."""

    symbols: tuple[Symbol, ...]
    references: Mentions
    imports: tuple[str, ...]
    chunks: tuple[Chunk, ...]


def decode(content: bytes) -> str | None:
    """A file's text, line breaks as they are: UTF-8, UTF-16 with its mark, else Latin-1; None if binary."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            return None
    if b"\0" in content[:8192]:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def extract(path: str, text: str) -> Extract:
    """Symbols, references, imports and chunks of a text; `path` (and the text) tell the language."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    language = language_of(path, text)
    if language is None:
        return Extract((), Mentions(), (), tuple(_chunks((), lines)))
    source = text.encode("utf-8", "replace")
    found = captures(language, source)
    defined = tuple(symbols(path, source, found))
    imports = tuple(dict.fromkeys(name for name in found.imports if name))
    return Extract(defined, found.references, imports, tuple(_chunks(defined, lines)))


def _chunks(symbols: tuple[Symbol, ...], lines: list[str]) -> Iterator[Chunk]:
    """Definitions, cut to at most CHUNK_LINES, and windows over the lines that none of them covers.

    What holds members is itself a chunk only up to the first of them; what stands between them is
    covered by windows that bear its name.
    """
    owners = [""] * (len(lines) + 2)
    covered = bytearray(len(lines) + 2)
    own = [symbol for symbol in symbols if symbol.kind in _OWN_CHUNK]
    starts = sorted(symbol.start_line for symbol in own)
    for symbol in own:
        end = min(symbol.end_line, len(lines))
        if symbol.kind in _WITH_MEMBERS:
            owners[symbol.start_line : end + 1] = [symbol.name] * (end + 1 - symbol.start_line)
            place = bisect.bisect_right(starts, symbol.start_line)
            if place < len(starts) and starts[place] <= end:
                end = starts[place] - 1
        for start in range(symbol.start_line, end + 1, CHUNK_LINES):
            yield Chunk(start, min(start + CHUNK_LINES - 1, end), symbol.name)
        covered[symbol.start_line : end + 1] = b"\1" * (end + 1 - symbol.start_line)
    yield from _windows(lines, covered, owners)


def _windows(lines: list[str], covered: bytearray, owners: list[str]) -> Iterator[Chunk]:
    start = 0
    for line in range(1, len(lines) + 2):
        free = line <= len(lines) and not covered[line]
        if start and (not free or line - start >= WINDOW_LINES or owners[line] != owners[start]):
            # Inside of something, a lone closing bracket is no passage.
            if not owners[start] or any(map(_WORD, lines[start - 1 : line - 1])):
                yield Chunk(start, line - 1, owners[start])
            start = 0
        if free and not start:
            start = line
