"""Keeps an index up to date while files change: a thread that watches, in one process per repository.

A file lock elects the process; the others read what it writes, and one of them follows when it leaves.
Only folders that hold files of the index are watched (on Linux one by one; elsewhere the system watches
trees). Events are gathered until they rest. Whatever may have been missed is found by a whole pass over
the tree's `stat`: at the start, when HEAD moves, when events were lost or too many, and on a timer.
"""

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codellama_index.errors import CodeIndexError
from codellama_index.walk import IGNORE_FILES, folders, git_dir, is_ignored

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from codellama_index.repository import Index

logger = logging.getLogger(__name__)

SETTLE_S = 0.05
_LONGEST_S = 0.5  # that events which never rest are gathered
_EVERY_S = 300.0
_UNWATCHED_EVERY_S = 30.0
_ELECT_S = 5.0
_MANY = 1_000  # changed paths, above which a whole pass is quicker

Changed = Callable[[Path | None], None]  # None: something, it is not known what


class _Source(Protocol):
    """What tells of changes below folders."""

    def watch(self, wanted: Iterable[Path]) -> set[Path]:
        """Watch these folders, and no others from now on; those that were not watched before.

        Raises OSError.
        """

    def close(self) -> None: ...


class Watcher:
    """Watches for `index` from `start` to `close`; `notice` gets a sentence when watching is not possible."""

    def __init__(
        self,
        index: "Index",
        notice: Callable[[str], None] = logger.warning,
        every_s: float = _EVERY_S,
        elect_s: float = _ELECT_S,
        source: Callable[[Changed], _Source] | None = None,
    ) -> None:
        self._index = index
        self._notice = notice
        self._every_s = every_s
        self._elect_s = elect_s
        self._make_source = source or (_Inotify if sys.platform == "linux" else _Trees)
        self._git = git_dir(index.root)
        self._news = threading.Condition()
        self._changed: set[Path] = set()
        self._everything = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {index.root.name}", daemon=True)
        self.elected = threading.Event()

    def start(self) -> None:
        """Begin, in the background."""
        self._thread.start()

    def close(self) -> None:
        """End, once what is being written is written."""
        self._stop.set()
        with self._news:
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        lock = self._index.place.lock("watch", 0.0)
        while not self._stop.is_set():
            if not _acquired(lock):
                self._stop.wait(self._elect_s)
                continue
            try:
                self._keep()
            except CodeIndexError as error:
                self._notice(str(error))
                self._stop.wait(_UNWATCHED_EVERY_S)
            finally:
                self.elected.clear()
                lock.release()

    def _keep(self) -> None:
        """As the elected one: watch, and write what changes, until the end."""
        every = self._every_s
        source: _Source | None = None
        try:
            try:
                source = self._make_source(self._take)
                source.watch(self._folders())
            except (OSError, ImportError) as error:
                every = min(every, _UNWATCHED_EVERY_S)
                self._notice(_cannot(self._index.root, error, every))
                if source is not None:
                    source.close()
                source = None
            self._everything = True  # what has changed before the watches stood
            while not self._stop.is_set():
                changed, everything = self._gathered(every)
                if self._stop.is_set():
                    return
                self._write(changed, everything)
                self.elected.set()
                if source is not None and (everything or any(map(os.path.isdir, changed))):
                    with contextlib.suppress(FileNotFoundError):
                        for folder in source.watch([*self._folders(), *self._empty(changed)]):
                            self._take(folder)  # what was put there before its watch stood
        finally:
            if source is not None:
                source.close()

    def _take(self, path: Path | None) -> None:
        """Called by the source, on its thread."""
        with self._news:
            if path is None or (path.parent == self._git and path.name == "HEAD"):
                self._everything = True
            elif self._git is None or not path.is_relative_to(self._git):
                self._changed.add(path)
            else:
                return
            self._news.notify_all()

    def _gathered(self, every: float) -> tuple[set[Path], bool]:
        """What has changed once changes rest; everything where the timer has run out first."""
        with self._news:
            ready = self._news.wait_for(
                lambda: self._changed or self._everything or self._stop.is_set(), timeout=every
            )
            first = time.monotonic()
            while not self._stop.is_set() and time.monotonic() - first < _LONGEST_S:
                if not self._news.wait(SETTLE_S):
                    break
            changed, everything = self._changed, self._everything or not ready
            self._changed, self._everything = set(), False
        return changed, everything

    def _write(self, changed: set[Path], everything: bool) -> None:
        root = self._index.root
        if everything or len(changed) > _MANY or any(p.name in IGNORE_FILES for p in changed):
            self._index.sync(cancelled=self._stop.is_set)
        elif changed:
            self._index.update(path.relative_to(root).as_posix() for path in changed if path != root)

    def _folders(self) -> list[Path]:
        found = folders(self._index.root, self._index.paths())
        return found if self._git is None else [*found, self._git]

    def _empty(self, changed: set[Path]) -> list[Path]:
        """New folders in which there is nothing to index yet."""
        new = (path for path in changed if path.is_dir() and not path.is_symlink())
        return [path for path in new if not is_ignored(self._index.root, path)]


