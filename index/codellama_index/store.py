"""All SQL of the index: one SQLite file in WAL mode, one writer, any number of readers.

A file that is damaged, or of another version, is built anew. Errors of the disk become StoreError.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama_index import schema
from codellama_index.errors import StoreError
from codellama_index.extract import Extract
from codellama_index.records import Reference, Span, Symbol
from codellama_index.walk import FoundFile
from codellama_index.words import searchable

_BUSY_MS = 30_000
_SYMBOL = (
    "f.path, s.name, s.kind, s.line, s.start_line, s.end_line, s.start, s.stop, s.scope, s.signature,"
    " s.docstring"
)


class Damaged(Exception):
    """The database's content is not what SQLite or the schema expects; the caller rebuilds."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What the store knows of a path in this worktree."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    skip: str


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk that a text query found; a lower `bm25` is better."""

    path: str
    start_line: int
    end_line: int
    name: str
    bm25: float


class Store:
    """One worktree's view of the database at `path`; each thread has its own connection."""

    def __init__(self, path: Path, worktree: str) -> None:
        self.path = path
        self.worktree = worktree
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._generation = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(_cannot(path, error)) from error
        if not self._fits():
            self.rebuild()

    @contextmanager
    def atomic(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it or nothing."""
        with self._translated():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:
                    connection.rollback()
                raise
            connection.commit()

    def rebuild(self) -> None:
        """Replaces the database by an empty one, made beside it and swapped in."""
        self.close()
        beside = self.path.with_suffix(f".{os.getpid()}.new")
        with self._translated():
            beside.unlink(missing_ok=True)
            connection = sqlite3.connect(beside)
            try:
                connection.executescript(schema.DDL)
                connection.execute("INSERT INTO meta VALUES ('version', ?)", (schema.version(),))
                connection.commit()
            finally:
                connection.close()
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            beside.replace(self.path)

    def close(self) -> None:
        """Closes the connections of all threads; later use opens new ones."""
        self._generation += 1
        for connection in self._open:
            connection.close()
        self._open.clear()

    # Files and blobs

    def files(self) -> dict[str, StoredFile]:
        """All files of this worktree by path."""
        rows = self._rows(
            "SELECT path, size, mtime_ns, inode, skip FROM file WHERE worktree = ?", (self.worktree,)
        )
        return {row[0]: StoredFile(*row) for row in rows}

    def blob_of(self, digest: bytes) -> tuple[int, str] | None:
        """The id of the content and why it was skipped ("" if it was not)."""
        rows = self._rows("SELECT id, skip FROM blob WHERE hash = ?", (digest,))
        return (rows[0][0], rows[0][1]) if rows else None

    def add_blob(self, digest: bytes, text: str, skip: str, extract: Extract) -> int:
        """Stores what was extracted from a content; inside `atomic`."""
        connection = self._connection()
        cursor = connection.execute(
            "INSERT INTO blob (hash, bytes, skip, imports) VALUES (?, ?, ?, ?)",
            (digest, len(text.encode("utf-8", "replace")), skip, "\n".join(extract.imports)),
        )
        blob = cursor.lastrowid
        assert blob is not None
        connection.executemany(
            "INSERT INTO symbol VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(blob, s.name, s.kind, s.line, s.start_line, s.end_line),
                    *(s.span.start, s.span.end, s.scope, s.signature, s.docstring),
                )
                for s in extract.symbols
            ],
        )
        connection.executemany(
            "INSERT INTO reference VALUES (?, ?, ?, ?, ?)",
            [(blob, *mention) for mention in extract.references],
        )
        lines = text.splitlines()
        for chunk in extract.chunks:
            row = connection.execute(
                "INSERT INTO chunk (blob, start_line, end_line, name) VALUES (?, ?, ?, ?)",
                (blob, chunk.start_line, chunk.end_line, chunk.name),
            ).lastrowid
            body = "\n".join(lines[chunk.start_line - 1 : chunk.end_line])
            connection.execute(
                "INSERT INTO text (rowid, name, body) VALUES (?, ?, ?)",
                (row, searchable(chunk.name), searchable(body)),
            )
        return blob

    def link(self, file: FoundFile, blob: int | None, skip: str) -> None:
        """Says what content a path has now; inside `atomic`."""
        self._connection().execute(
            "INSERT OR REPLACE INTO file (worktree, path, blob, size, mtime_ns, inode, skip)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.worktree, file.path, blob, file.size, file.mtime_ns, file.inode, skip),
        )

    def unlink(self, paths: Iterable[str]) -> None:
        """Forgets paths; inside `atomic`. Their contents stay for the branch that has them."""
        self._connection().executemany(
            "DELETE FROM file WHERE worktree = ? AND path = ?", [(self.worktree, path) for path in paths]
        )

    def prune(self) -> None:
        """Drops contents that no file has, once they outnumber those that one has; inside `atomic`."""
        connection = self._connection()
        orphans = "SELECT id FROM blob WHERE id NOT IN (SELECT blob FROM file WHERE blob IS NOT NULL)"
        (unused,) = connection.execute(f"SELECT count(*) FROM ({orphans})").fetchone()
        (total,) = connection.execute("SELECT count(*) FROM blob").fetchone()
        if unused * 2 <= total:
            return
        connection.execute(
            f"DELETE FROM text WHERE rowid IN (SELECT id FROM chunk WHERE blob IN ({orphans}))"
        )
        for table in ("chunk", "symbol", "reference"):
            connection.execute(f"DELETE FROM {table} WHERE blob IN ({orphans})")
        connection.execute(f"DELETE FROM blob WHERE id IN ({orphans})")

    def set_ranks(self, ranks: dict[str, float]) -> None:
        """Stores each file's rank; inside `atomic`."""
        self._connection().executemany(
            "UPDATE file SET rank = ? WHERE worktree = ? AND path = ?",
            [(rank, self.worktree, path) for path, rank in ranks.items()],
        )

    # Queries

    def totals(self) -> tuple[int, int]:
        """Symbols, and bytes of indexed source, in this worktree."""
        row = self._rows(
            "SELECT (SELECT count(*) FROM file f JOIN symbol s ON s.blob = f.blob WHERE f.worktree = ?1),"
            " (SELECT coalesce(sum(b.bytes), 0) FROM file f JOIN blob b ON b.id = f.blob"
            "  WHERE f.worktree = ?1 AND f.skip = '')",
            (self.worktree,),
        )[0]
        return row[0], row[1]

    def ranks(self) -> dict[str, float]:
        """Each indexed file's rank."""
        rows = self._rows("SELECT path, rank FROM file WHERE worktree = ? AND skip = ''", (self.worktree,))
        return dict(rows)

    def imports(self, path: str) -> list[str]:
        """The names that a file imports."""
        rows = self._rows(
            "SELECT b.imports FROM file f JOIN blob b ON b.id = f.blob WHERE f.worktree = ? AND f.path = ?",
            (self.worktree, path),
        )
        return rows[0][0].split("\n") if rows and rows[0][0] else []

    def symbols_named(self, names: Sequence[str]) -> list[Symbol]:
        """Definitions with exactly one of these names."""
        return self._symbols(f"s.name IN ({', '.join('?' * len(names))})", tuple(names))

    def symbols_like(self, pattern: str, limit: int) -> list[Symbol]:
        """Definitions whose name matches an SQL LIKE pattern (`\\` escapes), regardless of case."""
        return self._symbols("s.name LIKE ? ESCAPE '\\'", (pattern,), limit)

    def symbols_in(self, path: str) -> list[Symbol]:
        """A file's definitions in order."""
        return self._symbols("f.path = ?", (path,))

    def all_symbols(self) -> list[Symbol]:
        """Every definition, by path and place."""
        return self._symbols("1", ())

    def references(self, name: str, limit: int) -> list[Reference]:
        """Uses of a name; the text of their lines is not stored and left empty."""
        rows = self._rows(
            "SELECT f.path, r.name, r.line, r.start, r.stop FROM reference r JOIN file f ON f.blob = r.blob"
            " WHERE r.name = ? AND f.worktree = ? ORDER BY f.path, r.start LIMIT ?",
            (name, self.worktree, limit),
        )
        return [Reference(path, name, line, "", Span(start, stop)) for path, name, line, start, stop in rows]

    def search(self, query: str, limit: int) -> list[FoundChunk]:
        """Chunks that match an FTS5 query, by BM25 with names counting four times."""
        rows = self._rows(
            "SELECT f.path, c.start_line, c.end_line, c.name, t.score FROM"
            " (SELECT rowid, bm25(text, 4.0, 1.0) AS score FROM text WHERE text MATCH ?"
            "  ORDER BY score LIMIT ?) t"
            " JOIN chunk c ON c.id = t.rowid JOIN file f ON f.blob = c.blob"
            " WHERE f.worktree = ? AND f.skip = '' ORDER BY t.score LIMIT ?",
            (query, 4 * limit, self.worktree, limit),
        )
        return [FoundChunk(*row) for row in rows]

    def edges(self) -> list[tuple[str, str, int]]:
        """(using file, defining file, uses) for names that at most three files define."""
        return self._rows(
            "WITH definer AS (SELECT s.name, f.path FROM symbol s JOIN file f ON f.blob = s.blob"
            "   WHERE f.worktree = ?1 AND length(s.name) > 2 GROUP BY s.name, f.path),"
            " rare AS (SELECT name FROM definer GROUP BY name HAVING count(*) <= 3)"
            " SELECT f.path, d.path, count(*) FROM reference r JOIN rare USING (name)"
            " JOIN definer d USING (name) JOIN file f ON f.blob = r.blob"
            " WHERE f.worktree = ?1 AND f.path != d.path GROUP BY f.path, d.path",
            (self.worktree,),
        )

    def _symbols(self, where: str, values: tuple[object, ...], limit: int = -1) -> list[Symbol]:
        rows = self._rows(
            f"SELECT {_SYMBOL} FROM symbol s JOIN file f ON f.blob = s.blob"
            f" WHERE f.worktree = ? AND {where} ORDER BY f.path, s.start LIMIT ?",
            (self.worktree, *values, limit),
        )
        return [_symbol(row) for row in rows]

    def _rows(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        with self._translated():
            return self._connection().execute(sql, values).fetchall()

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None or self._local.generation != self._generation:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection, self._local.generation = connection, self._generation
            self._open.append(connection)
        return connection

    def _fits(self) -> bool:
        if not self.path.exists():
            return False
        try:
            rows = self._rows("SELECT value FROM meta WHERE key = 'version'", ())
        except Damaged:
            return False
        return bool(rows) and rows[0][0] == schema.version()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if any(word in str(error) for word in ("no such table", "no such column", "malformed")):
                raise Damaged(str(error)) from error
            raise StoreError(_cannot(self.path, error)) from error
        except sqlite3.DatabaseError as error:
            raise Damaged(str(error)) from error
        except OSError as error:
            raise StoreError(_cannot(self.path, error)) from error


def _symbol(row: tuple[Any, ...]) -> Symbol:
    path, name, kind, line, start_line, end_line, start, stop, scope, signature, docstring = row
    span = Span(start, stop)
    return Symbol(path, name, kind, line, start_line, end_line, span, scope, signature, docstring)


def _cannot(path: Path, error: Exception) -> str:
    return (
        f"The index {path} cannot be used ({error}): free some space on its disk, or make its folder "
        "writable."
    )
