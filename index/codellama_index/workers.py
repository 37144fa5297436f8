"""Parsing processes: files in, packed extracts out.

Own interpreters on pipes, not threads (tree-sitter holds the interpreter's lock while it parses) and not
multiprocessing (whose children run the caller's main module again). A worker that takes too long over a
file is killed, and that file alone is given up; one that dies gets its file tried once more. Workers run
at low priority, never see Ctrl-C, end with their parent, and are replaced when they have grown.
"""

import contextlib
import gc
import hashlib
import marshal
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from codellama_index.captures import Mentions
from codellama_index.extract import Extract, decode, extract
from codellama_index.languages import language_of
from codellama_index.packed import Packed, Passage, pack
from codellama_index.refusal import by_content
from codellama_index.walk import FoundFile

DEADLINE_S = 20.0
_START_S = 60.0
_BATCH_FILES = 16
_BATCH_BYTES = 400_000
_AHEAD = 2  # batches that a worker has, so that it need not wait for the next
_MOST = 8
_GROWN_BYTES = 200_000_000
_NICENESS = 5
_FRAME = struct.Struct("<I")

NOTHING = pack("", Extract((), Mentions(), (), ()))


class Parsed(NamedTuple):
    """What became of a file; `digest` is empty where nothing of it could be read.

    `skip` is why its content is left out, `packed` what was extracted. `gone` files are there no more.
    """

    file: FoundFile
    digest: bytes
    skip: str
    packed: Packed
    gone: bool = False


def parse(root: str, file: FoundFile) -> Parsed:
    """Reads and parses one file; never raises for what a file may hold."""
    if file.skip:
        return Parsed(file, b"", file.skip, NOTHING)
    return Parsed(file, *_read(root, file.path))


def digest_of(root: str, path: str) -> bytes:
    """The key of a file's content, empty where it cannot be read."""
    with contextlib.suppress(OSError):
        return _digest(path, _content(root, path))
    return b""


def _read(root: str, path: str) -> tuple[bytes, str, Packed, bool]:
    try:
        content = _content(root, path)
    except FileNotFoundError:
        return b"", "", NOTHING, True
    except OSError as error:
        return b"", f"unreadable: {error.strerror}", NOTHING, False
    digest = _digest(path, content)
    text = decode(content)
    skip = by_content(path, text)
    if skip or text is None:
        return digest, skip, NOTHING, False
    return digest, "", pack(text, extract(path, text)), False


def _content(root: str, path: str) -> bytes:
    # A link that has taken the file's place since the walk is not followed.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(f"{root}/{path}", flags), "rb") as opened:
        return opened.read()


def _digest(path: str, content: bytes) -> bytes:
    # Suffix and language are part of the key: the same bytes are other symbols in another language.
    kind = f"{language_of(path) or ''}{os.path.splitext(path)[1].lower()}".encode("utf-8", "replace")
    return hashlib.blake2b(content, digest_size=20, person=kind[:16]).digest()


@dataclass(slots=True)
class _Worker:
    process: "subprocess.Popen[bytes]"
    pending: deque[FoundFile] = field(default_factory=deque)
    since: float = 0.0
    ready: bool = False
    leaving: bool = False


