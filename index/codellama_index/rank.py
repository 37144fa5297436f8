"""How central each file is: PageRank over who uses whose names. Pure."""

import re
from collections.abc import Iterable

_DAMPING = 0.85
_ROUNDS = 30
_SECONDARY = re.compile(
    r"(^|/)(tests?|testing|__tests__|spec|vendor|vendored|third_party|node_modules|examples?"
    r"|docs?|benchmarks?|fixtures?|testdata)/"
    r"|(^|/)(test_[^/]*|conftest)\.py$|_test\.(py|go|rs)$|\.(test|spec)\.[jt]sx?$|\.min\.js$|(^|[._])generated\.",
    re.I,
)


def is_secondary(path: str) -> bool:
    """Tests, vendored and generated files, examples: found, but after the code they are about."""
    return _SECONDARY.search(path) is not None


def page_rank(files: Iterable[str], edges: Iterable[tuple[str, str, int]]) -> dict[str, float]:
    """Rank of each file, 1 on average; an edge (user, definer, uses) lends rank to the definer."""
    ranks = dict.fromkeys(files, 1.0)
    links: dict[str, list[tuple[str, float]]] = {}
    for user, definer, uses in edges:
        if user in ranks and definer in ranks:
            links.setdefault(user, []).append((definer, uses**0.5))
    totals = {user: sum(weight for _, weight in targets) for user, targets in links.items()}
    for _ in range(_ROUNDS):
        idle = sum(rank for file, rank in ranks.items() if file not in links) / max(len(ranks), 1)
        fresh = dict.fromkeys(ranks, 1 - _DAMPING + _DAMPING * idle)
        for user, targets in links.items():
            for definer, weight in targets:
                fresh[definer] += _DAMPING * ranks[user] * weight / totals[user]
        ranks = fresh
    return {file: rank * (0.2 if is_secondary(file) else 1.0) for file, rank in ranks.items()}
