"""A cursor to the passages of other files worth having beside it.

First the definitions of names that stand near the cursor, above all those that this file imports; then
windows that share many words with what stands there, out of the open buffers, the folder, files with
similar imports and files that were just edited. What an editor has open lies over the index, unsaved text
included. The result is sorted by path and line, so that it stays the same while the cursor moves.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from codellama_index.queries import Queries
from codellama_index.rank import is_secondary
from codellama_index.records import OpenDocument, Snippet, Symbol
from codellama_index.words import STOP_WORDS, identifiers

_LINES_BEFORE = 30
_LINES_AFTER = 10
_HEAD_LINES = 60  # where imports stand
_NAMES = 60
_MAX_DEFINERS = 4  # of a name that is not imported; more say nothing
_WINDOW = 24
_MIN_SIMILARITY = 0.12
_NEIGHBOURS = 10
_OPEN = 12
_LONGEST = 3_000  # lines of a file that is still looked through
_RECENT_S = 3600
_IMPORTING = re.compile(r"^\s*(from|import|use|#include|require|using|package)\b|\b(import|require)\b")

ReadLines = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class _Cursor:
    """What stands around the cursor: how often which names do, those of its line, those imported."""

    path: str
    counts: Mapping[str, int]
    here: frozenset[str]
    imported: frozenset[str]


def nearby(
    queries: Queries,
    read_lines: ReadLines,
    path: str,
    text: str,
    offset: int,
    open_documents: Sequence[OpenDocument],
    budget_bytes: int,
    deadline: float,
) -> list[Snippet]:
    """Snippets for byte `offset` of `text` within a budget of bytes.

    What is not whole by `deadline` (of time.monotonic) is left out: the windows first, then everything.
    """
    cursor = _cursor(queries, path, text, offset)
    buffers = {d.path: d.text for d in open_documents[:_OPEN] if d.path != path}
    found = _definitions(queries, read_lines, cursor, buffers)
    if time.monotonic() > deadline:
        return []
    similar = _windows(queries, read_lines, cursor, buffers, deadline)
    return _within([*found, *similar], budget_bytes)


def _cursor(queries: Queries, path: str, text: str, offset: int) -> _Cursor:
    raw = text.encode("utf-8", "replace")
    before = raw[max(0, offset - 8192) : offset].decode("utf-8", "ignore").splitlines()[-_LINES_BEFORE:]
    after = raw[offset : offset + 2048].decode("utf-8", "ignore").splitlines()[1 : _LINES_AFTER + 1]
    counts = Counter(i for line in [*before, *after] for i in identifiers(line) if len(i) > 2)
    head = raw[:8192].decode("utf-8", "ignore").splitlines()[:_HEAD_LINES]
    imported = {i for line in head if _IMPORTING.search(line) for i in identifiers(line)}
    here = frozenset(identifiers(before[-1])) if before else frozenset()
    return _Cursor(path, counts, here, frozenset(imported | set(queries.imports(path))))


def _definitions(
    queries: Queries, read_lines: ReadLines, cursor: _Cursor, buffers: Mapping[str, str]
) -> list[Snippet]:
    told = [name for name in cursor.counts if name.lower() not in STOP_WORDS]
    told.sort(key=lambda n: (n not in cursor.here, n not in cursor.imported, -cursor.counts[n], n))
    names = told[:_NAMES]
    by_name: dict[str, list[Symbol]] = defaultdict(list)
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, path, place in queries.definers(names):
        if path != cursor.path and path not in buffers:
            places[name].append((path, place))
    for document, text in buffers.items():
        for symbol in _symbols_of(document, text):
            if symbol.name in cursor.counts:
                by_name[symbol.name].append(symbol)
    for name, found in places.items():
        known = name in cursor.imported
        if known or len(found) + len(by_name[name]) <= _MAX_DEFINERS:
            near = sorted(found, key=lambda place: _farness(cursor, place[0]))[:_MAX_DEFINERS]
            outlines = ((queries.symbols_in(path), number) for path, number in near)
            by_name[name] += [outline[number] for outline, number in outlines if number < len(outline)]
    snippets: list[Snippet] = []
    for name, symbols in by_name.items():
        snippets += _defining(read_lines, cursor, name, symbols)
    return snippets


def _defining(read_lines: ReadLines, cursor: _Cursor, name: str, symbols: Sequence[Symbol]) -> list[Snippet]:
    known = name in cursor.imported
    score = 1.0 + 2.0 * known + 1.0 * (name in cursor.here) + 0.1 * min(cursor.counts[name], 5)
    near = [s for s in symbols if s.kind not in ("field", "variable")]
    near.sort(key=lambda symbol: _farness(cursor, symbol.path))
    found: list[Snippet] = []
    for n, symbol in enumerate(near[: 2 if known else 1]):
        end = min(symbol.end_line, symbol.start_line + (18 if known else 10))
        body = "\n".join(read_lines(symbol.path)[symbol.start_line - 1 : end])
        why = f"defines {name}" + (", imported here" if known else "")
        weight = (0.5 if is_secondary(symbol.path) else 1.0) / (1 + n)
        found.append(Snippet(symbol.path, symbol.start_line, end, body, score * weight, why))
    return found


def _farness(cursor: _Cursor, path: str) -> tuple[bool, bool, int, str]:
    """Code before tests, modules that the imports name, then the nearest folder."""
    there, here = PurePosixPath(path), PurePosixPath(cursor.path)
    same = sum(a == b for a, b in zip(there.parts, here.parts, strict=False))
    return (is_secondary(path), not {there.stem, there.parent.name} & cursor.imported, -same, path)


@lru_cache(maxsize=32)
def _symbols_of(path: str, text: str) -> tuple[Symbol, ...]:
    """The definitions in an open buffer; parsed once for each of its states."""
    from codellama_index.extract import extract

    return extract(path, text).symbols if len(text) < 400_000 else ()


def _windows(
    queries: Queries, read_lines: ReadLines, cursor: _Cursor, buffers: Mapping[str, str], deadline: float
) -> list[Snippet]:
    words = frozenset(cursor.counts)
    found: list[Snippet] = []
    for path, why in {**dict.fromkeys(buffers, "open"), **_neighbours(queries, cursor, buffers)}.items():
        best = _most_similar(tuple(read_lines(path)), words)
        if best is not None:
            start, similarity = best
            lines = read_lines(path)
            end = min(start + _WINDOW, len(lines))
            body = "\n".join(lines[start:end])
            found.append(Snippet(path, start + 1, end, body, similarity, f"similar lines, {why}"))
        if time.monotonic() > deadline:
            return []
    return found


def _neighbours(queries: Queries, cursor: _Cursor, buffers: Mapping[str, str]) -> dict[str, str]:
    """Files that may hold similar lines, each with the reason: just edited, like imports, same folder."""
    here, _, _ = cursor.path.rpartition("/")
    recent: dict[str, str] = {}
    alike: list[tuple[float, str]] = []
    folder: list[tuple[float, str]] = []
    now = time.time()
    for path, imports, mtime_ns, rank in queries.neighbours(PurePosixPath(cursor.path).suffix):
        if path == cursor.path or path in buffers:
            continue
        if 0 <= now - mtime_ns / 1e9 < _RECENT_S:
            recent[path] = "just edited"
        theirs = imports.split("\n")
        shared = len(cursor.imported.intersection(theirs))
        if shared > 1:
            alike.append((-shared / (len(theirs) + len(cursor.imported) - shared), path))
        if path.rpartition("/")[0] == here:
            folder.append((-rank, path))
    if len(recent) > _NEIGHBOURS:  # a fresh checkout, not an edit
        recent.clear()
    chosen = dict.fromkeys((path for _, path in sorted(folder)[: _NEIGHBOURS // 2]), "same folder")
    chosen |= dict.fromkeys((path for _, path in sorted(alike)[: _NEIGHBOURS // 2]), "similar imports")
    return chosen | recent


@lru_cache(maxsize=256)
def _most_similar(lines: tuple[str, ...], words: frozenset[str]) -> tuple[int, float] | None:
    """First line (0-based) and Jaccard similarity of the window that shares the most words, if any does."""
    if len(lines) > _LONGEST:
        return None
    best: tuple[float, int] = (_MIN_SIMILARITY, -1)
    named = [{i for i in identifiers(line) if len(i) > 2} for line in lines]
    for start in range(0, max(1, len(lines) - _WINDOW // 2), _WINDOW // 2):
        there = set().union(*named[start : start + _WINDOW])
        score = len(words & there) / max(1, len(words | there))
        best = max(best, (score, start))
    score, start = best
    return (start, score) if start >= 0 else None


def _within(snippets: list[Snippet], budget: int) -> list[Snippet]:
    kept: list[Snippet] = []
    for snippet in sorted(snippets, key=lambda s: (-s.score, s.path, s.start_line)):
        size = len(snippet.text.encode("utf-8", "replace"))
        overlaps = any(
            k.path == snippet.path and k.start_line <= snippet.end_line and snippet.start_line <= k.end_line
            for k in kept
        )
        if snippet.text and size <= budget and not overlaps:
            kept.append(snippet)
            budget -= size
    return sorted(kept, key=lambda s: (s.path, s.start_line))
