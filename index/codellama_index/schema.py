"""The database's tables, the migrations that led to them, and what a database was made with.

What was extracted from a file's content is keyed by the content's hash (`blob`), so that switching
branches only links other blobs; `file` rows belong to one worktree. The bulk is packed (see `packed`):
a blob's symbols, references and chunks are one compressed value each, and what finds them are two
contentless full-text tables. `text` holds the chunks' words, the body in its first column, since every
other column costs two bytes a word; `mention` holds the names that a blob refers to. A chunk's number is
its blob's `first_chunk` and its place among the blob's chunks. `vector` holds what an embedding model made
of a blob's chunks, in their order, where the user named one. `history` are the last commits, and `message`
their words.

A contentless table cannot forget a row in SQLite 3.40: chunks' numbers are never used twice (`meta` holds
the last one given), words of deleted chunks are found no more, and `Store.garbage` tells when a new
database is due.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING

from codellama_index.languages import languages, query_source, wheels

if TYPE_CHECKING:
    from sqlite3 import Connection

SCHEMA = 6
# The modules on whose text it depends what is extracted from a content.
_EXTRACTING = ("captures", "extract", "languages", "packed", "refusal", "symbols", "words")

TOKENIZER = "porter unicode61"
DDL = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE worktree (
    id INTEGER PRIMARY KEY, root TEXT NOT NULL UNIQUE, complete INTEGER NOT NULL DEFAULT 0,
    changed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE blob (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL, skip TEXT NOT NULL,
    imports TEXT NOT NULL, symbols INTEGER NOT NULL, first_chunk INTEGER NOT NULL, chunks INTEGER NOT NULL
);
CREATE INDEX blob_by_chunk ON blob (first_chunk) WHERE chunks > 0;
CREATE TABLE file (
    worktree INTEGER NOT NULL REFERENCES worktree, path TEXT NOT NULL, blob INTEGER REFERENCES blob,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    skip TEXT NOT NULL, rank REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (worktree, path)
) WITHOUT ROWID;
CREATE INDEX file_by_blob ON file (blob);
CREATE TABLE symbol (
    name TEXT NOT NULL COLLATE NOCASE, blob INTEGER NOT NULL REFERENCES blob, place INTEGER NOT NULL,
    PRIMARY KEY (name, blob, place)
) WITHOUT ROWID;
CREATE TABLE symbol_rank (
    worktree INTEGER NOT NULL REFERENCES worktree, path TEXT NOT NULL, name TEXT NOT NULL, rank REAL NOT NULL,
    PRIMARY KEY (worktree, path, name)
) WITHOUT ROWID;
CREATE TABLE packed (
    blob INTEGER PRIMARY KEY REFERENCES blob, symbols BLOB NOT NULL, mentions BLOB NOT NULL,
    chunks BLOB NOT NULL DEFAULT x''
);
CREATE TABLE vector (
    blob INTEGER NOT NULL REFERENCES blob, model TEXT NOT NULL, vectors BLOB NOT NULL,
    PRIMARY KEY (blob, model)
);
CREATE TABLE history (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, paths TEXT NOT NULL);
CREATE VIRTUAL TABLE message USING fts5 (words, content = '', tokenize = '{TOKENIZER}');
CREATE VIRTUAL TABLE text USING fts5 (body, name, content = '', tokenize = '{TOKENIZER}');
CREATE VIRTUAL TABLE mention USING fts5 (
    names, content = '', detail = none, columnsize = 0, tokenize = "ascii tokenchars '_$'"
);
"""

Migration = Callable[["Connection"], None]
MIGRATIONS: dict[int, Migration] = {}


def migration(to: int) -> Callable[[Migration], Migration]:
    """Registers what turns the tables of version `to` - 1 into those of `to`, inside a transaction."""

    def register(function: Migration) -> Migration:
        MIGRATIONS[to] = function
        return function

    return register


@migration(to=3)
def _add_symbol_ranks(connection: "Connection") -> None:
    """Ranks of symbols; the next sync that ranks fills them."""
    connection.execute(
        "CREATE TABLE symbol_rank (worktree INTEGER NOT NULL REFERENCES worktree, path TEXT NOT NULL,"
        " name TEXT NOT NULL, rank REAL NOT NULL, PRIMARY KEY (worktree, path, name)) WITHOUT ROWID"
    )


@migration(to=4)
def _add_progress(connection: "Connection") -> None:
    """How far a worktree is; what was built before is taken as incomplete, and looked through once more."""
    for column in ("complete", "changed"):
        connection.execute(f"ALTER TABLE worktree ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")


@migration(to=5)
def _pack_chunks(connection: "Connection") -> None:
    """A content's chunks in one value: as rows they took a tenth of the database."""
    from codellama_index.extract import Chunk
    from codellama_index.packed import pack_chunks

    connection.execute("ALTER TABLE packed ADD COLUMN chunks BLOB NOT NULL DEFAULT x''")
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
    connection.execute("INSERT INTO meta VALUES ('last_chunk', ?)", (str(last),))
    rows = connection.execute("SELECT blob, start_line, end_line, name FROM chunk ORDER BY id").fetchall()
    for blob, chunks in groupby(rows, key=lambda row: row[0]):
        packed = pack_chunks([Chunk(*row[1:]) for row in chunks])
        connection.execute(
            "INSERT OR IGNORE INTO packed (blob, symbols, mentions) VALUES (?, x'', x'')", (blob,)
        )
        connection.execute("UPDATE packed SET chunks = ? WHERE blob = ?", (packed, blob))
    connection.execute("DROP TABLE chunk")
    connection.execute("CREATE INDEX blob_by_chunk ON blob (first_chunk) WHERE chunks > 0")


@migration(to=6)
def _add_vectors(connection: "Connection") -> None:
    """Vectors of passages, which an embedding model fills where one is named, and the last commits."""
    connection.execute(
        "CREATE TABLE history (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, paths TEXT NOT NULL)"
    )
    connection.execute(
        f"CREATE VIRTUAL TABLE message USING fts5 (words, content = '', tokenize = '{TOKENIZER}')"
    )
    connection.execute(
        "CREATE TABLE vector (blob INTEGER NOT NULL REFERENCES blob, model TEXT NOT NULL,"
        " vectors BLOB NOT NULL, PRIMARY KEY (blob, model))"
    )


@cache
def fingerprint() -> str:
    """What a database's content depends on besides the sources: grammars, queries, our code, tokenizer.

    Twelve hexadecimal digits. A database of another fingerprint is no use but to be read until a new
    one stands beside it.
    """
    digest = hashlib.sha256(TOKENIZER.encode())
    for language in languages():
        digest.update(query_source(language).encode())
    for wheel in wheels():
        digest.update(importlib.metadata.version(wheel).encode())
    for module in _EXTRACTING:
        digest.update((files("codellama_index") / f"{module}.py").read_bytes())
    return digest.hexdigest()[:12]
