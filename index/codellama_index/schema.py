"""The database's tables, and the version that tells whether a file on disk still fits.

What was extracted from a file's content is keyed by the content's hash (`blob`), so that switching
branches only links other blobs; `file` rows belong to one worktree. A change of the tables, of a query
or of a grammar changes `version()`, and a file of another version is built anew beside and swapped in.
"""

import hashlib
import importlib.metadata

from codellama_index.languages import languages, query_source

SCHEMA = 1

DDL = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blob (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL, skip TEXT NOT NULL,
    imports TEXT NOT NULL
);
CREATE TABLE file (
    worktree TEXT NOT NULL, path TEXT NOT NULL, blob INTEGER REFERENCES blob, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, skip TEXT NOT NULL, rank REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (worktree, path)
) WITHOUT ROWID;
CREATE INDEX file_by_blob ON file (blob);
CREATE TABLE symbol (
    blob INTEGER NOT NULL REFERENCES blob, name TEXT NOT NULL, kind TEXT NOT NULL, line INTEGER NOT NULL,
    start_line INTEGER NOT NULL, end_line INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    scope TEXT NOT NULL, signature TEXT NOT NULL, docstring TEXT NOT NULL
);
CREATE INDEX symbol_by_blob ON symbol (blob);
CREATE INDEX symbol_by_name ON symbol (name COLLATE NOCASE);
CREATE TABLE reference (
    blob INTEGER NOT NULL REFERENCES blob, name TEXT NOT NULL, line INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL
);
CREATE INDEX reference_by_name ON reference (name);
CREATE INDEX reference_by_blob ON reference (blob);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY, blob INTEGER NOT NULL REFERENCES blob, start_line INTEGER NOT NULL,
    end_line INTEGER NOT NULL, name TEXT NOT NULL
);
CREATE INDEX chunk_by_blob ON chunk (blob);
CREATE VIRTUAL TABLE text USING fts5 (name, body, tokenize = 'porter unicode61');
"""


def version() -> str:
    """What a database must have been made with to be of use: tables, queries, grammars."""
    digest = hashlib.sha256(f"{SCHEMA}{DDL}".encode())
    for language in languages():
        digest.update(query_source(language).encode())
    for wheel in ("python", "javascript", "typescript", "go", "rust"):
        digest.update(importlib.metadata.version(f"tree-sitter-{wheel}").encode())
    return digest.hexdigest()
