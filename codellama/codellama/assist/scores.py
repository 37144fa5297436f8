"""Scores and their uncertainty: shares with intervals, edit similarity, quantiles. Pure."""

import math
from collections.abc import Sequence

_Z = 1.959964  # of a 95 % interval


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); from 0 to 1 where nothing was tried."""
    if not n:
        return 0.0, 1.0
    share = hits / n
    middle = share + _Z**2 / (2 * n)
    reach = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return max(0.0, (middle - reach) / (1 + _Z**2 / n)), min(1.0, (middle + reach) / (1 + _Z**2 / n))


def edit_similarity(one: str, other: str) -> float:
    """1 less the Levenshtein distance over the longer text's length; 1 for two empty texts."""
    row = list(range(len(other) + 1))
    for n, character in enumerate(one, start=1):
        before, row[0] = row[0], n
        for m, against in enumerate(other, start=1):
            before, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, before + (character != against))
    longest = max(len(one), len(other))
    return 1 - row[-1] / longest if longest else 1.0


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def share_of(hits: Sequence[bool]) -> dict[str, object]:
    """A share as it is reported: itself, and its interval."""
    low, high = wilson(sum(hits), len(hits))
    return {
        "share": round(sum(hits) / len(hits), 4) if hits else 0.0,
        "interval": [round(low, 4), round(high, 4)],
    }
