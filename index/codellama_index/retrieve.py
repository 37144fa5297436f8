"""A question in words to the passages worth reading: several signals, fused, each named in the result.

The signals each order the passages, and their orders are fused by reciprocal rank (Cormack et al., SIGIR
2009), weighted. Weights were chosen on docstrings and commits (`codellama eval retrieval`), never on the
questions that measure `ask`. `search` is the plain counterpart for words rather than questions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from codellama_index.languages import is_code
from codellama_index.packed import LONGEST_NUMBER
from codellama_index.queries import FoundChunk, Queries
from codellama_index.rank import is_secondary
from codellama_index.records import Hit, Symbol
from codellama_index.wording import likelihood, question_words, words_of
from codellama_index.words import identifiers, named, parts, query_terms, stem

# What each signal adds: words of the passage; the passages that mention it (one hop in the graph of
# references); its file as a whole; the names that the question quotes; meaning, where an embedding model
# was named; and of the best by all of these, how likely the question is as what is said of them.
SIGNALS: Mapping[str, float] = {
    "text": 1.5,
    "mention": 0.4,
    "file": 0.6,
    "defines": 1.0,
    "meaning": 1.5,
    "wording": 3.0,
}
_FUSION = 20.0  # the k of reciprocal rank fusion: how little the very first places stand out
_SECONDARY_WEIGHT = 0.2
_FULL = frozenset({"function", "method", "macro"})
_CLASS_WEIGHT = 0.7
_WINDOW_WEIGHT = 0.4  # text outside of definitions
_CHUNKS = 400  # candidates by text; enough to sum a file's best passages
_MENTIONING = 50  # passages whose names are followed
_MENTIONED = 40  # definitions that are followed
_MAX_DEFINERS = 6  # a name with more definitions leads nowhere
_DEFINITIONS = 10 * _MAX_DEFINERS  # the same with tests and other branches
_PER_FILE = 3
_FIRST = 1e-9  # what puts one before another of the same score
_CHUNK_LINES = 60
_WORDED = 60  # candidates whose likelihood is asked for
_LONGEST_BODY = 20_000  # characters; sixty lines of code have a tenth, data may have anything
_COMMON = 1000  # passages with a word that is worth looking for beside others

Place = tuple[str, int, int]
ReadLines = Callable[[str], list[str]]
Scores = dict[Place, float]


@dataclass(slots=True)
class _Found:
    """The candidates of one question."""

    queries: Queries
    read_lines: ReadLines
    terms: list[str]

    def weight(self, path: str) -> float:
        """A fifth for tests, vendored and generated files."""
        return _SECONDARY_WEIGHT if is_secondary(path) else 1.0


def retrieve(
    queries: Queries,
    read_lines: ReadLines,
    question: str,
    limit: int,
    signals: Mapping[str, float] = SIGNALS,
    meaning: Sequence[tuple[Place, float]] = (),
) -> list[Hit]:
    """Passages for a question in words; each hit's text is read from the disk.

    `signals` weighs the signals (0 or absence switches one off); `meaning` are places with the similarity
    that an embedding model finds, best first.
    """
    terms = query_terms(question)
    if not terms:
        return []
    found = _Found(queries, read_lines, terms)
    any_of = _any_of(terms)
    chunks = queries.search(any_of, _CHUNKS)
    text = {_place(chunk): -chunk.bm25 * _prior(found, chunk) for chunk in chunks}
    orders: dict[str, Scores] = {"text": text}
    if signals.get("mention"):
        orders["mention"] = _mentioned(found, chunks)
    if signals.get("file"):
        orders["file"] = _by_file(text)
    if signals.get("defines"):
        orders["defines"] = _defined(found, question)
    if meaning and signals.get("meaning"):
        orders["meaning"] = {place: score * found.weight(place[0]) for place, score in meaning}
    scores: Scores = defaultdict(float)
    reasons: dict[Place, list[str]] = defaultdict(list)
    for why, order in orders.items():
        _add(why, order, signals.get(why, 0.0), scores, reasons)
    if signals.get("wording"):
        _add("wording", _worded(found, question, scores), signals["wording"], scores, reasons)
    _raise_enclosing(queries, scores)
    ranked = sorted(scores, key=lambda place: (-scores[place], place))
    best = _apart(ranked, limit, max(_PER_FILE, limit // 2))
    hits = [_hit(queries, read_lines, place, scores[place], reasons[place]) for place in best]
    stems = {stem(term) for term in terms}
    return [hit for hit in hits if _stands(hit, stems)]


def search(queries: Queries, read_lines: ReadLines, text: str, limit: int) -> list[Hit]:
    """Passages that hold all of the words, then those that hold some, by BM25."""
    terms = list(dict.fromkeys(word for identifier in identifiers(text) for word in _indexed(identifier)))
    if not terms:
        return []
    quoted = [f'"{term}"' for term in terms]
    chunks = queries.search(" AND ".join(quoted), limit)
    if len(chunks) < limit and len(quoted) > 1:
        known = {_place(chunk) for chunk in chunks}
        some = _any_of(_telling(queries, terms))
        chunks += [c for c in queries.search(some, limit) if _place(c) not in known]
    return [_hit(queries, read_lines, _place(c), -c.bm25, ["text"]) for c in chunks[:limit]]


def _indexed(identifier: str) -> list[str]:
    """The words under which a passage with this identifier is found: long numbers only in the whole."""
    split = parts(identifier) or [identifier]
    kept = [part for part in split if not part.isdigit() or len(part) <= LONGEST_NUMBER]
    whole = [identifier.lower().strip("_")] if "_" not in identifier.strip("_") and len(split) > 1 else []
    return kept if len(kept) == len(split) else kept + whole


def by_name(queries: Queries, query: str, limit: int | None) -> list[Symbol]:
    """Definitions by a name or a part of one: the exact name first, then by case, beginning, part."""
    scope, _, last = query.replace("::", ".").rpartition(".")
    last = last or query
    pattern = last.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = queries.symbols_like(pattern, -1)
    if limit is None or len(found) < limit:
        found += queries.symbols_like(f"%{pattern}%", 2000)
    wanted = set(parts(last))

    def order(symbol: Symbol) -> tuple[bool, bool, bool, bool, bool, str, int]:
        name, low = symbol.name, symbol.name.lower()
        return (
            name != last,
            bool(scope) and not symbol.scope.endswith(scope),
            low != last.lower(),
            not low.startswith(last.lower()),
            not wanted <= set(parts(name)),
            symbol.path,
            symbol.line,
        )

    return sorted(dict.fromkeys(found), key=order)[:limit]


def _telling(queries: Queries, terms: Sequence[str]) -> list[str]:
    """The rarer words: what holds only common ones comes last anyway, and weighing all of it takes long."""
    counts = {term: queries.holding(term) for term in terms}
    enough = max(_COMMON, min((count for count in counts.values() if count), default=0))
    return [term for term in terms if counts[term] <= enough]


def _add(why: str, order: Scores, weight: float, scores: Scores, reasons: dict[Place, list[str]]) -> None:
    """Adds one signal's order to the others' scores, by reciprocal rank."""
    places = sorted((place for place in order if order[place] > 0), key=lambda p: (-order[p], p))
    rank, last = -1, 0.0
    for place in places:
        if order[place] != last:  # what is equal shares its rank, as the passages of one file do
            rank, last = rank + 1, order[place]
        scores[place] += weight / (_FUSION + rank)
        reasons[place].append(why)


def _prior(found: _Found, chunk: FoundChunk) -> float:
    """Questions are about code first: text outside of definitions and tests come after it."""
    kind = _SECONDARY_WEIGHT if chunk.name.startswith("test_") else 1.0 if chunk.name else _WINDOW_WEIGHT
    return min(found.weight(chunk.path), kind)


def _mentioned(found: _Found, chunks: Sequence[FoundChunk]) -> Scores:
    """Definitions that the passages found by their words mention, tests and documents among them.

    A passage's vote is shared by the definitions that it mentions, and a definition that everyone
    mentions gets less from each (both by the square root, as in a normalised graph).
    """
    votes: dict[str, float] = defaultdict(float)
    mentioned: dict[Place, set[str]] = {}
    top = chunks[:_MENTIONING]
    for chunk in top:
        lines = found.read_lines(chunk.path)[chunk.start_line - 1 : chunk.end_line]
        names = {name for line in lines for name in identifiers(line) if len(name) > 3}
        mentioned[_place(chunk)] = names - {chunk.name}
    everything = set().union(*mentioned.values()) if mentioned else set()
    definers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, path, place in found.queries.definers(everything, _DEFINITIONS):
        if not name.startswith("__") and found.weight(path) == 1.0:
            definers[name].append((path, place))
    known = {name for name, places in definers.items() if len(places) <= _MAX_DEFINERS}
    best = -top[0].bm25 if top else 1.0
    times: dict[str, int] = defaultdict(int)
    for chunk in top:
        names = mentioned[_place(chunk)] & known
        for name in names:
            votes[name] += -chunk.bm25 / best / len(names) ** 0.5
            times[name] += 1
    for name in votes:
        votes[name] /= times[name] ** 0.5 * len(definers[name])
    scores: Scores = {}
    for name in sorted(votes, key=lambda n: (-votes[n], n))[:_MENTIONED]:
        for path, number in definers[name]:
            symbol = _symbol_at(found.queries, path, number)
            if symbol is not None and symbol.kind not in ("field", "variable", "constant", "module"):
                weight = 1.0 if symbol.kind in _FULL else _CLASS_WEIGHT
                scores[_place_of(symbol)] = votes[name] * weight
    return scores


def _symbol_at(queries: Queries, path: str, place: int) -> Symbol | None:
    outline = queries.symbols_in(path)
    return outline[place] if place < len(outline) else None


def _by_file(text: Mapping[Place, float]) -> Scores:
    """Each file's best passages together, halved from one to the next; all its candidates share that."""
    best: dict[str, list[float]] = defaultdict(list)
    for place, score in text.items():
        best[place[0]].append(score)
    total = {
        path: sum(score / 2**n for n, score in enumerate(sorted(scores, reverse=True)[:_PER_FILE]))
        for path, scores in best.items()
    }
    return {place: total[place[0]] for place in text}


