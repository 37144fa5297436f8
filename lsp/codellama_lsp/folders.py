"""The workspace's folders: an index for each repository, built in the background and kept fresh.

All work on an index runs in threads, so that typing never waits for it. A folder without an index
(it cannot be read, indexing is off) is simply not found, and completions do without.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from codellama_index.errors import CodeIndexError
from codellama_lsp.jobs import Background
from codellama_lsp.progress import Progress
from codellama_lsp.settings import IndexSettings
from codellama_lsp.status import StatusBoard

if TYPE_CHECKING:
    from codellama_index import Index
    from codellama_index.sync import Step
    from codellama_index.watch import Watcher

T = TypeVar("T")


@dataclass(slots=True)
class Folder:
    """One repository; `paths` are the workspace folders that lie in it."""

    root: Path
    index: "Index"
    paths: set[Path]
    stop: threading.Event = field(default_factory=threading.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    watcher: "Watcher | None" = None
    sources: frozenset[str] | None = None  # what is indexed, until something changes


class Folders:
    """Indexes by root; `complain` shows a person one sentence."""

    def __init__(
        self,
        progress: Callable[[str], Progress],
        status: StatusBoard,
        background: Background,
        complain: Callable[[str], None],
        options: Callable[[], IndexSettings],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._progress = progress
        self._status = status
        self._background = background
        self._complain = complain
        self._options = options
        self._tell_changed = changed
        self._folders: dict[Path, Folder] = {}

    async def add(self, path: Path) -> None:
        """Index the repository around a workspace folder, unless it is indexed already."""
        if path == Path.home() or path in Path.home().parents:
            self._complain(f"{path} is not indexed, it holds more than a project: open a project's folder.")
            return
        try:
            index = await asyncio.to_thread(_open, path, self._options())
        except CodeIndexError as error:
            self._complain(str(error))
            return
        known = self._folders.get(index.root)
        if known is not None:
            known.paths.add(path)
            await asyncio.to_thread(index.close)
            return
        folder = self._folders[index.root] = Folder(index.root, index, {path})
        await self._sync(folder)
        if not folder.stop.is_set():
            folder.watcher = self._watch(index)

    async def remove(self, path: Path) -> None:
        """Forget a workspace folder, and its index with the last folder that lies in it."""
        for folder in list(self._folders.values()):
            folder.paths.discard(path)
            if not folder.paths:
                await self._drop(folder)

    def find(self, path: Path | None) -> tuple["Index", str] | None:
        """The innermost index that covers a file, and the file's path in it, or None."""
        if path is None:
            return None
        roots = sorted(self._folders, key=lambda root: len(root.parts), reverse=True)
        for root in roots:
            if path.is_relative_to(root):
                return self._folders[root].index, path.relative_to(root).as_posix()
        real = path.resolve()  # a disk access, so only where the name as it is was no help
        return self.find(real) if roots and real != path else None

    async def saved(self, path: Path) -> None:
        """Read a saved file anew."""
        found = self.find(path)
        if found is None:
            return
        index, inside = found
        try:
            await _write(self._folders[index.root], lambda: index.update([inside]))
        except CodeIndexError as error:
            self._complain(str(error))
        self._changed()

    async def reindex(self) -> int:
        """Read everything anew that has changed; returns how many repositories there are."""
        folders = list(self._folders.values())
        await asyncio.gather(*(self._sync(folder) for folder in folders))
        return len(folders)

    def excluded(self, index: "Index", path: str) -> bool:
        """Whether a file stands on the disk and the index has left it out: ignored, secret, generated."""
        folder = self._folders.get(index.root)
        if folder is None:
            return False
        if folder.sources is None:
            with suppress(CodeIndexError):
                folder.sources = frozenset(index.sources())
        known = folder.sources or frozenset()
        return bool(known) and path not in known and (folder.root / path).exists()

    def indexes(self) -> "list[Index]":
        """The index of each repository."""
        return [folder.index for folder in self._folders.values()]

    def _changed(self) -> None:
        for folder in self._folders.values():
            folder.sources = None
        self._tell_changed()

    async def aclose(self) -> None:
        """Close the indexes, after the background work on them has ended."""
        for folder in list(self._folders.values()):
            await self._drop(folder)

    async def _drop(self, folder: Folder) -> None:
        folder.stop.set()
        self._folders.pop(folder.root, None)
        self._changed()
        if folder.watcher is not None:
            await asyncio.to_thread(folder.watcher.close)
        await _write(folder, folder.index.close)

    def _watch(self, index: "Index") -> "Watcher":
        """Keep it fresh from here on; the process that is elected for a repository does the work."""
        from codellama_index.watch import Watcher

        loop = asyncio.get_running_loop()

        def notice(sentence: str) -> None:
            loop.call_soon_threadsafe(self._complain, sentence)

        watcher = Watcher(index, notice)
        watcher.start()
        return watcher

    async def _sync(self, folder: Folder) -> None:
        """Bring the index up to date, with a progress bar and the status line beside it."""
        loop = asyncio.get_running_loop()
        bar = self._progress(f"Indexing {folder.root.name}")
        self._background.start(bar.open())
        shown = -1

        def show(percent: int, message: str) -> None:
            bar.report(percent, message)
            self._status.indexing(str(folder.root), percent)

        def progress(step: "Step") -> None:
            nonlocal shown
            percent = 100 * step.bytes // max(step.all_bytes, 1)
            if percent != shown:  # a notification per file would flood the editor
                shown = percent
                loop.call_soon_threadsafe(show, percent, f"{step.files} of {step.all_files} files")

        def cancelled() -> bool:
            return folder.stop.is_set() or bar.cancelled()

        self._status.indexing(str(folder.root), 0)
        last_word = "stopped"
        try:
            report = await _write(folder, lambda: folder.index.sync(progress, cancelled))
            last_word = f"{report.files} files, {report.symbols} symbols"
        except CodeIndexError as error:
            self._complain(str(error))
        finally:
            self._changed()
            bar.close(last_word)
            self._status.indexing(str(folder.root), None)


async def _write(folder: Folder, work: Callable[[], T]) -> T:
    """Run `work` in a thread, alone with this index.

    When the caller is cancelled the thread is told to stop and waited for, so that nobody closes an
    index that is still being written.
    """
    async with folder.writing:
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            folder.stop.set()
            await asyncio.wait([thread])
            raise


def _open(path: Path, options: IndexSettings) -> "Index":
    from codellama_index import open_index

    return open_index(path, max_bytes=options.max_bytes, submodules=options.submodules)
