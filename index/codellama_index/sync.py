"""Brings the store up to date with the disk: what `stat` says has changed is read, the rest left alone.

Many files, and large ones, are parsed by worker processes; this process alone writes. Work is committed
at least once a second, so a killed build goes on where it was.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from codellama_index.history import COMMITS, commits
from codellama_index.queries import Queries
from codellama_index.rank import page_rank
from codellama_index.records import SkippedFile, SyncReport
from codellama_index.store import Store, StoredFile
from codellama_index.walk import FoundFile, look, walk
from codellama_index.workers import DEADLINE_S, NOTHING, Parsed, Pool, digest_of, parse

_COMMIT_S = 0.5
_COMMIT_BYTES = 4_000_000
# Up to here parsing takes less time than a worker's start; a file of this size cannot keep us for long.
_FEW_FILES = 24
_SMALL_BYTES = 64_000
_ASK_EVERY = 256  # files that are looked at between two questions whether to go on
_RERANK_SHARE = 0.05
# A file that was changed just before it was looked at may change again without a trace in its times,
# which move in ticks of some milliseconds: it is looked at again.
_TICK_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """How far a sync is: files and bytes done and in all, and the path that was done last."""

    files: int
    all_files: int
    bytes: int
    all_bytes: int
    path: str


Progress = Callable[[Step], None]


def sync(
    store: Store,
    root: Path,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    submodules: bool = True,
    deadline_s: float = DEADLINE_S,
) -> SyncReport:
    """One pass over the tree; `cancelled` is asked after each file, and what is done by then stays."""
    began = time.perf_counter()
    known = store.files()
    now = time.time_ns()
    found: dict[str, FoundFile] = {}
    for file in walk(root, submodules):
        found[file.path] = file
        if not len(found) % _ASK_EVERY and cancelled is not None and cancelled():
            return report(store, 0, time.perf_counter() - began)
    changed = [file for file in found.values() if _changed(file, known)]
    gone = [path for path in known if path not in found]
    counted = _Counted(changed, progress)
    indexed = 0
    results = counted.until(_parsed(store, root, changed, deadline_s), cancelled)
    for batch in _batches(results):
        indexed += _write(store, batch, known, now)
    if gone:
        with store.atomic():
            store.unlink(gone)
            store.note_changes(len(gone))
    stopped = counted.files < len(changed) or (cancelled is not None and cancelled())
    if not stopped:
        _finish(store)
    if changed or gone:
        if not stopped:
            _remember(store, root)
        store.checkpoint()
    files = store.files() if changed or gone else known
    return _report(store, files, indexed, time.perf_counter() - began, current=not stopped)


def sync_files(store: Store, root: Path, paths: Iterable[str]) -> None:
    """Re-reads these files and folders now, such as a file that was saved; ranks stay as they are."""
    wanted = list(paths)
    known = store.files_at(wanted)
    now = time.time_ns()
    found = look(root, wanted, known)
    _write(store, list(_parsed(store, root, found)), known, now)
    there = {file.path for file in found}
    gone = [path for path in known if path not in there]
    if gone:
        with store.atomic():
            store.unlink(gone)
            store.note_changes(len(gone))


def report(store: Store, indexed: int, seconds: float) -> SyncReport:
    """The index's totals as they stand."""
    return _report(store, store.files(), indexed, seconds, current=False)


def _report(
    store: Store, files: Mapping[str, StoredFile], indexed: int, seconds: float, current: bool
) -> SyncReport:
    symbols, size = Queries(store).totals()
    skipped = tuple(SkippedFile(file.path, file.skip) for file in files.values() if file.skip)
    return SyncReport(len(files), indexed, skipped, symbols, seconds, size, store.state().complete, current)


class _Counted:
    """Tells of each file that is done."""

    def __init__(self, files: list[FoundFile], progress: Progress | None) -> None:
        self.files = 0
        self._all_files = len(files)
        self._bytes = 0
        self._all_bytes = sum(file.size for file in files)
        self._progress = progress

    def until(self, results: Iterator[Parsed], cancelled: Callable[[], bool] | None) -> Iterator[Parsed]:
        """Passes the results on, telling of each, until `cancelled`."""
        for item in results:
            yield item
            self.files += 1
            self._bytes += item.file.size
            if self._progress is not None:
                self._progress(
                    Step(self.files, self._all_files, self._bytes, self._all_bytes, item.file.path)
                )
            if cancelled is not None and cancelled():
                break