def _worded(found: _Found, question: str, scores: Scores) -> Scores:
    """How likely the question is, as what is said of each of the best candidates."""
    asked = question_words(question)
    outline, path_words = cache(found.queries.symbols_in), cache(words_of)
    likely: Scores = {}
    for place in sorted(scores, key=lambda place: (-scores[place], place))[:_WORDED]:
        path, start, end = place
        symbol = outline(path).of_passage(start, end)
        name = symbol.name if symbol is not None and symbol.start_line == start else ""
        scope = symbol.scope if symbol is not None else ""
        body = "\n".join(found.read_lines(path)[start - 1 : end])[:_LONGEST_BODY]
        fields = (words_of(name), words_of(scope), path_words(path.rpartition(".")[0]), words_of(body))
        prior = found.weight(path) * (1.0 if is_code(path) else _WINDOW_WEIGHT)
        times = likelihood(asked, fields)
        if times > 1:
            likely[place] = times * prior
    return likely


def _raise_enclosing(queries: Queries, scores: Scores) -> None:
    """A function gets at least the score of a better one inside it, which it then stands for."""
    open_at: list[Place] = []
    for place in sorted(scores, key=lambda place: (place[0], place[1], -place[2])):
        open_at = [around for around in open_at if around[0] == place[0] and place[2] <= around[2]]
        for around in open_at:
            if scores[place] >= scores[around] and _is_function(queries, around):
                scores[around] = scores[place] + _FIRST
                break
        open_at.append(place)


