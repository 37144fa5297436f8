"""A question in words to the files it is about: for commit messages, and for what a model is given whole.

A file is scored as one document: BM25 (Robertson and Zaragoza, 2009) over its words as the full-text table
of passages knows them, over the words of its path, what its folder scores, and what earlier commits with
like messages changed. For passages see `retrieve`.

The table gives a passage's score for a word, not how often it holds it. With f uses of a word in a passage
of length l, SQLite's score is idf * 2.2 * f / (f + D), D = 1.2 * (0.25 + 0.75 * l / mean l); very heavy
columns give idf * 2.2 alone. From the two follows f, with the mean of the file's passages for l.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from codellama_index.languages import is_code
from codellama_index.queries import Queries
from codellama_index.rank import is_secondary
from codellama_index.records import RankedFile
from codellama_index.words import identifiers, named, parts, query_terms, stem

# What each signal adds: the words of the file; those of its path; the words of the question's first line
# once more, which of a commit's message is its subject; how much of the file's name is said; the
# definitions that the question names; the mean of its folder's best files; what was changed by the commits
# whose messages are most like it. Chosen on the commits of nova, cinder, sphinx and astropy, reported on
# others (docs/ask.md).
FILE_SIGNALS: Mapping[str, float] = {
    "words": 1.0,
    "path": 1.0,
    "title": 1.0,
    "named": 0.1,
    "defines": 0.1,
    "folder": 0.2,
    "history": 0.4,
}
_K1, _B = 2.0, 0.75
_SURE = 0.97  # a passage's score nearer to its bound than this says nothing more of how often
_SECONDARY_WEIGHT = 0.2
_DATA_WEIGHT = 0.8  # configuration, documents, translations
_FOLDER_FILES = 3
_ALIKE = 50  # commits
_MAX_DEFINERS = 20  # definitions of a name that still tells something

Span = tuple[int, int, str, int]  # number of the first passage, passages, path, bytes


def retrieve_files(
    queries: Queries, question: str, limit: int, signals: Mapping[str, float] = FILE_SIGNALS
) -> list[RankedFile]:
    """Files for a question in words, best first; code before data, and both before tests.

    `signals` weighs the signals (0 or absence switches one off).
    """
    spans = queries.spans()
    sizes = {path: size for _, _, path, size in spans}
    weights = _weights(question, signals.get("title", 0.0))
    if not sizes or not weights:
        return []
    scores: dict[str, float] = defaultdict(float)
    if signals.get("words"):
        _add_words(scores, queries, weights, spans, signals["words"])
    if signals.get("path"):
        _add_paths(scores, weights, sizes, signals["path"])
    for path in scores:
        scores[path] *= _prior(path)
    if signals.get("named"):
        _add_share(scores, _named(weights, sizes), signals["named"])
    if signals.get("defines"):
        _add_share(scores, _defining(queries, question, sizes.keys()), signals["defines"])
    if signals.get("folder"):
        _add_folders(scores, signals["folder"])
    if signals.get("history"):
        _add_share(scores, _changed(queries, question, sizes.keys()), signals["history"])
    ranked = sorted(scores, key=lambda path: (-scores[path], path))[:limit]
    return [RankedFile(path, round(scores[path], 4)) for path in ranked]


def _weights(question: str, title: float) -> dict[str, float]:
    """The question's words; those of its first line weigh more, where it has several lines."""
    first, _, rest = question.strip().partition("\n")
    subject = set(query_terms(first)) if rest.strip() else set()
    return {term: 1 + title * (term in subject) for term in query_terms(question)}


def _add_words(
    scores: dict[str, float],
    queries: Queries,
    weights: Mapping[str, float],
    spans: Sequence[Span],
    weight: float,
) -> None:
    sizes = {path: size for _, _, path, size in spans}
    mean_size = sum(sizes.values()) / len(spans) or 1.0
    mean_passage = sum(sizes.values()) / sum(chunks for _, chunks, _, _ in spans) or 1.0
    files: dict[int, list[Span]] = defaultdict(list)  # equal contents are stored once
    for span in spans:
        files[span[0]].append(span)
    firsts = sorted(files)
    primary = sum(1 for path in sizes if not is_secondary(path))
    for term, times in weights.items():
        counts: dict[str, float] = defaultdict(float)
        for number, share in queries.shares(term):
            near = min(share, _SURE)
            place = bisect_right(firsts, number) - 1
            for first, chunks, path, size in files[firsts[place]] if place >= 0 else ():
                if number < first + chunks:
                    length = size / chunks / mean_passage
                    counts[path] += 1.2 * (0.25 + 0.75 * length) * near / (1 - near)
        rarity = times * weight * _rarity(primary, counts)
        for path, count in counts.items():
            length = 1 - _B + _B * sizes[path] / mean_size
            scores[path] += rarity * count * (_K1 + 1) / (count + _K1 * length)


