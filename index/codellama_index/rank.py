"""How central each file and each symbol is: personalised PageRank over who uses whose names. Pure.

The graph has files and the symbols they define: a file lends rank to the symbols that it uses, and a
symbol hands it on to its file. Tests, vendored and generated files may lend but are not where a walk
starts, and what they earn counts a fifth. (Page et al., 1999; aider ranks its map over a like graph.)

Runs at the end of a sync, which stores the result: queries read it and never import scipy.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

_DAMPING = 0.85
_ROUNDS = 40
_TOLERANCE = 1e-6
_SECONDARY_START = 0.1
_SECONDARY_WEIGHT = 0.2
_DEFINERS = 3  # a name that more files define tells nothing of who uses whom
_SECONDARY = re.compile(
    r"(^|/)(tests?|testing|__tests__|__mocks__|specs?|e2e|vendor|vendored|_vendor|third_party|node_modules"
    r"|examples?|docs?|doc_src|benchmarks?|fixtures?|testdata|test-data|changelogs?|releasenotes|site-packages"
    r"|dist|generated|_generated)/"
    r"|(^|/)(test_[^/]*|[^/]*_tests?|conftest|tests?|[^/]*_pb2(_grpc)?)\.py$|_test\.(go|rs|cc?|cpp|exs)$"
    r"|\.(test|spec|stories)\.[cm]?[jt]sx?$|(Test|Tests|Spec|IT)\.(java|kt|cs|scala|swift|php)$"
    r"|_spec\.rb$|_test\.rb$|\.min\.(js|css)$|\.pb\.go$|(^|[._/])(zz_)?generated[._]|\.g\.(cs|dart)$"
    r"|(^|/)(CHANGE|HISTORY|NEWS)[^/]*$",
    re.I,
)


@lru_cache(maxsize=50_000)
def is_secondary(path: str) -> bool:
    """Tests, vendored and generated files, examples: found, but after the code they are about."""
    return _SECONDARY.search(path) is not None


@dataclass(frozen=True, slots=True)
class Ranks:
    """1 is the average file; a symbol is named by its file and its name, and has a share of its file's."""

    files: dict[str, float]
    symbols: dict[tuple[str, str], float]


def page_rank(
    files: Iterable[str],
    uses: Iterable[tuple[str, Mapping[str, int]]],
    definitions: Iterable[tuple[str, str]],
) -> Ranks:
    """Ranks files and symbols; `uses` are (file, how often it uses which names), `definitions` (name, file).

    A name that many files define is left out, and so is a file's use of its own names. A use counts by the
    square root of its number (Brin and Page weigh all links alike; a loop is not a hundred opinions).
    """
    places = {path: n for n, path in enumerate(files)}
    if not places:
        return Ranks({}, {})
    definers = _rare(definitions, places)
    symbols: dict[tuple[int, str], int] = {}
    links: list[tuple[int, int, float]] = []
    for path, counts in uses:
        user = places.get(path)
        if user is None:
            continue
        for name in counts.keys() & definers.keys():
            for definer in definers[name]:
                if definer != user:
                    symbol = symbols.setdefault((definer, name), len(symbols))
                    links.append((user, symbol, counts[name] ** 0.5 / len(definers[name])))
    paths = list(places)
    ranks, earned = _walk(paths, list(symbols), links)
    return Ranks(
        dict(zip(paths, ranks, strict=True)),
        {(paths[file], name): earned[n] for (file, name), n in symbols.items()},
    )


def _rare(definitions: Iterable[tuple[str, str]], places: Mapping[str, int]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for name, path in definitions:
        if len(name) > 2 and path in places:
            found[name].add(places[path])
    return {name: files for name, files in found.items() if len(files) <= _DEFINERS}


def _walk(
    paths: list[str], symbols: list[tuple[int, str]], links: list[tuple[int, int, float]]
) -> tuple[list[float], list[float]]:
    """Power iteration; the ranks of files (1 on average) and what each symbol passes on."""
    import numpy as np
    from scipy.sparse import csr_matrix

    count = len(paths)
    secondary = np.array([is_secondary(path) for path in paths])
    start = np.where(secondary, _SECONDARY_START, 1.0)
    start /= start.sum()
    users, used, weights = (np.array(column) for column in zip(*links, strict=True)) if links else ((),) * 3
    uses = csr_matrix((weights, (used, users)), shape=(len(symbols), count), dtype=float)
    owners = np.array([file for file, _ in symbols], dtype=int)
    total = np.asarray(uses.sum(axis=0)).ravel()
    share = np.divide(1.0, total, out=np.zeros(count), where=total > 0)
    rank = start.copy()
    for _ in range(_ROUNDS):
        passed = uses @ (rank * share)
        fresh = np.bincount(owners, passed, minlength=count) if len(symbols) else np.zeros(count)
        fresh = _DAMPING * (fresh + rank[total == 0].sum() * start) + (1 - _DAMPING) * start
        moved = np.abs(fresh - rank).sum()
        rank = fresh
        if moved < _TOLERANCE:
            break
    passed = uses @ (rank * share)
    weight = np.where(secondary, _SECONDARY_WEIGHT, 1.0) * count
    return (rank * weight).tolist(), (passed * weight[owners]).tolist() if len(symbols) else []
