"""A question, or a cursor, to the passages worth reading: ranked, with the reason for each.

For questions several signals each order the candidates, and their orders are fused by reciprocal rank
(Cormack et al., SIGIR 2009). For completions the names near the cursor lead to their definitions.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from codellama_index.queries import FoundChunk, Queries
from codellama_index.rank import is_secondary
from codellama_index.records import Hit, OpenDocument, Snippet, Symbol
from codellama_index.words import STOP_WORDS, identifiers, parts, query_terms

_FUSION = 20.0  # the k of reciprocal rank fusion: how little the very first places stand out
_SECONDARY_WEIGHT = 0.35
_WINDOW = 24  # lines of a similar passage
_NEAR_LINES = 30  # lines before the cursor whose names are looked up
_MAX_DEFINERS = 4

Place = tuple[str, int, int]
ReadLines = Callable[[str], list[str]]


def retrieve(queries: Queries, read_lines: ReadLines, question: str, limit: int) -> list[Hit]:
    """Passages for a question in words; each hit's text is read from the disk."""
    terms = query_terms(question)
    if not terms:
        return []
    any_of = " OR ".join(f'"{term}"' for term in terms)
    text = queries.search(any_of, 12 * limit)
    names = queries.search(f"name : ({any_of})", 6 * limit)
    exact = [s for s in queries.symbols_named(_named(question)) if s.kind != "field"]
    ranks = queries.ranks()
    orders: dict[str, list[Place]] = {
        "text": [_place(chunk) for chunk in text],
        "name": [_place(chunk) for chunk in _by_name([*names, *text], terms)],
        "defines": [(s.path, s.start_line, min(s.end_line, s.start_line + 59)) for s in exact],
        "path": _by_path([*text, *names], terms),
    }
    scores: dict[Place, float] = {}
    reasons: dict[Place, list[str]] = {}
    for why, order in orders.items():
        weight = 3.0 if why == "defines" else 1.0
        for n, place in enumerate(dict.fromkeys(order)):
            scores[place] = scores.get(place, 0.0) + weight / (_FUSION + n)
            reasons.setdefault(place, []).append(why)
    for place in scores:
        central = min(ranks.get(place[0], 0.2), 5.0)
        scores[place] *= 1 + 0.05 * central
        if is_secondary(place[0]):
            scores[place] *= _SECONDARY_WEIGHT
    best = _apart(sorted(scores, key=lambda place: (-scores[place], place)), limit)
    return [_hit(queries, read_lines, place, scores[place], reasons[place]) for place in best]


def search(queries: Queries, read_lines: ReadLines, text: str, limit: int) -> list[Hit]:
    """Passages that hold all of the words, then those that hold some, by BM25."""
    terms = list(dict.fromkeys(w for i in identifiers(text) for w in parts(i) or [i]))
    if not terms:
        return []
    quoted = [f'"{term}"' for term in terms]
    chunks = queries.search(" AND ".join(quoted), limit)
    if len(chunks) < limit:
        known = {_place(chunk) for chunk in chunks}
        chunks += [c for c in queries.search(" OR ".join(quoted), limit) if _place(c) not in known]
    return [_hit(queries, read_lines, _place(c), -c.bm25, ["text"]) for c in chunks[:limit]]


def context(
    queries: Queries,
    read_lines: ReadLines,
    path: str,
    text: str,
    offset: int,
    open_documents: Sequence[OpenDocument],
    budget_bytes: int,
    deadline: float,
) -> list[Snippet]:
    """What of other files helps at byte `offset` of `text`, within a budget; stops at `deadline`.

    Definitions of names near the cursor first, then passages that share many words with what stands
    there. The order is by path and line, so that it stays the same while the cursor moves.
    """
    before = text.encode("utf-8", "replace")[:offset].decode("utf-8", "ignore")
    near = before.splitlines()[-_NEAR_LINES:]
    found = _definitions(queries, read_lines, path, before, near, deadline)
    taken = {snippet.path for snippet in found}
    others = [d for d in open_documents if d.path != path and d.path not in taken]
    words = {i for line in near for i in identifiers(line) if len(i) > 2}
    for document in others[:20]:
        if time.monotonic() > deadline:
            break
        similar = _similar(document.path, document.text.splitlines(), words)
        if similar is not None:
            found.append(similar)
    for neighbour in _neighbours(queries, path, taken | {d.path for d in others}):
        if time.monotonic() > deadline:
            break
        similar = _similar(neighbour, read_lines(neighbour), words)
        if similar is not None:
            found.append(similar)
    return _within(found, budget_bytes)


