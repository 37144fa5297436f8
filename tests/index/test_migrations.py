"""Databases of older tables are brought up to date, from the tables as they were committed."""

import sqlite3
from pathlib import Path

import pytest
from index_support import facts, write

from codellama_index import Index, open_index, schema

# What each version had less than the next, undone on a database of today.
UNDO = {
    3: "ALTER TABLE worktree DROP COLUMN complete; ALTER TABLE worktree DROP COLUMN changed;",
    2: "DROP TABLE symbol_rank;",
}
TABLES = Path(__file__).parents[1] / "data" / "schema"


def tables(database: Path) -> list[str]:
    """Each table's and index's columns, in whatever words they were declared."""
    connection = sqlite3.connect(database)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
    described = [
        f"{name}: {[row[1:] for row in connection.execute(f'PRAGMA table_info({name})')]}" for name in names
    ]
    connection.close()
    return described


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
