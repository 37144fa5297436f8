"""All that is written to the database, and what is asked for it. What else is asked: see `queries`."""

import contextlib
import heapq
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from codellama_index.connections import Connections
from codellama_index.database import translated
from codellama_index.packed import Packed
from codellama_index.records import Commit
from codellama_index.walk import FoundFile

# Enough for any map that fits a prompt.
_RANKED_SYMBOLS = 5_000


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What the store knows of a path in this worktree."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    skip: str
    blob: int | None


@dataclass(frozen=True, slots=True)
class State:
    """Whether this worktree was gone through once, and how many files changed since ranks were made."""

    complete: bool
    changed: int


class Store(Connections):
    """One worktree's view of the database that `find` names at each use (None where there is none)."""

    def __init__(self, find: Callable[[], Path | None], worktree: str) -> None:
        super().__init__(find)
        self.worktree = worktree

    @contextmanager
    def atomic(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it or nothing. Reads inside it see what it wrote."""
        self._local.worktree = None  # its number may be given by a transaction that fails
        with super().atomic() as writer:
            yield writer

    def compact(self) -> None:
        """Merges the full-text tables and gives free pages back: a first build leaves a tenth too much.

        Skipped where a reader is in the way.
        """
        with translated(self._find), contextlib.suppress(sqlite3.OperationalError):
            own = self._own()
            if own is not None and own.writer is not None:
                for table in ("text", "mention", "message"):
                    own.writer.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
                own.writer.execute("VACUUM")

    # Files and blobs

    def files(self) -> dict[str, StoredFile]:
        """All files of this worktree by path."""
        return self._files("", ())

    def files_at(self, paths: Iterable[str]) -> dict[str, StoredFile]:
        """Those of these files, and in these folders."""
        found: dict[str, StoredFile] = {}
        for path in paths:
            found |= self._files(" AND path = ?", (path,))
            found |= self._files(" AND path > ? AND path < ?", (f"{path}/", f"{path}0"))  # "0" follows "/"
        return found

    def _files(self, where: str, values: tuple[str, ...]) -> dict[str, StoredFile]:
        rows = self.rows(
            "SELECT path, size, mtime_ns, ctime_ns, inode, skip, blob FROM worktree w"
            f" CROSS JOIN file f ON f.worktree = w.id WHERE w.root = ?{where}",
            (self.worktree, *values),
        )
        return {row[0]: StoredFile(*row) for row in rows}

    def blob_of(self, digest: bytes) -> tuple[int, str] | None:
        """The id of a content, and why it is left out ("" if it is not)."""
        rows = self.rows("SELECT id, skip FROM blob WHERE hash = ?", (digest,))
        return (rows[0][0], rows[0][1]) if rows else None

    def is_empty(self) -> bool:
        """Whether no content is stored at all, so that looking for one is in vain."""
        return not self.rows("SELECT 1 FROM blob LIMIT 1")

    def add_blob(self, digest: bytes, skip: str, packed: Packed) -> int:
        """Stores what was extracted from a content; inside `atomic`."""
        connection = self._local.writing
        (last,) = connection.execute("SELECT value FROM meta WHERE key = 'last_chunk'").fetchone()
        first = int(last) + 1
        values = (digest, packed.size, skip, packed.imports, len(packed.names), first, len(packed.passages))
        blob: int = connection.execute(
            "INSERT INTO blob (hash, bytes, skip, imports, symbols, first_chunk, chunks)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        ).lastrowid
        connection.executemany(
            "INSERT INTO symbol VALUES (?, ?, ?)", [(name, blob, n) for n, name in enumerate(packed.names)]
        )
        columns = (packed.symbols, packed.mentions, packed.chunks)
        if any(columns):
            connection.execute("INSERT INTO packed VALUES (?, ?, ?, ?)", (blob, *columns))
        if packed.tokens:
            connection.execute("INSERT INTO mention (rowid, names) VALUES (?, ?)", (blob, packed.tokens))
        connection.executemany(
            "INSERT INTO text (rowid, body, name) VALUES (?, ?, ?)",
            [(n, *passage) for n, passage in enumerate(packed.passages, start=first)],
        )
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'last_chunk'", (str(first + len(packed.passages) - 1),)
        )
        return blob

    def add_vectors(self, model: str, vectors: Iterable[tuple[bytes, bytes]]) -> None:
        """Stores (hash, passages' vectors) of contents that are still there; inside `atomic`."""
        self._local.writing.executemany(
            "INSERT OR REPLACE INTO vector SELECT id, ?, ? FROM blob WHERE hash = ?",
            [(model, encoded, digest) for digest, encoded in vectors],
        )

    def drop_vectors(self, model: str) -> None:
        """Forgets the vectors of all models but this one; inside `atomic`."""
        self._local.writing.execute("DELETE FROM vector WHERE model <> ?", (model,))

    def adopt_vectors(self, other: Path) -> None:
        """Takes over the vectors that another database of the same version holds for contents of this one."""
        with translated(self._find):
            own = self._own()
            if own is None or own.writer is None:
                return
            own.writer.execute("ATTACH ? AS other", (str(other),))
            try:
                own.writer.execute(
                    "INSERT OR IGNORE INTO vector SELECT b.id, v.model, v.vectors FROM other.vector v"
                    " JOIN other.blob o ON o.id = v.blob JOIN blob b ON b.hash = o.hash"
                )
            finally:
                own.writer.execute("DETACH other")

    def commits(self) -> list[bytes]:
        """The hashes of the commits that are known, in the order in which they were added."""
        return [digest for (digest,) in self.rows("SELECT digest FROM history ORDER BY id")]

    def add_commits(self, commits: Sequence[Commit]) -> None:
        """Adds commits that are not known, the oldest first; inside `atomic`."""
        connection = self._local.writing
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM history").fetchone()
        numbered = list(enumerate(commits, start=last + 1))
        connection.executemany(
            "INSERT INTO history VALUES (?, ?, ?)", [(n, c.digest, "\n".join(c.paths)) for n, c in numbered]
        )
        connection.executemany(
            "INSERT INTO message (rowid, words) VALUES (?, ?)", [(n, c.words) for n, c in numbered if c.paths]
        )

    def drop_commits(self) -> None:
        """Forgets all commits; inside `atomic`."""
        self._local.writing.execute("DELETE FROM history")
        self._local.writing.execute("INSERT INTO message (message) VALUES ('delete-all')")

    def link(self, file: FoundFile, blob: int | None, skip: str) -> None:
        """Says what content a path has now; inside `atomic`. A rank that the path has stays."""
        self._local.writing.execute(
            "INSERT INTO file (worktree, path, blob, size, mtime_ns, ctime_ns, inode, skip)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET blob = excluded.blob,"
            " size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,"
            " inode = excluded.inode, skip = excluded.skip",
            (
                *(self.worktree_id(), file.path, blob, file.size, file.mtime_ns, file.ctime_ns),
                *(file.inode, skip),
            ),
        )

    def unlink(self, paths: Iterable[str]) -> None:
        """Forgets paths; inside `atomic`. Their contents stay for the branch that has them."""
        worktree = self.worktree_id()
        self._local.writing.executemany(
            "DELETE FROM file WHERE worktree = ? AND path = ?", [(worktree, path) for path in paths]
        )

    def worktree_id(self) -> int:
        """This worktree's number, given now if it has none; inside `atomic`."""
        if self._local.worktree is None:
            connection = self._local.writing
            connection.execute("INSERT OR IGNORE INTO worktree (root) VALUES (?)", (self.worktree,))
            rows = connection.execute("SELECT id FROM worktree WHERE root = ?", (self.worktree,))
            self._local.worktree = rows.fetchone()[0]
        number: int = self._local.worktree
        return number

    def state(self) -> State:
        """How this worktree stands."""
        rows = self.rows("SELECT complete, changed FROM worktree WHERE root = ?", (self.worktree,))
        return State(bool(rows[0][0]), rows[0][1]) if rows else State(complete=False, changed=0)

    def note_changes(self, count: int) -> None:
        """Notes that so many files have other contents than when ranks were made; inside `atomic`."""
        self._local.writing.execute(
            "UPDATE worktree SET changed = changed + ? WHERE id = ?", (count, self.worktree_id())
        )

    def ranked(self) -> None:
        """Notes that the whole worktree was gone through, and that its ranks are as they should be."""
        self._local.writing.execute(
            "UPDATE worktree SET complete = 1, changed = 0 WHERE id = ?", (self.worktree_id(),)
        )

    def prune(self) -> None:
        """Forgets worktrees that are gone, and contents of no file once they outnumber the others.

        Inside `atomic`.
        """
        connection = self._local.writing
        for number, root in connection.execute("SELECT id, root FROM worktree").fetchall():
            if root != self.worktree and not os.path.isdir(root):
                for table in ("file", "symbol_rank"):
                    connection.execute(f"DELETE FROM {table} WHERE worktree = ?", (number,))
                connection.execute("DELETE FROM worktree WHERE id = ?", (number,))
        orphans = "SELECT id FROM blob WHERE id NOT IN (SELECT blob FROM file WHERE blob IS NOT NULL)"
        (unused,) = connection.execute(f"SELECT count(*) FROM ({orphans})").fetchone()
        (total,) = connection.execute("SELECT count(*) FROM blob").fetchone()
        if unused * 2 <= total:
            return
        for table in ("symbol", "packed", "vector"):
            connection.execute(f"DELETE FROM {table} WHERE blob IN ({orphans})")
        connection.execute(f"DELETE FROM blob WHERE id IN ({orphans})")

    def garbage(self) -> float:
        """The share of the searched chunks that are deleted and only take room."""
        rows = self.rows("SELECT (SELECT sum(chunks) FROM blob), value FROM meta WHERE key = 'last_chunk'")
        live, given = rows[0] if rows else (0, 0)
        return 1 - (live or 0) / int(given) if int(given) else 0.0

    def set_ranks(self, files: Mapping[str, float], symbols: Mapping[tuple[str, str], float]) -> None:
        """Stores each file's rank, and those of the most central (file, symbol); inside `atomic`."""
        worktree, connection = self.worktree_id(), self._local.writing
        connection.executemany(
            "UPDATE file SET rank = ? WHERE worktree = ? AND path = ?",
            [(rank, worktree, path) for path, rank in files.items()],
        )
        best = heapq.nlargest(_RANKED_SYMBOLS, symbols.items(), key=lambda item: item[1])
        connection.execute("DELETE FROM symbol_rank WHERE worktree = ?", (worktree,))
        connection.executemany(
            "INSERT INTO symbol_rank VALUES (?, ?, ?, ?)",
            [(worktree, path, name, rank) for (path, name), rank in best],
        )
