"""Where the person just edited, as passages that may help elsewhere. Reads no disk and asks nobody."""

from collections.abc import Sequence
from dataclasses import dataclass

from lsprotocol import types

_KEPT = 8
_AROUND = 8  # lines before and after an edit
_AGE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Edit:
    """A place that was edited: a 0-based line of a document, and when (in seconds)."""

    uri: str
    line: int
    time_s: float


class Edits:
    """The last few places, the newest first."""

    def __init__(self) -> None:
        self._places: list[Edit] = []

    def add(self, uri: str, changes: Sequence[types.TextDocumentContentChangeEvent], now: float) -> None:
        """Take note of a document's edits; a whole new text is no edit of a person."""
        for change in changes:
            if isinstance(change, types.TextDocumentContentChangePartial):
                place = Edit(uri, change.range.start.line, now)
                others = [old for old in self._places if not _near(place, old)]
                self._places = [place, *others][:_KEPT]

    def forget(self, uri: str) -> None:
        """Forget a document that was closed."""
        self._places = [place for place in self._places if place.uri != uri]

    def elsewhere(self, uri: str, now: float) -> tuple[Edit, ...]:
        """Those in other documents that are not long ago."""
        return tuple(p for p in self._places if p.uri != uri and now - p.time_s < _AGE_S)


def passage(text: str, line: int) -> tuple[int, int, str]:
    """First and last line (1-based) around an edit, and what stands there now."""
    lines = text.split("\n")
    first = max(0, min(line, len(lines) - 1) - _AROUND)
    last = min(len(lines), line + _AROUND + 1)
    return first + 1, max(last, first + 1), "\n".join(lines[first : max(last, first + 1)])


def _near(one: Edit, other: Edit) -> bool:
    return one.uri == other.uri and abs(one.line - other.line) <= _AROUND
