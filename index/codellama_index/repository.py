"""`Index`: one repository, known. The package's front door; the work is done by the modules below it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from codellama_index import meaning, nearby, outline, schema
from codellama_index import retrieve as retrieval
from codellama_index import sync as syncing
from codellama_index.database import Damaged
from codellama_index.errors import NotText, PathNotFound, PositionOutOfRange, StoreError
from codellama_index.extract import decode
from codellama_index.place import MAX_BYTES, Place, cache_folder, place_of
from codellama_index.queries import Queries
from codellama_index.records import (
    Encoded,
    Hit,
    MapEntry,
    OpenDocument,
    QuestionVector,
    RankedFile,
    Reference,
    Snippet,
    Symbol,
    SyncReport,
)
from codellama_index.retrieve_files import FILE_SIGNALS, retrieve_files
from codellama_index.store import Store
from codellama_index.sync import Progress
from codellama_index.walk import find_root, git_common_dir
from codellama_index.writer import NotNow, Writer

_CONTEXT_DEADLINE_S = 0.1
_GARBAGE = 0.67  # deleted chunks that still take room; then a new database is due

T = TypeVar("T")


class Index:
    """One worktree's index; any number of threads and processes may read while one syncs."""

    def __init__(self, root: Path, place: Place, max_bytes: int, submodules: bool) -> None:
        self.root = root
        self.place = place
        self.max_bytes = max_bytes
        self._submodules = submodules
        self._writer = Writer(place, root, schema.fingerprint())
        self._queries = Queries(self._writer.store)

    @property
    def database(self) -> Path | None:
        """The database that is read; None where nothing was built yet."""
        return self._writer.store.path

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database's connections."""
        self._writer.store.close()

    def sync(
        self,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> SyncReport:
        """Reads what has changed on disk. A second writer waits for the first, unless `cancelled`.

        Raises StoreError where the disk is full or the folder cannot be written.
        """

        def work(store: Store) -> SyncReport:
            return syncing.sync(store, self.root, progress, cancelled, self._submodules)

        try:
            report = self._writer.run(work, cancelled)
        except NotNow:
            return self.status()
        if report.indexed and report.complete:
            if self._writer.store.garbage() > _GARBAGE:
                self._writer.rebuild(self._with_vectors_of(self.database, work))
            self._writer.bound(self.max_bytes)
        return report

    def encode(
        self,
        model: str,
        encode: meaning.Encode,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Encoded:
        """Gives the passages of code that have none a vector of `model`, for `retrieve`; see `meaning`.

        Other processes read and write meanwhile. What is done stays where it is cancelled or `encode` raises;
        the vectors of other models are deleted once all is done.
        """

        def save(vectors: Sequence[tuple[bytes, bytes]]) -> None:
            self._writing(lambda store: store.add_vectors(model, vectors))

        encoded = self._reading(
            lambda: meaning.encode_files(
                self._queries, self.root, self._line_reader(), model, encode, save, progress, cancelled
            )
        )
        if encoded.files == encoded.all_files:
            self._writing(lambda store: store.drop_vectors(model))
        return encoded

    def unencoded(self, model: str) -> int:
        """How many files have passages that lack a vector of `model`."""
        return self._reading(lambda: len(meaning.waiting(self._queries, model)))

    def update(self, paths: Iterable[str]) -> None:
        """Re-reads these files now."""
        wanted = list(paths)
        self._writer.run(lambda store: syncing.sync_files(store, self.root, wanted))

    def status(self) -> SyncReport:
        """The index as it stands, without a look at the disk."""
        return self._reading(lambda: syncing.report(self._writer.store, 0, 0.0))

    def paths(self) -> list[str]:
        """Every file that the index knows, left out or not."""
        return self._reading(lambda: list(self._writer.store.files()))

    def notes(self) -> list[str]:
        """What a person should know of the index's place, a sentence each."""
        newer = self.place.newer(schema.SCHEMA)
        if not newer:
            return []
        return ["A newer codellama keeps an index here too: it is left alone, and this one stands beside it."]

    def drop(self) -> int:
        """Deletes the database; the bytes that it held."""
        return self._writer.drop()

    def symbols(self, query: str | None = None, limit: int | None = 50) -> list[Symbol]:
        """Definitions by name: the exact name first, then by case, beginning, part; None lists all."""
        if query is None:
            return self._reading(self._queries.all_symbols)
        return self._reading(lambda: retrieval.by_name(self._queries, query, limit))

    def definitions(self, name: str, limit: int = 20) -> list[Symbol]:
        """Definitions with exactly this name; a dotted one (or with `::`) also says the scope's end.

        Of a name that is defined more often than `limit`, those in the most central files.
        """
        scope, _, last = name.replace("::", ".").replace("#", ".").rpartition(".")
        found = self._reading(lambda: self._queries.defined(last, -1 if scope else limit))
        return [s for s in found if s.scope == scope or s.scope.endswith(f".{scope}") or not scope]

    def references(self, name: str, limit: int = 200) -> list[Reference]:
        """Uses of a name, each with its line's text."""
        read = self._line_reader()
        found = self._reading(lambda: self._queries.references(name.rpartition(".")[2], limit))

        def line(reference: Reference) -> str:
            lines = read(reference.path)
            return lines[reference.line - 1].strip() if reference.line <= len(lines) else ""

        return [Reference(r.path, r.name, r.line, line(r), r.span) for r in found]

    def known_names(self, names: Iterable[str]) -> set[str]:
        """Those of the names that are defined or used anywhere in the repository."""
        wanted = set(names)

        def find() -> set[str]:
            defined = {name for name, _, _ in self._queries.definers(wanted)}
            return defined | {n for n in wanted - defined if self._queries.references(n, 1)}

        return self._reading(find) if wanted else set()

    def search(self, text: str, limit: int = 20) -> list[Hit]:
        """Passages by relevance to words."""
        return self._reading(lambda: retrieval.search(self._queries, self._line_reader(), text, limit))

    def retrieve(
        self,
        question: str,
        limit: int = 10,
        signals: Mapping[str, float] = retrieval.SIGNALS,
        vector: QuestionVector | None = None,
    ) -> list[Hit]:
        """Passages for a question in natural language; `signals` weighs what finds them.

        `vector` is the question as the model of `encode` sees it.
        """
        read = self._line_reader()

        def find() -> list[Hit]:
            near = meaning.nearest(self._queries, vector) if vector else ()
            return retrieval.retrieve(self._queries, read, question, limit, signals, near)

        return self._reading(find)

    def retrieve_files(
        self, question: str, limit: int = 10, signals: Mapping[str, float] = FILE_SIGNALS
    ) -> list[RankedFile]:
        """Files for a question in natural language or a commit's message, each taken as a whole."""
        return self._reading(lambda: retrieve_files(self._queries, question, limit, signals))

    def context(
        self,
        path: str,
        offset: int,
        text: str | None = None,
        open_documents: Sequence[OpenDocument] = (),
        budget_bytes: int = 6144,
    ) -> list[Snippet]:
        """What of other files helps at byte `offset` of `path`, whose unsaved text may be given.

        Raises PathNotFound, NotText or PositionOutOfRange. Takes at most about 100 ms.
        """
        deadline = time.monotonic() + _CONTEXT_DEADLINE_S
        current = self.read(path) if text is None else text
        size = len(current.encode("utf-8", "replace"))
        if not 0 <= offset <= size:
            raise PositionOutOfRange(f"{path} has {size} bytes, so there is no offset {offset} in it.")
        read = self._line_reader({d.path: d.text for d in open_documents})
        return self._reading(
            lambda: nearby.nearby(
                self._queries, read, path, current, offset, open_documents, budget_bytes, deadline
            )
        )

    def map(self, tokens: int = 1024) -> list[MapEntry]:
        """The most central files with their outlines, as many as fit `tokens`."""

        return self._reading(lambda: outline.outline(self._queries, tokens))

    def sources(self) -> list[str]:
        """Every indexed file, without those that were left out."""
        return self._reading(self._queries.paths)

    def outline(self, path: str) -> list[Symbol]:
        """A file's definitions in order."""
        return self._reading(lambda: list(self._queries.symbols_in(path)))

    def enclosing(self, path: str, line: int) -> Symbol | None:
        """The innermost function, method or type around a line."""
        around = [
            s
            for s in self.outline(path)
            if s.start_line <= line <= s.end_line and s.kind not in ("field", "variable", "constant")
        ]
        return max(around, key=lambda s: s.start_line, default=None)

    def importers(self, module: str) -> list[str]:
        """The files that import a module or a name: one whose dotted or slashed import has it as a part."""
        return self._reading(lambda: self._queries.importers(module))

    def lines(self, path: str) -> list[str]:
        """A file's lines as they are on disk now; none where it cannot be read."""
        return self._line_reader()(path)

    def read(self, path: str) -> str:
        """A file's text as it is on disk now; raises PathNotFound or NotText."""
        file = self.root / path
        try:
            inside = file.resolve().is_relative_to(self.root.resolve())
            content = file.read_bytes() if inside else None
        except (OSError, ValueError, RuntimeError) as error:
            raise PathNotFound(f"The file {path} cannot be read in {self.root}: check its name.") from error
        if content is None:
            raise PathNotFound(f"{path} lies outside of {self.root}: name a file inside it.")
        text = decode(content)
        if text is None:
            raise NotText(f"{path} is not a text file: name a source file.")
        return text

    def _line_reader(self, overlay: dict[str, str] | None = None) -> Callable[[str], list[str]]:
        """Lines of files, read once each; an overlay's text wins over the disk's."""

        @lru_cache(maxsize=256)
        def lines(path: str) -> list[str]:
            if overlay and path in overlay:
                return overlay[path].split("\n")
            try:
                return self.read(path).replace("\r\n", "\n").split("\n")
            except (PathNotFound, NotText):
                return []

        return lines

    def _writing(self, write: Callable[[Store], None]) -> None:
        """Runs a write in a transaction of its own."""

        def work(store: Store) -> None:
            with store.atomic():
                write(store)

        self._writer.run(work)

    @staticmethod
    def _with_vectors_of(old: Path | None, work: Callable[[Store], T]) -> Callable[[Store], T]:
        """Work that fills an empty database, which then gets the vectors of the one that it replaces."""

        def fill(store: Store) -> T:
            done = work(store)
            if old is not None:
                store.adopt_vectors(old)
            return done

        return fill

    def _reading(self, query: Callable[[], T]) -> T:
        """Runs a query; a damaged database is built anew, and the query run on that."""
        path = self.database
        try:
            return query()
        except Damaged:
            self._writer.mend(path)
            self.sync()
        try:
            return query()
        except Damaged as error:
            raise StoreError(
                f"The index in {self.place.folder} is damaged again and again: run codellama index drop, and "
                "look after the disk."
            ) from error


def open_index(
    path: str | Path,
    cache_dir: Path | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    submodules: bool = True,
) -> Index:
    """The index of the repository around `path`; nothing is read before `sync`.

    One database per repository in the user's cache folder (or `cache_dir`), shared by its worktrees; all
    indexes there together are kept under `max_bytes`. Raises RepositoryNotFound or StoreError.
    """
    root = find_root(Path(path))
    place = place_of(git_common_dir(root) or root, cache_dir or cache_folder())
    place.make()
    return Index(root, place, max_bytes, submodules)