def _changed(file: FoundFile, known: dict[str, StoredFile]) -> bool:
    old = known.get(file.path)
    return old is None or (old.size, old.mtime_ns, old.ctime_ns, old.inode) != (
        *(file.size, file.mtime_ns, file.ctime_ns, file.inode),
    )


def _parsed(
    store: Store,
    root: Path,
    files: list[FoundFile],
    deadline_s: float = DEADLINE_S,
) -> Iterator[Parsed]:
    """The files' results: contents that are stored already are only linked, few small files are parsed
    here, the others by workers."""
    tree = str(root)
    unknown: list[FoundFile] = []
    empty = store.is_empty()
    for file in files:
        digest = digest_of(tree, file.path) if not empty and not file.skip else b""
        stored = store.blob_of(digest) if digest else None
        if stored is not None:
            yield Parsed(file, digest, stored[1], NOTHING)
        elif file.skip:
            yield parse(tree, file)
        else:
            unknown.append(file)
    few = len(unknown) <= _FEW_FILES
    there = []
    for file in unknown:
        if few and file.size <= _SMALL_BYTES:
            yield parse(tree, file)
        else:
            there.append(file)
    if there:
        with Pool(root, deadline_s=deadline_s) as pool:
            yield from pool.parse(there)


def _batches(results: Iterator[Parsed]) -> Iterator[list[Parsed]]:
    """Results as they are to be committed: by time, and by size."""
    batch: list[Parsed] = []
    began, size = time.monotonic(), 0
    for item in results:
        batch.append(item)
        size += item.file.size
        if size >= _COMMIT_BYTES or time.monotonic() - began >= _COMMIT_S:
            yield batch
            batch = []
            began, size = time.monotonic(), 0
    if batch:
        yield batch


def _write(store: Store, batch: list[Parsed], known: dict[str, StoredFile], now: int) -> int:
    """Stores what was parsed; how many contents were new to the index."""
    if not batch:
        return 0
    indexed = changes = 0
    with store.atomic():
        for item in batch:
            if item.gone:
                continue  # the next walk will not find it
            stored = store.blob_of(item.digest) if item.digest else None
            blob = stored[0] if stored else None
            if blob is None and item.digest:
                blob = store.add_blob(item.digest, item.skip, item.packed)
                indexed += not item.skip
            old = known.get(item.file.path)
            changes += old is None or old.blob != blob
            store.link(_settled(item.file, now), blob, item.skip)
        if changes:
            store.note_changes(changes)
    return indexed


def _settled(file: FoundFile, now: int) -> FoundFile:
    """The file as it is to be remembered: one that may still change unseen is to differ next time."""
    if max(file.mtime_ns, file.ctime_ns) < now - _TICK_NS:
        return file
    return replace(file, ctime_ns=-1)


def _remember(store: Store, root: Path) -> None:
    """Adds the commits that are not known; where the known ones are gone or many, all are read anew."""
    known = store.commits()
    fresh = commits(root, known[-1]) if known else commits(root, b"")
    again = known and (fresh is None or len(known) + len(fresh) > 2 * COMMITS)
    if again:
        fresh = commits(root, b"")
    fresh = [c for c in fresh or () if again or c.digest not in set(known)]
    if fresh:
        with store.atomic():
            if again:
                store.drop_commits()
            store.add_commits(fresh)


def _finish(store: Store) -> None:
    """What is due after a whole pass: ranks once enough contents have changed, old contents thrown out.

    A few edits move no rank that anyone would notice, and the graph of a large repository takes a second.
    """
    state = store.state()
    queries = Queries(store)
    ranks = queries.ranks() if state.changed or not state.complete else {}
    due = not state.complete or state.changed > _RERANK_SHARE * len(ranks)
    if state.complete and not state.changed:
        return
    fresh = page_rank(ranks, queries.mentions(), queries.definitions()) if due else None
    with store.atomic():
        if fresh is not None:
            store.set_ranks(fresh.files, fresh.symbols)
            store.ranked()
        store.prune()
    if not state.complete:
        store.compact()
