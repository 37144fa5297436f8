"""What is asked of the index: the only other module that knows SQL. Nothing is written here.

Symbols and references come out of packed values, so a query first finds the few contents that matter and
unpacks those alone.
"""

import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from codellama_index.database import Damaged
from codellama_index.extract import Chunk
from codellama_index.packed import (
    Outline,
    UnpackedMentions,
    token,
    unpack_chunk,
    unpack_chunks,
    unpack_symbols,
)
from codellama_index.records import Reference, Span, Symbol
from codellama_index.store import Store

_MINE = " JOIN worktree w ON w.id = f.worktree AND w.root = ?"


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk that a text query found; a lower `bm25` is better."""

    path: str
    start_line: int
    end_line: int
    name: str
    bm25: float


@dataclass(frozen=True, slots=True)
class Unencoded:
    """A file whose content has no vectors yet."""

    path: str
    digest: bytes
    bytes: int


class Queries:
    """Questions about one worktree."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def totals(self) -> tuple[int, int]:
        """Symbols, and bytes of indexed source, in this worktree."""
        rows = self._mine(
            "SELECT coalesce(sum(b.symbols), 0), coalesce(sum(b.bytes), 0) FROM file f"
            " JOIN blob b ON b.id = f.blob AND f.skip = ''" + _MINE
        )
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    def ranks(self) -> dict[str, float]:
        """Each indexed file's rank."""
        return dict(self._mine("SELECT f.path, f.rank FROM file f" + _MINE + " WHERE f.skip = ''"))

    def paths(self) -> list[str]:
        """Every indexed file."""
        return [path for (path,) in self._mine("SELECT f.path FROM file f" + _MINE + " WHERE f.skip = ''")]

    def spans(self) -> list[tuple[int, int, str, int]]:
        """(first chunk's number, chunks, path, bytes) of each indexed file with chunks, by that number."""
        return self._mine(
            "SELECT b.first_chunk, b.chunks, f.path, b.bytes FROM file f JOIN blob b ON b.id = f.blob"
            + _MINE
            + " WHERE f.skip = '' AND b.chunks > 0 ORDER BY b.first_chunk, f.path"
        )

    def neighbours(self, suffix: str) -> list[tuple[str, str, int, float]]:
        """(path, names it imports by lines, mtime in ns, rank) of the files whose names end so."""
        return self._mine(
            "SELECT f.path, b.imports, f.mtime_ns, f.rank FROM file f JOIN blob b ON b.id = f.blob"
            + _MINE
            + " WHERE f.skip = '' AND substr(f.path, ?) = ?",
            -max(len(suffix), 1),
            suffix,
        )

    def importers(self, module: str) -> list[str]:
        """The files whose imports have a part of this name."""
        rows = self._mine(
            "SELECT f.path, b.imports FROM file f JOIN blob b ON b.id = f.blob"
            + _MINE
            + " WHERE f.skip = '' AND instr(b.imports, ?) ORDER BY f.path",
            module,
        )
        part = re.compile(rf"(?<![\w$]){re.escape(module)}(?![\w$])")
        return [path for path, imports in rows if part.search(imports)]

    def imports(self, path: str) -> list[str]:
        """The names that a file imports."""
        rows = self._mine(
            "SELECT b.imports FROM file f JOIN blob b ON b.id = f.blob" + _MINE + " WHERE f.path = ?", path
        )
        return rows[0][0].split("\n") if rows and rows[0][0] else []

    def symbols_named(self, names: Sequence[str]) -> list[Symbol]:
        """Definitions with exactly one of these names."""
        wanted = set(names)
        found = self._symbols(f"s.name IN ({', '.join('?' * len(wanted))})", *wanted)
        return [symbol for symbol in found if symbol.name in wanted]

    def defined(self, name: str, limit: int) -> list[Symbol]:
        """Definitions with exactly this name, those in the most central files first."""
        rows = self._mine(
            "SELECT f.path, s.place FROM symbol s JOIN file f ON f.blob = s.blob"
            + _MINE
            # The index is by the name regardless of case, and what follows it looks at the case.
            + " WHERE s.name = ? AND s.name = ? COLLATE BINARY ORDER BY f.rank DESC, f.path, s.place LIMIT ?",
            name,
            name,
            limit,
        )
        outlines = [(self.symbols_in(path), place) for path, place in rows]
        return [outline[place] for outline, place in outlines if place < len(outline)]

    def symbols_like(self, pattern: str, limit: int) -> list[Symbol]:
        """Definitions whose name matches an SQL LIKE pattern (`\\` escapes), regardless of case."""
        return self._symbols("s.name LIKE ? ESCAPE '\\'", pattern, limit=limit)

    def symbols_in(self, path: str) -> Outline:
        """A file's definitions in order."""
        rows = self._mine(
            "SELECT p.symbols FROM file f JOIN packed p ON p.blob = f.blob" + _MINE + " WHERE f.path = ?",
            path,
        )
        with _unpacking():
            return unpack_symbols(path, rows[0][0] if rows else b"")

    def all_symbols(self) -> list[Symbol]:
        """Every definition, by path and place."""
        rows = self._mine(
            "SELECT f.path, p.symbols FROM file f JOIN packed p ON p.blob = f.blob"
            + _MINE
            + " ORDER BY f.path"
        )
        with _unpacking():
            return [symbol for path, packed in rows for symbol in unpack_symbols(path, packed)]

    def references(self, name: str, limit: int) -> list[Reference]:
        """Uses of a name, by path and place; the text of their lines is not stored and left empty."""
        # CROSS JOIN: the few contents first. By files first, each file would be sought in all of them.
        blobs = self._mine(
            "SELECT f.path, f.blob FROM mention m CROSS JOIN file f ON f.blob = m.rowid"
            + _MINE
            + " WHERE mention MATCH ? ORDER BY f.path",
            _phrase(token(name)),
        )
        size = len(name.encode("utf-8", "replace"))
        found: list[Reference] = []
        for path, blob in blobs:
            for line, start in self._mentions(blob).of(name):
                found.append(Reference(path, name, line, "", Span(start, start + size)))
            if len(found) >= limit:
                break
        return found[:limit]

    def search(self, query: str, limit: int) -> list[FoundChunk]:
        """Chunks that match an FTS5 query, by BM25 with names counting four times."""
        rows: list[tuple[int, float]] = []
        found: list[FoundChunk] = []
        wanted = limit + limit // 8
        while len(found) < limit:  # contents of other branches and worktrees may come before ours
            more = self._store.rows(
                "SELECT rowid, bm25(text, 1.0, 4.0) AS score FROM text WHERE text MATCH ?"
                " ORDER BY score LIMIT ?",
                (query, wanted),
            )
            found += self._linked(more[len(rows) :])
            if len(more) < wanted:
                break
            rows, wanted = more, wanted * 8
        return found[:limit]

    def holding(self, word: str) -> int:
        """How many chunks have a word, those of other branches and worktrees among them."""
        rows = self._store.rows("SELECT count(*) FROM text WHERE text MATCH ?", (_phrase(word),))
        return rows[0][0] if rows else 0

    def shares(self, word: str) -> list[tuple[int, float]]:
        """(number, share) of the chunks with a word, those of other branches and worktrees among them: their
        BM25 as a share of what it tends to as the word fills them. A word in a name counts four times."""
        found = self._store.rows(
            "SELECT bm25(text, 1e9, 1e9) FROM text WHERE text MATCH ? LIMIT 1", (_phrase(word),)
        )
        if not found:
            return []
        return self._store.rows(
            "SELECT rowid, bm25(text, 1.0, 4.0) / ? FROM text WHERE text MATCH ?",
            (found[0][0], _phrase(word)),
        )

    def commits(self, query: str, limit: int) -> list[tuple[list[str], float]]:
        """(files changed, BM25) of the commits whose messages match an FTS5 query, best (lowest) first."""
        rows = self._store.rows(
            "SELECT h.paths, m.score FROM (SELECT rowid, bm25(message) AS score FROM message"
            " WHERE message MATCH ? ORDER BY score LIMIT ?) m JOIN history h ON h.id = m.rowid"
            " ORDER BY m.score, h.id",
            (query, limit),
        )
        return [(paths.split("\n"), score) for paths, score in rows]

    def definitions(self) -> list[tuple[str, str]]:
        """(name, file) of every definition; names come as often as they are defined."""
        return self._mine("SELECT s.name, f.path FROM symbol s CROSS JOIN file f ON f.blob = s.blob" + _MINE)

    def definers(self, names: Collection[str], most: int = 1 << 30) -> list[tuple[str, str, int]]:
        """(name, file, place in the file's outline) of definitions of exactly these names, unpacked later.

        Names with more than `most` definitions, other branches' and worktrees' among them, are left out.
        """
        found: list[tuple[str, str, int]] = []
        wanted = sorted(names)
        for first in range(0, len(wanted), 500):
            part = wanted[first : first + 500]
            found += self._mine(
                "SELECT s.name, f.path, s.place FROM symbol s CROSS JOIN file f ON f.blob = s.blob"
                + _MINE
                + f" WHERE s.name IN (SELECT name FROM symbol WHERE name IN ({', '.join('?' * len(part))})"
                " GROUP BY name COLLATE BINARY HAVING count(*) <= ?)",
                *part,
                most,
            )
        return [row for row in found if row[0] in names]

    def symbol_ranks(self) -> dict[tuple[str, str], float]:
        """Ranks of the most central symbols by (file, name)."""
        rows = self._store.rows(
            "SELECT r.path, r.name, r.rank FROM symbol_rank r JOIN worktree w ON w.id = r.worktree"
            " WHERE w.root = ?",
            (self._store.worktree,),
        )
        return {(path, name): rank for path, name, rank in rows}

    def mentions(self) -> Iterator[tuple[str, dict[str, int]]]:
        """How often each file uses which names."""
        rows = self._mine(
            "SELECT f.path, p.mentions FROM file f JOIN packed p ON p.blob = f.blob"
            + _MINE
            + " ORDER BY f.path"
        )
        with _unpacking():
            for path, packed in rows:
                yield path, UnpackedMentions(packed).counts()

    def chunks_in(self, path: str) -> tuple[Chunk, ...]:
        """A file's chunks in order."""
        rows = self._mine(
            "SELECT p.chunks FROM file f JOIN packed p ON p.blob = f.blob" + _MINE + " WHERE f.path = ?", path
        )
        with _unpacking():
            return unpack_chunks(rows[0][0]) if rows else ()

    def unencoded(self, model: str) -> list[Unencoded]:
        """The files with chunks but no vectors of this model, the most central first."""
        rows = self._mine(
            "SELECT f.path, b.hash, b.bytes FROM file f JOIN blob b ON b.id = f.blob AND b.chunks > 0"
            + _MINE
            + " WHERE f.skip = '' AND NOT EXISTS"
            " (SELECT 1 FROM vector v WHERE v.blob = b.id AND v.model = ?) ORDER BY f.rank DESC, f.path",
            model,
        )
        return [Unencoded(*row) for row in rows]

    def vectors(self, model: str, size: int) -> list[tuple[str, tuple[Chunk, ...], bytes]]:
        """(path, chunks, their vectors of `size` half-precision numbers) of every file that has some."""
        rows = self._mine(
            "SELECT f.path, p.chunks, v.vectors FROM vector v JOIN blob b ON b.id = v.blob"
            " JOIN packed p ON p.blob = b.id JOIN file f ON f.blob = b.id AND f.skip = ''"
            + _MINE
            + " WHERE v.model = ? AND length(v.vectors) = 2 * ? * b.chunks ORDER BY f.path",
            model,
            size,
        )
        with _unpacking():
            return [(path, unpack_chunks(chunks), vectors) for path, chunks, vectors in rows]

    def _linked(self, rows: Sequence[tuple[int, float]]) -> list[FoundChunk]:
        """The chunks of these rows that a file of this worktree has, in the rows' order."""
        found: list[FoundChunk] = []
        for first in range(0, len(rows), 500):
            part = dict(rows[first : first + 500])
            # CROSS JOIN: numbers first, then each one's content, then the files that have it.
            contents = self._store.rows(
                f"WITH wanted (id) AS (VALUES {', '.join(['(?)'] * len(part))})"
                " SELECT wanted.id, wanted.id - b.first_chunk, f.path, p.chunks FROM wanted CROSS JOIN blob b"
                " ON b.first_chunk = (SELECT max(first_chunk) FROM blob"
                " WHERE chunks > 0 AND first_chunk <= wanted.id)"
                " AND b.chunks > 0 AND wanted.id < b.first_chunk + b.chunks"
                " CROSS JOIN packed p ON p.blob = b.id CROSS JOIN file f ON f.blob = b.id AND f.skip = ''"
                + _MINE,
                (*part, self._store.worktree),
            )
            with _unpacking():
                chunks = [(part[n], path, unpack_chunk(packed, place)) for n, place, path, packed in contents]
            found += [
                FoundChunk(path, chunk.start_line, chunk.end_line, chunk.name, bm25)
                for bm25, path, chunk in sorted(chunks, key=lambda row: (row[0], row[1], row[2][0]))
            ]
        return found

    def _mentions(self, blob: int) -> UnpackedMentions:
        rows = self._store.rows("SELECT mentions FROM packed WHERE blob = ?", (blob,))
        with _unpacking():
            return UnpackedMentions(rows[0][0] if rows else b"")

    def _symbols(self, where: str, *values: object, limit: int = -1) -> list[Symbol]:
        # CROSS JOIN: names first. By files first, each file would look through all names.
        rows = self._mine(
            "SELECT f.path, s.blob, s.place FROM symbol s CROSS JOIN file f ON f.blob = s.blob"
            + _MINE
            + f" WHERE {where} ORDER BY f.path, s.place LIMIT ?",
            *values,
            limit,
        )
        outlines: dict[str, Outline] = {}
        for path, _, _ in rows:
            if path not in outlines:
                outlines[path] = self.symbols_in(path)
        try:
            return [outlines[path][place] for path, _, place in rows]
        except IndexError as error:
            raise Damaged("a symbol's place is not in its file") from error

    def _mine(self, sql: str, *values: object) -> list[Any]:
        """Rows of a query that joins `_MINE`, whose place comes before all others."""
        return self._store.rows(sql, (self._store.worktree, *values))


@contextmanager
def _unpacking() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, LookupError, zlib.error, EOFError) as error:
        raise Damaged(str(error)) from error


def _phrase(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'