class Pool:
    """Workers over the files of one tree; for one thread."""

    def __init__(self, root: Path, count: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        self._root = str(root)
        self._count = count or min(_processors(), _MOST)
        self._deadline_s = deadline_s
        self._workers: list[_Worker] = []
        self._answers: queue.SimpleQueue[tuple[_Worker, bytes | None]] = queue.SimpleQueue()
        self._deaths: Counter[str] = Counter()
        self._failed_starts = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; what they were parsing is lost."""
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def parse(self, files: Iterable[FoundFile]) -> Iterator[Parsed]:
        """Each file's result, in the order in which they are done."""
        waiting = deque(files)
        while waiting or any(worker.pending for worker in self._workers):
            if self._failed_starts > 2 * self._count:  # no processes here: slower, but done
                while waiting:
                    yield parse(self._root, waiting.popleft())
                return
            self._supply(waiting)
            yield from self._collect(waiting)

    def _supply(self, waiting: deque[FoundFile]) -> None:
        """Starts workers while there is work for them, and keeps each supplied."""
        while waiting and len(self._workers) < self._count:
            started = self._start()
            self._send(started, waiting)
        for worker in self._workers:
            while waiting and len(worker.pending) <= _BATCH_FILES * (_AHEAD - 1) and not worker.leaving:
                self._send(worker, waiting)

    def _start(self) -> _Worker:
        search = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        # -P: a module of the repository that happens to be the current folder is never imported.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "codellama_index.workers", self._root, str(self._deadline_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))},
            start_new_session=True,
            creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)
            | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        worker = _Worker(process)
        self._workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        while (frame := _receive(worker.process.stdout)) is not None:
            self._answers.put((worker, frame))
        worker.process.stdout.close()
        self._answers.put((worker, None))

    def _send(self, worker: _Worker, waiting: deque[FoundFile]) -> None:
        batch: list[FoundFile] = []
        size = 0
        # A file at which a worker died goes alone, so that no other is blamed for it.
        while waiting and len(batch) < _BATCH_FILES and size < _BATCH_BYTES:
            if self._deaths[waiting[0].path] and (batch or worker.pending):
                break
            batch.append(waiting.popleft())
            size += batch[-1].size
            if self._deaths[batch[-1].path]:
                break
        if not batch:
            return
        if not worker.pending:
            worker.since = time.monotonic()
        worker.pending += batch
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):  # it has died: its last answer will say so
            _transmit(worker.process.stdin, marshal.dumps([file.path for file in batch]))

    def _collect(self, waiting: deque[FoundFile]) -> Iterator[Parsed]:
        """One answer, or the files of workers whose time is over."""
        busy = [worker.since for worker in self._workers if worker.pending]
        left = min(busy, default=time.monotonic()) + min(self._deadline_s, _START_S) - time.monotonic()
        try:
            worker, frame = self._answers.get(timeout=max(left, 0.001))
        except queue.Empty:
            yield from self._expire(waiting)
            return
        if frame is None:
            yield from self._bury(worker, waiting)
        elif not worker.ready:
            worker.ready, worker.since, self._failed_starts = True, time.monotonic(), 0
        elif not frame:
            worker.leaving = True
        else:
            worker.since = time.monotonic()
            digest, skip, packed, gone = marshal.loads(frame)  # noqa: S302 - our own process wrote it
            file = worker.pending.popleft()
            yield Parsed(file, digest, skip, _named(packed), gone)

    def _expire(self, waiting: deque[FoundFile]) -> Iterator[Parsed]:
        for worker in list(self._workers):
            allowed = self._deadline_s if worker.ready else _START_S
            if worker.pending and time.monotonic() - worker.since >= allowed:
                self._remove(worker)
                if worker.ready:
                    guilty = worker.pending.popleft()
                    yield Parsed(guilty, b"", f"not parsed within {self._deadline_s:g} s", NOTHING)
                else:
                    self._failed_starts += 1
                waiting.extendleft(reversed(worker.pending))

    def _bury(self, worker: _Worker, waiting: deque[FoundFile]) -> Iterator[Parsed]:
        """A worker has ended: by itself, at a file, or before it began."""
        if worker not in self._workers:
            return  # killed before: what it had is taken care of
        self._remove(worker)
        if not worker.ready:
            self._failed_starts += 1
        elif worker.pending and not worker.leaving:
            self._deaths[worker.pending[0].path] += 1
            if self._deaths[worker.pending[0].path] > 1:
                yield Parsed(worker.pending.popleft(), b"", "crashed its parser", NOTHING)
        waiting.extendleft(reversed(worker.pending))

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        _end(worker)


def _named(plain: tuple[Any, ...]) -> Packed:
    """A Packed out of the plain tuples that came through the pipe."""
    packed = Packed._make(plain)
    return packed._replace(passages=tuple(map(Passage._make, packed.passages)))


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    assert worker.process.stdin is not None
    with contextlib.suppress(OSError):
        worker.process.stdin.close()


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _transmit(stream: IO[bytes], content: bytes) -> None:
    stream.write(_FRAME.pack(len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    """The next frame, or None at the end."""
    try:
        head = stream.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return None
        (size,) = _FRAME.unpack(head)
        content = stream.read(size)
    except (OSError, ValueError):
        return None
    return content if len(content) == size else None


def _main(root: str, deadline_s: float) -> None:
    """A worker: batches of paths on stdin, a result for each on stdout, an empty frame before it leaves."""
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    gc.set_threshold(50_000)  # what is made of a file holds no cycles
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the frames
    _transmit(answers, b"ready")
    while (frame := _receive(sys.stdin.buffer)) is not None:
        for path in marshal.loads(frame):  # noqa: S302 - our parent wrote it
            if hasattr(signal, "alarm"):
                # The parent kills by its own clock; this is for the day that it was killed itself.
                signal.alarm(int(2 * deadline_s) + 1)
            digest, skip, packed, gone = _read(root, path)
            # marshal takes plain tuples only.
            plain: Any = (*packed[:-1], tuple(map(tuple, packed.passages)))
            _transmit(answers, marshal.dumps((digest, skip, plain, gone)))
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        if _grown_bytes() > _GROWN_BYTES:
            _transmit(answers, b"")
            return


def _grown_bytes() -> int:
    """What this process has taken; 0 where that cannot be told."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # Linux counts the peak of whoever started a process as its own: a large one's workers would never stay.
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as opened:
        return int(opened.read().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _main(sys.argv[1], float(sys.argv[2]))
