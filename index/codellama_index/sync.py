"""Brings the store up to date with the disk: what `stat` says has changed is read, the rest left alone.

Parsing many files goes to worker processes (tree-sitter holds the interpreter's lock while it parses);
this process alone writes. Work is committed every few files, so a killed build goes on where it was.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, resource_tracker
from pathlib import Path

from codellama_index.extract import Extract, decode, extract
from codellama_index.packed import Packed, pack
from codellama_index.queries import Queries
from codellama_index.rank import page_rank
from codellama_index.records import SkippedFile, SyncReport
from codellama_index.store import Store, StoredFile
from codellama_index.walk import FoundFile, refusal, walk

_BATCH = 64
# Below this, starting worker processes takes longer than parsing.
_FEW_FILES = 150
_RERANK_SHARE = 0.05
_NOTHING = pack("", Extract((), (), (), ()))

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A file to read and parse, in whichever process."""

    root: str
    file: FoundFile


@dataclass(frozen=True, slots=True)
class Parsed:
    """What became of a Job; `digest` is empty where nothing could be read."""

    file: FoundFile
    digest: bytes
    skip: str
    packed: Packed


def sync(
    store: Store,
    root: Path,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SyncReport:
    """One pass over the tree; `cancelled` is asked between batches, and what is done by then stays."""
    began = time.perf_counter()
    known = store.files()
    found = {file.path: file for file in walk(root)}
    changed = [file for file in found.values() if _changed(file, known)]
    gone = [path for path in known if path not in found]
    indexed = 0
    done = 0
    parsed = _parsed(root, changed)
    while batch := tuple(islice(parsed, _BATCH)):
        with store.atomic():
            for item in batch:
                indexed += _write(store, item)
        done += len(batch)
        if progress is not None:
            progress(done, len(changed))
        if cancelled is not None and cancelled():
            break
    with store.atomic():
        store.unlink(gone)
        if changed or gone:
            rank(store, len(changed) + len(gone))
            store.prune()
    return report(store, indexed, time.perf_counter() - began)


def sync_files(store: Store, root: Path, paths: Iterable[str]) -> None:
    """Re-reads these files now, such as one that an editor has saved; ranks stay as they are."""
    found = {file.path: file for file in walk(root)}
    wanted = list(paths)
    with store.atomic():
        for path in wanted:
            if path in found:
                _write(store, parse(Job(str(root), found[path])))
        store.unlink(path for path in wanted if path not in found)


def rank(store: Store, changed: int) -> None:
    """Ranks files and symbols anew once enough of them have changed; inside `atomic`.

    A few edits move no rank that anyone would notice, and the graph of a large repository takes a second.
    """
    queries = Queries(store)
    ranks = queries.ranks()
    if changed <= _RERANK_SHARE * len(ranks) and any(ranks.values()):
        return
    fresh = page_rank(ranks, queries.mentions(), queries.definitions())
    store.set_ranks(fresh.files, fresh.symbols)


def report(store: Store, indexed: int, seconds: float) -> SyncReport:
    """The index's totals as they stand."""
    files = store.files()
    symbols, size = Queries(store).totals()
    skipped = tuple(SkippedFile(file.path, file.skip) for file in files.values() if file.skip)
    return SyncReport(len(files), indexed, skipped, symbols, seconds, size)


def parse(job: Job) -> Parsed:
    """Reads and parses one file; never raises for what a file may hold."""
    file = job.file
    if file.skip:
        return Parsed(file, b"", file.skip, _NOTHING)
    try:
        content = (Path(job.root) / file.path).read_bytes()
    except OSError as error:
        return Parsed(file, b"", f"unreadable: {error.strerror}", _NOTHING)
    # The suffix is part of the key: the same bytes are other symbols in another language.
    suffix = os.path.splitext(file.path)[1].lower().encode("utf-8", "replace")
    digest = hashlib.blake2b(content, digest_size=20, person=suffix[:16]).digest()
    text = decode(content)
    skip = refusal(file.path, text)
    if skip or text is None:
        return Parsed(file, digest, skip, _NOTHING)
    return Parsed(file, digest, "", pack(text, extract(file.path, text)))


def _changed(file: FoundFile, known: dict[str, StoredFile]) -> bool:
    old = known.get(file.path)
    return old is None or (old.size, old.mtime_ns, old.ctime_ns, old.inode) != (
        *(file.size, file.mtime_ns, file.ctime_ns, file.inode),
    )


def _write(store: Store, item: Parsed) -> int:
    """Stores one file; 1 if its content was new to the index."""
    if not item.digest:
        store.link(item.file, None, item.skip)
        return 0
    known = store.blob_of(item.digest)
    blob = known if known is not None else store.add_blob(item.digest, item.skip, item.packed)
    store.link(item.file, blob, item.skip)
    return 0 if known is not None or item.skip else 1


def _parsed(root: Path, files: list[FoundFile]) -> Iterator[Parsed]:
    jobs = [Job(str(root), file) for file in files]
    if len(jobs) < _FEW_FILES:
        yield from map(parse, jobs)
        return
    # Spawned, not forked: forking a process with threads (an editor's server) may deadlock.
    workers = min(os.cpu_count() or 1, 8)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_leave_with_parent) as pool:
        for start in range(0, len(jobs), 8 * _BATCH):
            part = jobs[start : start + 8 * _BATCH]
            try:
                with _interrupts_blocked():  # jobs start the processes as they come in
                    parsing = pool.map(parse, part, chunksize=16)
                yield from parsing
            except BrokenProcessPool:
                # A grammar crashed on one of them: none of this part is worth the whole index.
                yield from (Parsed(job.file, b"", "crashed its parser", _NOTHING) for job in part)
                return


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started in here never see Ctrl-C, which a terminal sends to all: this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would start in here otherwise, and unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with_parent() -> None:
    """In a worker: ends it when the process that wants its work has ended, however that came about."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
