"""Citations: spans of files, shown only after they were read again from the disk."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from codellama_index import Index
from codellama_index.errors import CodeIndexError

# path:12 or path:12-34, as the model is asked to write them and as people do.
_MARK = re.compile(r"`?([\w./\\@+-]*[\w]\.\w+):(\d+)(?:-(\d+))?`?")


@dataclass(frozen=True, slots=True)
class Citation:
    """Lines `start_line` to `end_line` (1-based, inclusive) of a file, and what stands there."""

    path: str
    start_line: int
    end_line: int
    quote: str
    verified: bool


def cite(index: Index, path: str, start_line: int, end_line: int, expected: str | None = None) -> Citation:
    """Reads the span again. `expected` is what the index said: where it has moved, the citation follows
    it; where it is gone, or the span does not exist, the citation is unverified and quotes nothing."""
    lines = _lines(index, path)
    if expected is not None:
        wanted = expected.split("\n")
        for start in (start_line, *_places(lines, wanted)):
            if lines[start - 1 : start - 1 + len(wanted)] == wanted:
                return Citation(path, start, start + len(wanted) - 1, expected, verified=True)
        return Citation(path, start_line, end_line, "", verified=False)
    if not 1 <= start_line <= end_line <= len(lines):
        return Citation(path, start_line, end_line, "", verified=False)
    return Citation(path, start_line, end_line, "\n".join(lines[start_line - 1 : end_line]), verified=True)


def cited_in(index: Index, text: str, known: Iterable[str] = ()) -> tuple[Citation, ...]:
    """Every `path:start-end` in a model's answer, read again; what does not exist is unverified.

    A path that is short for one of the `known` paths, and of one alone, counts as that path.
    """
    paths = set(known)
    found: dict[tuple[str, int, int], Citation] = {}
    for path, first, last in _MARK.findall(text):
        start = int(first)
        longer = [p for p in paths if p == path or p.endswith(f"/{path}")]
        key = (longer[0] if len(longer) == 1 else path, start, int(last or first))
        if key not in found:
            found[key] = cite(index, *key)
    return tuple(found.values())


def _lines(index: Index, path: str) -> list[str]:
    try:
        return index.read(path).replace("\r\n", "\n").split("\n")
    except CodeIndexError:
        return []


def _places(lines: list[str], wanted: list[str]) -> list[int]:
    return [n for n, line in enumerate(lines, start=1) if line == wanted[0]]
