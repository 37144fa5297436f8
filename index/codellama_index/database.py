"""Opening SQLite files: creating, migrating, connecting, and waiting for other processes.

Readers' connections cannot write. What is locked for a moment is tried again, so that nobody ever sees
"database is locked". Errors of the disk become StoreError, damage becomes Damaged.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from codellama_index import place, schema
from codellama_index.errors import StoreError

BUSY_S = 30.0
# What a reader may find besides a held lock, and what passes: another process recovers the log or has
# just closed the last connection.
_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA)
_CACHE_KIB = 32_000
_LOG_BYTES = 32_000_000

T = TypeVar("T")


class Damaged(Exception):
    """The database's content is not what SQLite or the schema expects; the caller rebuilds."""


def create(path: Path, fingerprint: str) -> None:
    """Makes an empty database, whole before anyone can see it; raises StoreError."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(beside)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(schema.DDL)
            connection.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (fingerprint,))
            connection.execute("INSERT INTO meta VALUES ('last_chunk', '0')")
            connection.execute(f"PRAGMA user_version = {schema.SCHEMA}")
            connection.commit()
        beside.replace(path)
    except (sqlite3.Error, OSError) as error:
        with contextlib.suppress(OSError):
            place.delete(beside)
        raise StoreError(cannot(path, error)) from error


def migrate(source: Path, target: Path) -> bool:
    """Copies a database of older tables and brings the copy up to date; False where a step is missing."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(source, timeout=BUSY_S)) as old,
            contextlib.closing(sqlite3.connect(beside, isolation_level=None)) as connection,
        ):
            old.backup(connection)
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            for step in range(version + 1, schema.SCHEMA + 1):
                if step not in schema.MIGRATIONS:
                    return False
                schema.MIGRATIONS[step](connection)
            connection.execute(f"PRAGMA user_version = {schema.SCHEMA}")
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        beside.replace(target)
    except (sqlite3.Error, OSError):
        return False  # damaged or unreadable: a new one is built instead
    finally:
        place.delete(beside)
    return True


def connect(path: Path, write: bool) -> sqlite3.Connection:
    def opened(options: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?{options}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )

    if not write:
        connection = opened("mode=ro")
        try:
            connection.execute("SELECT 1 FROM meta").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if os.access(path.parent, os.W_OK):
                raise
            # A log cannot be made in a folder that is read-only, and nobody writes there.
            connection = opened("immutable=1")
        return connection
    connection = opened("mode=rw")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    return connection


def check(path: Path) -> None:
    """Raises Damaged where a file is not what its name says."""
    with contextlib.closing(patiently(lambda: connect(path, write=False))) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()
        if version != (schema.SCHEMA,):
            raise Damaged(f"user_version is {version}")


def patiently(work: Callable[[], T]) -> T:
    """Runs `work` again while what stops it is another process that will be done soon."""
    deadline = time.monotonic() + BUSY_S
    pause = 0.002
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in _PASSING or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def cannot(path: Path | None, error: Exception) -> str:
    return (
        f"The index {path} cannot be used ({error}): free some space on its disk, or make its folder "
        "writable."
    )


@contextmanager
def translated(path: Callable[[], Path | None]) -> Iterator[None]:
    """SQLite's and the system's errors as ours; `path` names the database for the sentence."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if any(word in str(error) for word in ("no such table", "no such column", "malformed")):
            raise Damaged(str(error)) from error
        raise StoreError(cannot(path(), error)) from error
    except sqlite3.DatabaseError as error:
        raise Damaged(str(error)) from error
    except OSError as error:
        raise StoreError(cannot(path(), error)) from error
