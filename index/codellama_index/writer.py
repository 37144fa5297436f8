"""The one writer of a repository's index: its lock, the database that it writes, what replaces what.

Every process may want to write; the lock lets one at a time. Where another version's database is still
read, the own one is built beside it and takes its place when it is complete. What is damaged is followed
by the next generation.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from codellama_index import place, schema
from codellama_index.database import Damaged, create, migrate
from codellama_index.errors import StoreError
from codellama_index.place import Place
from codellama_index.store import Store

_WAIT_S = 120.0
_POLL_S = 0.1

T = TypeVar("T")


class NotNow(Exception):
    """Cancelled while another process was writing: nothing was done."""


class Writer:
    """Runs work on the database of `place` that this version of codellama writes; for any thread."""

    def __init__(self, where: Place, root: Path, fingerprint: str) -> None:
        self.place = where
        self._root = root
        self._fingerprint = fingerprint
        self.store = Store(self._readable, str(root))
        self._alone = threading.Lock()

    def run(self, work: Callable[[Store], T], cancelled: Callable[[], bool] | None = None) -> T:
        """Runs `work` under the lock; a database that proves damaged is replaced and it runs again.

        Raises StoreError where the disk is full or the folder cannot be written, and NotNow.
        """
        with self._locked(cancelled):
            store = self._target()
            store.look()  # what is read before a write must be what is written to
            try:
                try:
                    done = work(store)
                except Damaged:
                    store.close()
                    self._replace(store)
                    store = self._target()
                    done = work(store)
            except Damaged as error:
                raise StoreError(
                    f"The index in {self.place.folder} is damaged again and again: run codellama index drop, "
                    "and look after the disk."
                ) from error
            finally:
                if store is not self.store:
                    self._publish(store)
            return done

    def mend(self, path: Path | None) -> None:
        """Replaces a database that a reader found damaged, unless another process has done so."""
        with self._locked(None):
            if path is not None and self._readable() == path:
                self.store.close()
                self._replace(self.store)

    def rebuild(self, work: Callable[[Store], T]) -> T:
        """Runs `work`, which fills a database, on an empty one that then takes the old one's place."""
        with self._locked(None):
            beside = self._beside()
            try:
                return work(beside)
            finally:
                self._publish(beside)

    def drop(self) -> int:
        """Deletes the databases; the bytes that they held."""
        self.store.close()
        with self._locked(None):
            return self.place.drop()

    def bound(self, max_bytes: int) -> None:
        """Deletes what this database has replaced, and the indexes used longest ago beyond `max_bytes`."""
        own = self._own()
        if own is not None:
            self.place.clean(schema.SCHEMA, own, time.time())
        place.bound(self.place.folder.parent, max_bytes, self.place.folder)

    def _target(self) -> Store:
        """Where to write: the own database, or one that is built beside another version's."""
        if self._own() is not None:
            return self.store
        older = [d for d in self.place.databases() if d.schema < schema.SCHEMA]
        for database in older:
            if database.fingerprint == self._fingerprint and migrate(database.path, self._path(1)):
                return self.store
        if self._readable() is None:
            create(self._path(1), self._fingerprint)
            return self.store
        return self._beside()

    def _beside(self) -> Store:
        building = self.place.building(schema.SCHEMA, self._fingerprint)
        if not building.exists():
            create(building, self._fingerprint)
        return Store(lambda: building, str(self._root))

    def _publish(self, beside: Store) -> None:
        """Puts a database that was built beside in its place, once it is complete."""
        try:
            complete = beside.state().complete
        except (Damaged, StoreError):
            complete = False
        beside.close()
        building = self.place.building(schema.SCHEMA, self._fingerprint)
        if complete and not Path(f"{building}-wal").exists():  # closing has put the log into the database
            old = self.place.own(schema.SCHEMA, self._fingerprint)
            self.store.close()
            os.replace(building, self._path(old.generation + 1 if old else 1))
            if old is not None:
                place.delete(old.path)

    def _replace(self, damaged: Store) -> None:
        """An empty database in the place of a damaged one."""
        if damaged is not self.store:
            place.delete(self.place.building(schema.SCHEMA, self._fingerprint))
            return
        old = self.place.readable(schema.SCHEMA, self._fingerprint)
        own = old is not None and old.fingerprint == self._fingerprint
        create(self._path(old.generation + 1 if old and own else 1), self._fingerprint)
        if old is not None:
            place.delete(old.path)

    @contextmanager
    def _locked(self, cancelled: Callable[[], bool] | None) -> Iterator[None]:
        from filelock import Timeout

        self.place.make()
        deadline = time.monotonic() + _WAIT_S
        lock = self.place.lock("write", _POLL_S)
        with self._alone:
            try:
                while True:
                    try:
                        lock.acquire()
                        break
                    except Timeout:
                        if cancelled is not None and cancelled():
                            raise NotNow from None
                        if time.monotonic() > deadline:
                            raise
                try:
                    yield
                finally:
                    lock.release()
            except Timeout as error:
                raise StoreError(
                    f"Another process has been writing the index for {_WAIT_S:.0f} s: wait for it or end it."
                ) from error
            except OSError as error:
                raise StoreError(
                    f"The index {self.place.folder} cannot be written ({error}): free some space on its "
                    "disk, or make the folder writable."
                ) from error

    def _path(self, generation: int) -> Path:
        return self.place.path(schema.SCHEMA, self._fingerprint, generation)

    def _own(self) -> Path | None:
        found = self.place.own(schema.SCHEMA, self._fingerprint)
        return found.path if found else None

    def _readable(self) -> Path | None:
        found = self.place.readable(schema.SCHEMA, self._fingerprint)
        return found.path if found else None
