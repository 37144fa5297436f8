"""Databases of older tables are brought up to date, from the tables as they were committed."""

import sqlite3
from pathlib import Path

import pytest
from index_support import facts, write

from codellama_index import Index, open_index, schema
from codellama_index.packed import unpack_chunks

# What each version had less than the next, undone on a database of today.
UNDO = {
    5: "DROP TABLE vector; DROP TABLE history; DROP TABLE message;",
    4: """DROP INDEX blob_by_chunk;
        CREATE TABLE chunk (
            id INTEGER PRIMARY KEY AUTOINCREMENT, blob INTEGER NOT NULL REFERENCES blob,
            start_line INTEGER NOT NULL, end_line INTEGER NOT NULL, name TEXT NOT NULL
        );
        INSERT INTO chunk SELECT b.first_chunk + c.place, b.id, c.start_line, c.end_line, c.name
            FROM blob b JOIN unpacked c ON c.blob = b.id;
        DROP TABLE unpacked;
        DELETE FROM meta WHERE key = 'last_chunk';
        ALTER TABLE packed DROP COLUMN chunks;
        DELETE FROM packed WHERE symbols = x'' AND mentions = x'';""",
    3: "ALTER TABLE worktree DROP COLUMN complete; ALTER TABLE worktree DROP COLUMN changed;",
    2: "DROP TABLE symbol_rank;",
}
TABLES = Path(__file__).parents[1] / "data" / "schema"


def tables(database: Path) -> list[str]:
    """Each table's and index's columns, in whatever words they were declared."""
    connection = sqlite3.connect(database)
    # `sqlite_sequence` stays once there was a table with AUTOINCREMENT, and cannot be dropped.
    every = "SELECT name FROM sqlite_master WHERE name <> 'sqlite_sequence' ORDER BY name"
    names = [row[0] for row in connection.execute(every)]
    described = [
        f"{name}: {[row[1:] for row in connection.execute(f'PRAGMA table_info({name})')]}" for name in names
    ]
    connection.close()
    return described


def unpack(connection: sqlite3.Connection) -> None:
    """Puts the chunks beside their packed values, since SQL cannot unpack them."""
    connection.execute("CREATE TABLE unpacked (blob, place, start_line, end_line, name)")
    for blob, packed in connection.execute("SELECT blob, chunks FROM packed").fetchall():
        rows = [(blob, place, *chunk) for place, chunk in enumerate(unpack_chunks(packed))]
        connection.executemany("INSERT INTO unpacked VALUES (?, ?, ?, ?, ?)", rows)


@pytest.mark.parametrize("version", range(2, schema.SCHEMA))
def test_older_tables_are_migrated(repository: Path, opened: Index, tmp_path: Path, version: int) -> None:
    """Nothing is parsed anew, all answers stay, and the tables are those of a new database."""
    for n in range(5):
        write(repository, f"m{n}.py", f"def name{n}():\n    return name{n - 1}\n")
    opened.sync()
    before = facts(opened)
    today = opened.database
    opened.close()
    assert today is not None
    expected = tables(today)
    connection = sqlite3.connect(today)
    if version < 5:
        unpack(connection)
    for step in range(schema.SCHEMA - 1, version - 1, -1):
        connection.executescript(UNDO[step])
    connection.execute(f"PRAGMA user_version = {version}")
    # The tables as that version's release made them, so that no migration is tested against itself.
    committed = sqlite3.connect(":memory:")
    committed.executescript((TABLES / f"{version}.sql").read_text())
    columns = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c ORDER BY 1, c.cid"
    assert connection.execute(columns).fetchall() == committed.execute(columns).fetchall()
    connection.close()
    today.rename(today.with_name(f"{version}-{today.name.split('-', 1)[1]}"))
    with open_index(repository, tmp_path / "cache") as migrated:
        assert migrated.sync().indexed == 0
        assert facts(migrated) == before
        assert migrated.database == today
        assert tables(today) == expected


def test_every_version_has_its_migration() -> None:
    """A new version of the tables comes with a migration and with the last one's tables committed."""
    assert set(schema.MIGRATIONS) == set(range(3, schema.SCHEMA + 1))
    assert {int(file.stem) for file in TABLES.glob("*.sql")} == set(range(2, schema.SCHEMA))
