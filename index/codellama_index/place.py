"""Where indexes lie: a folder per repository in the user's cache folder, its databases and its locks.

A database's name says what it was made with: `SCHEMA-FINGERPRINT-GENERATION.sqlite`. So databases of
different versions of codellama lie side by side and nobody destroys another's; a database that is
damaged is followed by one of the next generation. Nothing here opens a database.
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codellama_index.errors import StoreError

if TYPE_CHECKING:
    from filelock import BaseFileLock

# All indexes together; those that were used longest ago make room.
MAX_BYTES = 2_000_000_000
# Another version's database that nobody has opened for so long is deleted.
_KEEP_UNUSED_S = 24 * 3600.0
_NAME = re.compile(r"(\d+)-([0-9a-f]{12})-(\d+)\.sqlite")
BUILDING = ".building"


@dataclass(frozen=True, slots=True)
class Database:
    """A database file, by what its name says."""

    path: Path
    schema: int
    fingerprint: str
    generation: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The folder of one repository's index: its size, and when it was last opened (seconds since 1970)."""

    folder: Path
    bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one repository's index."""

    folder: Path

    def databases(self) -> list[Database]:
        """The databases that are there, the latest generation of each version first."""
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                match = _NAME.fullmatch(name)
                if match:
                    schema, fingerprint, generation = match.groups()
                    found.append(Database(self.folder / name, int(schema), fingerprint, int(generation)))
        return sorted(found, key=lambda d: (d.schema, d.fingerprint, d.generation), reverse=True)

    def own(self, schema: int, fingerprint: str) -> Database | None:
        """The database of exactly this version."""
        fitting = (d for d in self.databases() if (d.schema, d.fingerprint) == (schema, fingerprint))
        return next(fitting, None)

    def readable(self, schema: int, fingerprint: str) -> Database | None:
        """The version's own database, else the one that was used last of those with the same tables."""
        own = self.own(schema, fingerprint)
        others = [d for d in self.databases() if d.schema == schema]
        return own or max(others, key=lambda d: _used(d.path), default=None)

    def newer(self, schema: int) -> list[Database]:
        """What newer versions of codellama made here."""
        return [d for d in self.databases() if d.schema > schema]

    def path(self, schema: int, fingerprint: str, generation: int) -> Path:
        """The name of a database."""
        return self.folder / f"{schema}-{fingerprint}-{generation}.sqlite"

    def building(self, schema: int, fingerprint: str) -> Path:
        """Where a version's first build goes while another version's database is still read."""
        return self.folder / f"{schema}-{fingerprint}{BUILDING}"

    def make(self) -> None:
        """Makes the folder, for this user alone: it holds the words of their sources."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(
                f"The folder {self.folder} cannot be made ({error}): make the cache folder writable, or "
                "set XDG_CACHE_HOME to one that is."
            ) from error

    def lock(self, purpose: str, wait_s: float) -> "BaseFileLock":
        """A lock between processes, `write` or `watch`; the system frees it when its holder ends."""
        from filelock import FileLock

        return FileLock(self.folder / f"{purpose}.lock", timeout=wait_s)

    def clean(self, schema: int, keep: Path, now: float) -> None:
        """Deletes what has been replaced by `keep`, and other versions' databases long unused."""
        kept = _NAME.fullmatch(keep.name)
        for database in self.databases():
            same = kept is not None and database.fingerprint == kept[2]
            unused = now - _used(database.path) > _KEEP_UNUSED_S
            if database.path != keep and database.schema <= schema and (same or unused):
                delete(database.path)

    def drop(self) -> int:
        """Deletes every database of this repository; the bytes that they held."""
        freed = self.usage().bytes
        for name in os.listdir(self.folder) if self.folder.is_dir() else ():
            if not name.endswith(".lock"):
                (self.folder / name).unlink(missing_ok=True)
        return freed

    def usage(self) -> Usage:
        """Size and last use; zeros where there is nothing."""
        size, used = 0, 0.0
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process may delete it now
                    facts = entry.stat(follow_symlinks=False)
                    size += facts.st_size
                    if entry.name.endswith((".sqlite", BUILDING)):
                        used = max(used, facts.st_mtime)
        return Usage(self.folder, size, used)


def cache_folder() -> Path:
    """The folder of all indexes."""
    import platformdirs

    return platformdirs.user_cache_path("codellama") / "index"


def place_of(repository: Path, cache: Path) -> Place:
    """The place of a repository, known by the folder that all of its worktrees share."""
    digest = hashlib.blake2b(os.fsencode(repository), digest_size=8).hexdigest()
    shown = repository.parent.name if repository.name == ".git" else repository.name
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in shown)[:40]
    return Place(cache / f"{name}-{digest}")


def usages(cache: Path) -> list[Usage]:
    """Every index in the cache folder, those used last first."""
    found: list[Usage] = []
    with contextlib.suppress(OSError), os.scandir(cache) as entries:
        found = [Place(Path(e.path)).usage() for e in entries if e.is_dir(follow_symlinks=False)]
    return sorted((u for u in found if u.bytes), key=lambda usage: (-usage.used, usage.folder))


def bound(cache: Path, max_bytes: int, keep: Path) -> list[Path]:
    """Deletes the indexes used longest ago until all fit `max_bytes`; `keep`, and what is written, stay."""
    known = usages(cache)
    total = sum(usage.bytes for usage in known)
    dropped: list[Path] = []
    for usage in reversed(known):
        if total <= max_bytes:
            break
        if usage.folder != keep and drop(usage.folder):
            total -= usage.bytes
            dropped.append(usage.folder)
    return dropped


def drop(folder: Path) -> bool:
    """Deletes a repository's databases unless a process writes there now; whether it did."""
    from filelock import Timeout

    try:
        with Place(folder).lock("write", 0.0):
            Place(folder).drop()
    except (Timeout, OSError):
        return False
    return True


def delete(path: Path) -> None:
    """Deletes a database with its log; where the system forbids it (it is in use) it stays."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            Path(f"{path}{suffix}").unlink()


def touch(path: Path) -> None:
    """Notes that a database is used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
