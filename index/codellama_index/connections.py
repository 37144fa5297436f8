"""Each thread's connections to the database that is there now, and transactions over them.

SQLite in WAL mode, one writer at a time (the caller holds the write lock), any number of readers. A thread's
connections are opened anew when another database has taken the place of theirs. What is written: see `store`.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama_index import place
from codellama_index.database import BUSY_S, check, connect, patiently, translated
from codellama_index.errors import StoreError

_LOOK_S = 0.1


@dataclass(slots=True)
class _Own:
    """One thread's connections to one database file."""

    path: Path
    inode: int
    looked: float = 0.0
    reader: sqlite3.Connection | None = None
    writer: sqlite3.Connection | None = None


class Connections:
    """All threads' connections to the database that `find` names at each use (None where there is none)."""

    def __init__(self, find: Callable[[], Path | None]) -> None:
        self._find = find
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._generation = 0
        self._fresh: set[tuple[Path, int]] = set()

    @property
    def path(self) -> Path | None:
        """The database that is read now."""
        return self._find()

    @contextmanager
    def atomic(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it or nothing. Reads inside it see what it wrote."""
        with translated(self._find):
            own = self._own()
            if own is None:
                raise StoreError("The index was deleted while it was written: build it again.")
            if own.writer is None:
                own.writer = self._connect(own.path, write=True)
            writer = own.writer
            patiently(lambda: writer.execute("BEGIN IMMEDIATE"))
            self._local.writing = writer
            try:
                yield writer
                writer.commit()
            except BaseException:
                if writer.in_transaction:
                    writer.rollback()
                raise
            finally:
                self._local.writing = None

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a query; none where there is no database yet."""
        with translated(self._find):
            connection = getattr(self._local, "writing", None) or self._reader()
            return [] if connection is None else patiently(lambda: connection.execute(sql, values).fetchall())

    def checkpoint(self) -> None:
        """Moves the log into the database, as far as readers allow; keeps the log from growing for ever."""
        with translated(self._find):
            own = self._own()
            if own is not None and own.writer is not None:
                own.writer.execute("PRAGMA busy_timeout = 200")
                with contextlib.suppress(sqlite3.OperationalError):  # a reader is there: the next one does it
                    own.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                own.writer.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")

    def look(self) -> None:
        """This thread reads the database that is there now, not one that was deleted just before."""
        with translated(self._find):
            self._own()

    def close(self) -> None:
        """Closes the connections of all threads; later use opens new ones."""
        self._generation += 1
        for connection in self._open:
            connection.close()
        self._open.clear()

    def _own(self, exact: bool = True) -> _Own | None:
        """This thread's connections; a reader may go on for a moment with a database that was replaced."""
        held: _Own | None = getattr(self._local, "own", None)
        current = getattr(self._local, "generation", -1) == self._generation
        if held is not None and current and not exact and time.monotonic() - held.looked < _LOOK_S:
            return held
        path = self._find()
        if path is None:
            return None
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            return None
        if held is None or not current or (held.path, held.inode) != (path, inode):
            held = self._local.own = _Own(path, inode)
            self._local.generation = self._generation
        held.looked = time.monotonic()
        return held

    def _reader(self) -> sqlite3.Connection | None:
        own = self._own(exact=False)
        if own is None:
            return None
        if own.reader is None:
            key = (own.path, own.inode)
            if key not in self._fresh:
                check(own.path)
                self._fresh.add(key)
                place.touch(own.path)
            own.reader = self._connect(own.path, write=False)
        return own.reader

    def _connect(self, path: Path, write: bool) -> sqlite3.Connection:
        connection = patiently(lambda: connect(path, write))
        self._open.append(connection)
        return connection
