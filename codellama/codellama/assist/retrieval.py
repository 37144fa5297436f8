"""Measures retrieval on a user's own repository: how often what was asked for is among the first hits.

Beside it, in the same run: plain BM25 over the same chunks and over whole files, and retrieval with each
of its signals switched off in turn. Differences come with a 95 % interval (paired bootstrap).
"""

import math
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from codellama.assist.meaning import BlockingMeaning
from codellama.assist.retrieval_tasks import Question, Task, commits, docstrings, key_of
from codellama_index import Index, open_index
from codellama_index.errors import CodeIndexError
from codellama_index.extract import extract
from codellama_index.records import Hit, QuestionVector
from codellama_index.retrieve import SIGNALS
from codellama_index.retrieve_files import FILE_SIGNALS
from codellama_index.words import identifiers, parts, query_terms, stem

TASKS = ("docstrings", "commits")
_K1, _B = 1.2, 0.75
_DEPTH = 40  # hits that are asked for; what is asked of them is ten at most
_RESAMPLES = 2000

Progress = Callable[[str, int, int], None]
Ranking = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to retrieve, on one task: the share found at each depth, of each question."""

    found: Mapping[int, tuple[float, ...]]
    seconds: tuple[float, ...]

    def recall(self, depth: int) -> float:
        """The share of the answers that are among the first `depth`."""
        shares = self.found[depth]
        return sum(shares) / len(shares) if shares else 0.0


def evaluate_retrieval(
    index: Index,
    *,
    tasks: Sequence[str] = TASKS,
    questions: int = 200,
    back: int = 300,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
    meaning: BlockingMeaning | None = None,
) -> dict[str, Any]:
    """Measures on copies of the repository in a temporary folder; the result is fit for JSON.

    `meaning` adds an embedding model to the signals of docstrings' passages. Raises as the index and the
    model server do, and InvalidRequest where a task needs a history that is not there.
    """
    results: dict[str, Any] = {}
    for name in tasks:
        with tempfile.TemporaryDirectory(prefix="codellama-eval-") as temporary:
            folder = Path(temporary) / "tree"
            folder.mkdir()
            progress(f"{name}: writing the tree", 0, 1)
            if name == "docstrings":
                task = docstrings(index, folder, questions, seed)
            else:
                task = commits(index.root, folder, back, questions, seed)
            results[name] = _measured(task, Path(temporary) / "cache", seed, progress, meaning)
    return results


def _measured(
    task: Task, cache: Path, seed: int, progress: Progress, meaning: BlockingMeaning | None
) -> dict[str, Any]:
    with open_index(task.root, cache) as index:
        index.sync(progress=lambda step: progress(f"{task.name}: indexing", step.files, step.all_files))
        of_functions = task.name == "docstrings"
        depth = 5 if of_functions else 10
        signals = SIGNALS if of_functions else FILE_SIGNALS
        vectors: dict[str, QuestionVector] = {}
        if meaning is not None and of_functions:
            index.encode(
                meaning.name,
                meaning.encode,
                progress=lambda step: progress(f"{task.name}: encoding", step.files, step.all_files),
            )
            vectors = {q.text: meaning.of_question(q.text) for q in task.questions}
        ours = partial(_ours, index, of_functions, vectors)
        ways: dict[str, Ranking] = {"ours": ours(signals)}
        ways |= _plain(index, task, of_functions)
        for signal in signals:
            if signal != "meaning" or vectors:
                others = {name: weight for name, weight in signals.items() if name != signal}
                ways[f"without {signal}"] = ours(others)
        if vectors:
            ways["meaning alone"] = ours({"meaning": 1.0})
        found: dict[str, Measured] = {}
        for n, (name, way) in enumerate(ways.items()):
            progress(f"{task.name}: asking", n, len(ways))
            found[name] = _measure(task.questions, way, every=not of_functions)
        files = len(index.sources())
    measured = found["ours"]
    times = sorted(measured.seconds)
    return {
        "n": len(task.questions),
        "answers": sum(1 if of_functions else len(q.answers) for q in task.questions),
        "files": files,
        "depth": depth,
        "recall": {name: {str(k): round(m.recall(k), 4) for k in m.found} for name, m in found.items()},
        "margin": {
            name: _margin(measured.found[depth], found[name].found[depth], seed)
            for name in ("bm25 chunks", "bm25 files")
        },
        "p50_ms": round(1000 * times[len(times) // 2], 1) if times else 0.0,
        "p95_ms": round(1000 * times[int(len(times) * 0.95)], 1) if times else 0.0,
    }


def _measure(questions: Iterable[Question], way: Ranking, every: bool) -> Measured:
    """`every`: the share of the answers that were found; else whether any of them was."""
    found: dict[int, list[float]] = {1: [], 3: [], 5: [], 10: []}
    seconds: list[float] = []
    for question in questions:
        began = time.perf_counter()
        ranked = list(dict.fromkeys(way(question.text)))
        seconds.append(time.perf_counter() - began)
        for depth, shares in found.items():
            hit = len(question.answers & set(ranked[:depth]))
            shares.append(hit / len(question.answers) if every else float(hit > 0))
    return Measured({depth: tuple(shares) for depth, shares in found.items()}, tuple(seconds))


def _margin(ours: Sequence[float], theirs: Sequence[float], seed: int) -> dict[str, float]:
    """The mean difference, and the interval that holds 95 % of the means of resampled questions."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not differences:
        return {"mean": 0.0, "low": 0.0, "high": 0.0}
    draw = random.Random(seed)  # noqa: S311 - resampling, not a secret
    means = sorted(
        sum(draw.choices(differences, k=len(differences))) / len(differences) for _ in range(_RESAMPLES)
    )
    low, high = means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1]
    mean = sum(differences) / len(differences)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def _ours(
    index: Index, of_functions: bool, vectors: Mapping[str, QuestionVector], signals: Mapping[str, float]
) -> Ranking:
    def rank(question: str) -> list[str]:
        if of_functions:
            hits = index.retrieve(question, _DEPTH, signals, vectors.get(question))
            return [_key(hit) for hit in hits]
        return [file.path for file in index.retrieve_files(question, _DEPTH, signals)]

    return rank


