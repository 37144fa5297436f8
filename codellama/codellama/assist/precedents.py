"""What the repository's own files say at a cursor.

Reads the files nearest to the cursor's, within a time budget a call: what it leaves, the next call does, or
`read_on` while nobody waits. Nothing is written, and no file that the index would refuse is read.
"""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import PurePosixPath
from weakref import WeakKeyDictionary

from codellama.runtime.evidence import Evidence, Guess
from codellama_index import Index
from codellama_index.errors import CodeIndexError
from codellama_index.records import OpenDocument
from codellama_index.refusal import by_content
from codellama_index.walk import FoundFile, walk

_READ_S = 0.05  # while someone waits for a guess
_SLICE_S, _REST_S = 0.02, 0.01  # of reading while nobody waits, so that a guess never waits for long
_LISTED_S = 20.0  # at least, between two looks which files there are
_LISTED_SHARE = 0.02  # of the time, that such looks may take
_TEXT_BYTES = 4_000_000
_FILE_BYTES = 200_000


class Precedents:
    """Evidence from one repository's files of one kind of language at a time; safe in several threads."""

    def __init__(self) -> None:
        self._evidence = Evidence()
        self._known: dict[str, FoundFile | str] = {}  # what each text was put from: a file's state, a buffer
        self._waiting: list[FoundFile] = []
        self._listed = -math.inf
        self._look_s = 0.0  # what the last look took
        self._suffix = ""
        self._turn = threading.Lock()

    def guesses(
        self,
        index: Index | None,
        path: str,
        prefix: str,
        suffix: str,
        open_documents: Sequence[OpenDocument] = (),
    ) -> list[Guess]:
        """How the cursor's line went on elsewhere: in this file, in open ones, in the repository's."""
        with self._turn:
            self._looked_at(path)
            buffers = {d.path: d.text for d in open_documents if PurePosixPath(d.path).suffix == self._suffix}
            for name, text in buffers.items():
                if self._known.get(name) != text:
                    self._evidence.put(name, text)
                    self._known[name] = text
            if index is not None:
                if self._listed == -math.inf:
                    self._look(path, *_files(index, self._suffix, time.monotonic() + _READ_S))
                self._read(index, time.monotonic() + _READ_S)
            return self._evidence.guesses(prefix, suffix, without=(path,))

    def read_on(self, index: Index, path: str, leaving: threading.Event) -> None:
        """Reads what guesses at a path will want, a little at a time, until it is to leave.

        Looks now and then what has changed.
        """
        with self._turn:
            self._looked_at(path)
            pause = max(_LISTED_S, self._look_s / _LISTED_SHARE)
            suffix, began = self._suffix, time.monotonic()
        if began - self._listed > pause:
            found, _ = _files(index, suffix, math.inf)  # without the lock: it may take seconds
            with self._turn:
                self._look_s = time.monotonic() - began
                if suffix == self._suffix:
                    self._look(path, found, complete=True)
        while self._waiting and not leaving.wait(_REST_S):
            with self._turn:
                self._read(index, time.monotonic() + _SLICE_S)

    def _looked_at(self, path: str) -> None:
        if PurePosixPath(path).suffix != self._suffix:
            self._suffix, self._listed, self._waiting = PurePosixPath(path).suffix, -math.inf, []

    def _look(self, path: str, found: dict[str, FoundFile], complete: bool) -> None:
        """Chooses the files to be read, the nearest first, and forgets those that are gone."""
        if complete:
            self._listed = time.monotonic()
            for name in self._known.keys() - found.keys():
                if not isinstance(self._known[name], str):  # no open buffer
                    self._evidence.drop(name)
                    del self._known[name]
        near = sorted(found.values(), key=lambda file: (_distance(path, file.path), file.path))
        self._waiting, room = [], _TEXT_BYTES
        for file in near:
            room -= file.size
            if room > 0 and file.size <= _FILE_BYTES and self._known.get(file.path) != file:
                self._waiting.append(file)
        self._waiting.reverse()

    def _read(self, index: Index, deadline: float) -> None:
        while self._waiting and time.monotonic() < deadline:
            file = self._waiting.pop()
            if isinstance(self._known.get(file.path), str):
                continue  # an open buffer is newer than the disk
            self._known[file.path] = file
            try:
                text = index.read(file.path)
            except CodeIndexError:
                continue
            if not by_content(file.path, text):
                self._evidence.put(file.path, text.replace("\r\n", "\n"))


_by_index: WeakKeyDictionary[Index, Precedents] = WeakKeyDictionary()


def guesses_at(
    index: Index | None, path: str, prefix: str, suffix: str, open_documents: Sequence[OpenDocument] = ()
) -> list[Guess]:
    """`Precedents.guesses`; what was read of an index's files is kept as long as the index is."""
    known = Precedents() if index is None else _by_index.setdefault(index, Precedents())
    return known.guesses(index, path, prefix, suffix, open_documents)


def read_on(index: Index, path: str, leaving: threading.Event) -> None:
    """`Precedents.read_on` for the guesses of `guesses_at`; it may take seconds."""
    _by_index.setdefault(index, Precedents()).read_on(index, path, leaving)


def _files(index: Index, suffix: str, deadline: float) -> tuple[dict[str, FoundFile], bool]:
    """The repository's files of one kind that were found until the deadline, and whether that is all."""
    found: dict[str, FoundFile] = {}
    for file in walk(index.root):
        if not file.skip and suffix and file.path.endswith(suffix):
            found[file.path] = file
        if time.monotonic() > deadline:
            return found, False
    return found, True


def _distance(path: str, other: str) -> int:
    """Steps from one file's folder to the other's."""
    here, there = PurePosixPath(path).parent.parts, PurePosixPath(other).parent.parts
    shared = 0
    for one, two in zip(here, there, strict=False):
        if one != two:
            break
        shared += 1
    return len(here) + len(there) - 2 * shared
