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
CREATE VIRTUAL TABLE text USING fts5 (body, name, content = '', tokenize = 'porter unicode61');
CREATE VIRTUAL TABLE mention USING fts5 (
    names, content = '', detail = none, columnsize = 0, tokenize = "ascii tokenchars '_$'"
);