def _key(hit: Hit) -> str:
    return key_of(hit.symbol) if hit.symbol else f"{hit.path}:{hit.start_line}"


def _plain(index: Index, task: Task, of_functions: bool) -> dict[str, Ranking]:
    """BM25 over path, name and body of the same chunks, and of whole files; nothing else."""
    wanted = frozenset(stem(term) for question in task.questions for term in query_terms(question.text))
    chunks, files = Bm25(wanted), Bm25(wanted)
    keys: dict[str, list[str]] = defaultdict(list)
    for path in index.sources():
        try:
            text = index.read(path)
        except CodeIndexError:
            continue
        files.add(path, f"{path}\n{text}")
        lines = text.splitlines()
        extracted = extract(path, text)
        starts = {(s.start_line, s.name): key_of(s) for s in extracted.symbols}
        for chunk in extracted.chunks:
            body = "\n".join(lines[chunk.start_line - 1 : chunk.end_line])
            key = starts.get((chunk.start_line, chunk.name), f"{path}:{chunk.start_line}")
            keys[path].append(key)
            chunks.add(key if of_functions else path, f"{path}\n{chunk.name}\n{body}")

    def by_file(question: str) -> list[str]:
        ranked = files.rank(question)
        if not of_functions:
            return ranked
        order = {key: n for n, key in enumerate(chunks.rank(question))}
        return [
            k for path in ranked[:_DEPTH] for k in sorted(keys[path], key=lambda k: order.get(k, 1 << 30))
        ]

    return {"bm25 chunks": chunks.rank, "bm25 files": by_file}


class Bm25:
    """Plain BM25 (k1 1.2, b 0.75) over stems of split identifiers; only `terms` are ever asked for."""

    def __init__(self, terms: frozenset[str]) -> None:
        self._terms = terms
        self._keys: list[str] = []
        self._lengths: list[int] = []
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def add(self, key: str, text: str) -> None:
        """One document; several may share a key, which then has the best one's score."""
        number = len(self._keys)
        words = [word for identifier in identifiers(text) for word in _stems(identifier)]
        self._keys.append(key)
        self._lengths.append(len(words))
        for word, count in Counter(word for word in words if word in self._terms).items():
            self._postings[word].append((number, count))

    def rank(self, question: str) -> list[str]:
        """The keys of the documents that share a word with the question, best first."""
        scores: dict[int, float] = defaultdict(float)
        average = sum(self._lengths) / max(1, len(self._lengths))
        for word in dict.fromkeys(stem(term) for term in query_terms(question)):
            postings = self._postings.get(word, ())
            rarity = math.log(1 + (len(self._keys) - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, count in postings:
                damped = count + _K1 * (1 - _B + _B * self._lengths[number] / average)
                scores[number] += rarity * count * (_K1 + 1) / damped
        ranked = sorted(scores, key=lambda number: (-scores[number], number))
        return list(dict.fromkeys(self._keys[number] for number in ranked))


@lru_cache(maxsize=200_000)
def _stems(identifier: str) -> tuple[str, ...]:
    return tuple(stem(part) for part in parts(identifier))