def _add_paths(
    scores: dict[str, float], weights: Mapping[str, float], paths: Iterable[str], weight: float
) -> None:
    low = [(path, path.lower()) for path in paths]
    primary = sum(1 for path, _ in low if not is_secondary(path))
    stems: dict[str, float] = {}
    for term, times in weights.items():
        stems[stem(term)] = max(times, stems.get(stem(term), 0.0))
    for word, times in stems.items():
        said = [path for path, name in low if word in name and word in _path_stems(path)]
        rarity = times * weight * _rarity(primary, said)
        for path in said:
            scores[path] += rarity


def _add_folders(scores: dict[str, float], weight: float) -> None:
    """A commit's files stand together: each gets a share of what its folder's best files score."""
    of_folder: dict[PurePosixPath, list[float]] = defaultdict(list)
    folders = {path: PurePosixPath(path).parent for path in scores}
    for path, folder in folders.items():
        of_folder[folder].append(scores[path])
    best = {
        folder: sum(sorted(found, reverse=True)[:_FOLDER_FILES]) / _FOLDER_FILES
        for folder, found in of_folder.items()
    }
    for path, folder in folders.items():
        scores[path] += weight * best[folder] * _prior(path)


def _add_share(scores: dict[str, float], found: Mapping[str, float], weight: float) -> None:
    """Adds what a signal found, from 0 to 1, as a share of the best score so far."""
    best = weight * max(scores.values(), default=1.0)
    for path, share in found.items():
        scores[path] += best * share * _prior(path)


def _named(words: Iterable[str], paths: Iterable[str]) -> dict[str, float]:
    """How much of each file's own name the question says."""
    stems = {stem(word) for word in words}
    found: dict[str, float] = {}
    for path in paths:
        last = path.rpartition("/")[2]
        low = last.lower()
        if any(word in low for word in stems):
            name = _path_stems(last.partition(".")[0])
            if said := name & stems:
                found[path] = len(said) / len(name)
    return found


def _defining(queries: Queries, question: str, paths: Collection[str]) -> dict[str, float]:
    """The files with definitions of what the question names; several of one name share it."""
    names = named(question)
    files: dict[str, set[str]] = defaultdict(set)
    for name, path, _ in queries.definers(names, _MAX_DEFINERS) if names else ():
        if path in paths and not is_secondary(path):
            files[name].add(path)
    found: dict[str, float] = defaultdict(float)
    for defining in files.values():
        for path in defining:
            found[path] = min(1.0, found[path] + 1 / len(defining))
    return found


def _changed(queries: Queries, question: str, paths: Collection[str]) -> dict[str, float]:
    """Each of the most alike commits hands its likeness to its files, the more the fewer they are."""
    terms = " OR ".join(f'"{term}"' for term in query_terms(question))
    found: dict[str, float] = defaultdict(float)
    for changed, bm25 in queries.commits(terms, _ALIKE):
        for path in changed:
            if path in paths:
                found[path] -= bm25 / len(changed) ** 0.5
    most = max(found.values(), default=1.0)
    return {path: score / most for path, score in found.items()}


def _rarity(primary: int, paths: Iterable[str]) -> float:
    """The inverse document frequency among the files that are neither tests nor vendored."""
    holding = sum(1 for path in paths if not is_secondary(path))
    return math.log(1 + (primary - holding + 0.5) / (holding + 0.5))


def _prior(path: str) -> float:
    return (1.0 if is_code(path) else _DATA_WEIGHT) * (_SECONDARY_WEIGHT if is_secondary(path) else 1.0)


@lru_cache(maxsize=50_000)
def _path_stems(path: str) -> frozenset[str]:
    return frozenset(stem(part) for identifier in identifiers(path) for part in parts(identifier))
