"""What the index knows, as frozen records.

Lines are 1-based and inclusive. Offsets and spans are bytes of the file's text re-encoded as UTF-8
(so a UTF-16 file's spans do not depend on how it lies on disk). Paths are relative to the repository's
root, with forward slashes.
"""

from dataclasses import dataclass
from typing import Literal

SymbolKind = Literal[
    "function",
    "method",
    "class",
    "interface",
    "enum",
    "type",
    "constant",
    "variable",
    "field",
    "module",
    "macro",
]


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """One definition: `line` is the line of its name, `start_line` to `end_line` the whole of it, with the
    documentation and the decorators in front; `span` likewise.

    `scope` is the dotted path of what encloses it ("" at the top), `signature` its head on one line,
    `docstring` its documentation without quotes or comment marks ("" where there is none).
    """

    path: str
    name: str
    kind: SymbolKind
    line: int
    start_line: int
    end_line: int
    span: Span
    scope: str
    signature: str
    docstring: str


@dataclass(frozen=True, slots=True)
class Reference:
    """One use of a name (not its definition); `text` is the line it stands in, stripped."""

    path: str
    name: str
    line: int
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found for a query; `why` names the signals that found it, for people to read."""

    path: str
    start_line: int
    end_line: int
    score: float
    why: str
    symbol: Symbol | None
    text: str


@dataclass(frozen=True, slots=True)
class Snippet:
    """A passage of another file worth having beside the cursor; a higher score is kept longer."""

    path: str
    start_line: int
    end_line: int
    text: str
    score: float
    why: str


@dataclass(frozen=True, slots=True)
class OpenDocument:
    """An editor's unsaved buffer, laid over the index."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync found and did: `files` seen, `indexed` parsed anew, source `bytes` in the index.

    `complete` is false until the tree was gone through once: answers may lack what was not read yet.
    `current` is true where this sync looked through the whole tree and read all that had changed.
    """

    files: int
    indexed: int
    skipped: tuple[SkippedFile, ...]
    symbols: int
    seconds: float
    bytes: int
    complete: bool
    current: bool = False


@dataclass(frozen=True, slots=True)
class RankedFile:
    """A file that a question is about; a higher `score` is better."""

    path: str
    score: float


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit by its hash: its message's words, and the files that it changed, unless they were many."""

    digest: bytes
    words: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuestionVector:
    """A question as an embedding model sees it: a vector of length 1, and the name vectors are kept by."""

    model: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """How far the passages' vectors are: `files` done of `all_files` that had none, with so many passages."""

    files: int
    all_files: int
    passages: int


@dataclass(frozen=True, slots=True)
class MapEntry:
    """One file of the repository map, most central first, with its outline."""

    path: str
    rank: float
    symbols: tuple[Symbol, ...]