def _definitions(
    queries: Queries, read_lines: ReadLines, path: str, before: str, near: list[str], deadline: float
) -> list[Snippet]:
    counts = Counter(i for line in near for i in identifiers(line) if len(i) > 2)
    last = set(identifiers(near[-1])) if near else set()
    imported = set(queries.imports(path)) or set(identifiers("\n".join(before.splitlines()[:40])))
    names = [name for name, _ in counts.most_common(60) if name.lower() not in STOP_WORDS]
    by_name: dict[str, list[Symbol]] = {}
    for symbol in queries.symbols_named(names) if names else []:
        if symbol.path != path and symbol.kind not in ("field", "variable"):
            by_name.setdefault(symbol.name, []).append(symbol)
    found: list[Snippet] = []
    for name, symbols in by_name.items():
        if len(symbols) > _MAX_DEFINERS or time.monotonic() > deadline:
            continue
        known = name in imported
        score = 1.0 + 2.0 * known + 1.0 * (name in last) + 0.1 * min(counts[name], 5)
        for symbol in symbols[: 2 if known else 1]:
            lines = read_lines(symbol.path)
            end = min(symbol.end_line, symbol.start_line + (18 if known else 10))
            body = "\n".join(lines[symbol.start_line - 1 : end])
            why = f"defines {name}" + (", imported here" if known else "")
            found.append(Snippet(symbol.path, symbol.start_line, end, body, score, why))
    return found


def _similar(path: str, lines: list[str], words: set[str]) -> Snippet | None:
    """The window of a file that shares the most words with those near the cursor (Jaccard)."""
    best: tuple[float, int] = (0.12, -1)
    for start in range(0, max(1, len(lines) - _WINDOW // 2), _WINDOW // 2):
        there = {i for line in lines[start : start + _WINDOW] for i in identifiers(line) if len(i) > 2}
        both = len(words & there)
        best = max(best, (both / max(1, len(words | there)), start))
    score, start = best
    if start < 0:
        return None
    end = min(start + _WINDOW, len(lines))
    return Snippet(path, start + 1, end, "\n".join(lines[start:end]), score, "similar to the lines here")


def _neighbours(queries: Queries, path: str, without: set[str]) -> list[str]:
    """Files of the same folder and language, the most central first."""
    here = PurePosixPath(path)
    ranked = sorted(queries.ranks().items(), key=lambda item: (-item[1], item[0]))
    inside = [PurePosixPath(name) for name, _ in ranked if name != path and name not in without]
    return [str(p) for p in inside if p.parent == here.parent and p.suffix == here.suffix][:12]


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


def _named(question: str) -> list[str]:
    """Identifiers that stand in the question as such: quoted, with an underscore, or with capitals inside."""
    quoted = [i for n, part in enumerate(question.split("`")) if n % 2 for i in identifiers(part)]
    marked = [
        i for i in identifiers(question) if "_" in i.strip("_") or (len(parts(i)) > 1 and not i.isdigit())
    ]
    return list(dict.fromkeys([*quoted, *marked]))


def _by_name(chunks: list[FoundChunk], terms: list[str]) -> list[FoundChunk]:
    """Definitions whose names share words with the question, those that share most first."""
    wanted = {_stem(term) for term in terms}

    def shared(chunk: FoundChunk) -> int:
        return len(wanted & {_stem(part) for part in parts(chunk.name)})

    return sorted((c for c in chunks if shared(c)), key=lambda c: (-shared(c), c.bm25))


def _stem(word: str) -> str:
    """A crude stem, enough to let `ignored` meet `ignore`."""
    return word[:5]


def _by_path(chunks: list[FoundChunk], terms: list[str]) -> list[Place]:
    wanted = {_stem(term) for term in terms}

    def shared(chunk: FoundChunk) -> int:
        return len(wanted & {_stem(word) for i in identifiers(chunk.path) for word in parts(i)})

    return [_place(c) for c in sorted(chunks, key=lambda c: (-shared(c), c.bm25)) if shared(c)]


def _apart(places: list[Place], limit: int) -> list[Place]:
    """The first `limit` places that do not overlap, at most three of one file."""
    kept: list[Place] = []
    for path, start, end in places:
        same = [k for k in kept if k[0] == path]
        if len(same) < 3 and not any(k[1] <= end and start <= k[2] for k in same):
            kept.append((path, start, end))
        if len(kept) == limit:
            break
    return kept


def _place(chunk: FoundChunk) -> Place:
    return chunk.path, chunk.start_line, chunk.end_line


def _hit(queries: Queries, read_lines: ReadLines, place: Place, score: float, why: list[str]) -> Hit:
    path, start, end = place
    inside = [s for s in queries.symbols_in(path) if s.start_line == start and s.kind not in ("field",)]
    around = [s for s in queries.symbols_in(path) if s.start_line <= start and end <= s.end_line]
    symbol = inside[0] if inside else (around[-1] if around else None)
    text = "\n".join(read_lines(path)[start - 1 : end])
    return Hit(path, start, end, round(float(score), 5), ", ".join(why), symbol, text)