def _is_function(queries: Queries, place: Place) -> bool:
    symbol = queries.symbols_in(place[0]).of_passage(*place[1:])
    return symbol is not None and symbol.kind in _FULL and symbol.start_line == place[1]


def _defined(found: _Found, question: str) -> Scores:
    """Definitions of the identifiers that the question names, code before tests."""
    names = named(question)
    symbols = [s for s in found.queries.symbols_named(names) if s.kind != "field"] if names else []
    symbols.sort(key=lambda s: (names.index(s.name), -found.weight(s.path)))
    return {_place_of(s): found.weight(s.path) / (1 + n) for n, s in enumerate(symbols[:_MENTIONED])}


def _stands(hit: Hit, stems: set[str]) -> bool:
    """Whether the lines still hold what they were found for; they may have changed since they were read."""
    if hit.symbol is not None and hit.symbol.start_line == hit.start_line:
        return hit.symbol.name in hit.text
    words = {stem(part) for identifier in identifiers(hit.text) for part in parts(identifier)}
    return not words.isdisjoint(stems) or "meaning" in hit.why


def _any_of(terms: Iterable[str]) -> str:
    return " OR ".join(f'"{term}"' for term in terms)


def _apart(places: list[Place], limit: int, per_file: int) -> list[Place]:
    """The first `limit` places that do not overlap, at most `per_file` of one file."""
    kept: dict[str, list[Place]] = defaultdict(list)
    best: list[Place] = []
    for path, start, end in places:
        same = kept[path]
        if len(same) < per_file and not any(k[1] <= end and start <= k[2] for k in same):
            same.append((path, start, end))
            best.append((path, start, end))
        if len(best) == limit:
            break
    return best


def _place(chunk: FoundChunk) -> Place:
    return chunk.path, chunk.start_line, chunk.end_line


def _place_of(symbol: Symbol) -> Place:
    return symbol.path, symbol.start_line, min(symbol.end_line, symbol.start_line + _CHUNK_LINES - 1)


def _hit(queries: Queries, read_lines: ReadLines, place: Place, score: float, why: list[str]) -> Hit:
    path, start, end = place
    symbol = queries.symbols_in(path).of_passage(start, end)
    text = "\n".join(read_lines(path)[start - 1 : end])
    return Hit(path, start, end, round(float(score), 5), ", ".join(why), symbol, text)