class _Inotify:
    """Linux: a watch per folder, so that ignored ones cost none."""

    def __init__(self, changed: Changed) -> None:
        from watchdog.observers.inotify_c import InotifyConstants as In
        from watchdog.observers.inotify_c import InotifyFD

        self._changed = changed
        self._mask: Any = (
            In.IN_CLOSE_WRITE | In.IN_MOVE | In.IN_CREATE | In.IN_DELETE | In.IN_ONLYDIR | In.IN_DONT_FOLLOW
        )
        self._watches: dict[Path, Any] = {}
        self._events = InotifyFD()
        self._events.start()

    def watch(self, wanted: Iterable[Path]) -> set[Path]:
        folders = set(wanted)
        fresh = folders - self._watches.keys()
        for folder in self._watches.keys() - folders:
            self._forget(folder)
        for folder in fresh:
            listener: Any = _Listener(folder, self._changed, self._watches)
            number: Any = id(self)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone meanwhile
                self._watches[folder] = self._events.add_callback(
                    os.fsencode(folder), self._mask, listener, number
                )
        return fresh

    def close(self) -> None:
        self._events.stop()
        self._events.join()

    def _forget(self, folder: Path) -> None:
        number: Any = id(self)
        self._events.remove_callbacks([(self._watches.pop(folder), number)])


class _Listener:
    """What watchdog calls for one folder."""

    def __init__(self, folder: Path, changed: Changed, watches: dict[Path, Any]) -> None:
        self._folder = folder
        self._changed = changed
        self._watches = watches

    def on_event(self, event: Any) -> None:
        if event.name:
            self._changed(self._folder / os.fsdecode(event.name))

    def on_watch_deleted(self, wd: Any) -> None:
        if self._watches.get(self._folder) == wd:
            del self._watches[self._folder]

    def on_queue_overflow(self) -> None:
        self._changed(None)


class _Trees:
    """macOS and Windows: the system watches whole trees; what git ignores is dropped when it is looked at."""

    def __init__(self, changed: Changed) -> None:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                for path in (event.src_path, event.dest_path):
                    if path and event.event_type not in ("opened", "closed_no_write"):
                        changed(Path(os.fsdecode(path)))

        self._observer = Observer()
        self._handler = Handler()
        self._roots: set[Path] = set()
        self._observer.start()

    def watch(self, wanted: Iterable[Path]) -> set[Path]:
        for folder in sorted(wanted):
            if not any(folder.is_relative_to(root) for root in self._roots):
                self._observer.schedule(self._handler, str(folder), recursive=True)
                self._roots.add(folder)
        return set()

    def close(self) -> None:
        self._observer.stop()
        self._observer.join()


def _acquired(lock: "BaseFileLock") -> bool:
    from filelock import Timeout

    try:
        lock.acquire()
    except (Timeout, OSError):
        return False
    return True


def _cannot(root: Path, error: Exception, every: float) -> str:
    reason = f"({error})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EMFILE):
        reason = "(the system's limit of watches is reached: raise fs.inotify.max_user_watches)"
    return f"Changes in {root} are not watched {reason}: they are looked for every {every:.0f} s."
