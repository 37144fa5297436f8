"""What goes to the server beside the cursor: windows of the file, and snippets of others. Pure.

More is sent than fits; the server counts tokens and packs. The windows begin and end at multiples of 64
lines and the snippets keep their order, so that moving the cursor leaves the prompt's beginning alone. A file
that is excluded or holds a secret is never part of it.
"""

from collections.abc import Iterable, Sequence

from codellama.runtime.records import Extra
from codellama_index.records import OpenDocument, Snippet
from codellama_index.refusal import by_content, by_name

BLOCK_LINES = 64
PREFIX_LINES = 1024
SUFFIX_LINES = 256
MOST_BYTES = 160_000
"""Of prefix and suffix together, whatever their lines hold."""

_SUFFIX_SHARE = 0.2
_EXTRAS_SHARE = 0.4


def shares(prompt_bytes: int, budget_bytes: int) -> tuple[int, int]:
    """Of a prompt of so many bytes: what snippets may take (at most their own budget), and the file."""
    extras = min(budget_bytes, int(_EXTRAS_SHARE * prompt_bytes))
    return extras, max(prompt_bytes - extras, 0)


def windows(text: str, offset: int, most_bytes: int = MOST_BYTES) -> tuple[str, str]:
    """Prefix and suffix around byte `offset` of UTF-8, each cut to whole blocks of lines.

    Where a block is more than `most_bytes` allow, single lines are cut, and then bytes.
    """
    raw = text.encode("utf-8", "replace")
    most_after = int(_SUFFIX_SHARE * most_bytes)
    start = _window_start(raw, offset, most_bytes - min(most_after, len(raw) - offset))
    end = _window_end(raw, offset, most_after)
    return raw[start:offset].decode("utf-8", "ignore"), raw[offset:end].decode("utf-8", "ignore")


def _window_start(raw: bytes, offset: int, most: int) -> int:
    """The first byte of the prefix's window."""
    starts = [raw.rfind(b"\n", 0, offset) + 1]  # of lines, going up from the cursor's
    while len(starts) < PREFIX_LINES and starts[-1] > 0 and offset - starts[-1] <= most:
        starts.append(raw.rfind(b"\n", 0, starts[-1] - 1) + 1)
    fitting = [start for start in starts if offset - start <= most]
    if not fitting:
        return max(0, offset - most)
    if fitting[-1] == 0:
        return 0
    number = raw.count(b"\n", 0, offset)  # of the cursor's line, from 0
    first = number + 1 - len(fitting)
    snapped = -(-first // BLOCK_LINES) * BLOCK_LINES
    return fitting[number - snapped] if snapped <= number else fitting[-1]


def _window_end(raw: bytes, offset: int, most: int) -> int:
    """The byte after the suffix's window."""
    ends: list[int] = []  # of lines, line breaks included
    while len(ends) <= SUFFIX_LINES:
        found = raw.find(b"\n", ends[-1] if ends else offset, offset + most)
        if found < 0:
            break
        ends.append(found + 1)
    if len(ends) <= SUFFIX_LINES and len(raw) - offset <= most:
        return len(raw)
    if not ends:
        return offset + most
    # The block that the suffix ends with is counted from the file's start, as the prefix's is.
    before = raw.count(b"\n", 0, offset) + 1
    fitting = min(len(ends), SUFFIX_LINES)
    last = (before + fitting) // BLOCK_LINES * BLOCK_LINES - before
    return ends[last - 1 if last >= 1 else fitting - 1]


def extras(snippets: Iterable[Snippet]) -> tuple[Extra, ...]:
    """Snippets as the server takes them, in the order given."""
    return tuple(Extra(s.path, s.text, s.score) for s in snippets)


def refused(path: str, text: str) -> str:
    """Why nothing of a file may be sent anywhere, or "": a secret by its name or its content."""
    reason = by_name(path, 0) or by_content(path, text)
    return reason if "secret" in reason else ""


def allowed(documents: Iterable[OpenDocument]) -> tuple[OpenDocument, ...]:
    """Open documents without those that hold secrets."""
    return tuple(document for document in documents if not refused(document.path, document.text))


def merged(found: Sequence[Snippet], recent: Sequence[Snippet], budget_bytes: int) -> tuple[Snippet, ...]:
    """Snippets of the index and of recent edits together, the best that fit, by path and line.

    Of two that overlap the better one stays. The order depends on no score, so that it stays the same while
    the cursor moves.
    """
    kept: list[Snippet] = []
    left = budget_bytes
    for snippet in sorted([*found, *recent], key=lambda s: (-s.score, s.path, s.start_line)):
        size = len(snippet.text.encode("utf-8", "replace"))
        if size <= left and snippet.text.strip() and not any(_overlap(snippet, other) for other in kept):
            kept.append(snippet)
            left -= size
    return tuple(sorted(kept, key=lambda s: (s.path, s.start_line)))


def _overlap(one: Snippet, other: Snippet) -> bool:
    same = one.path == other.path
    return same and one.start_line <= other.end_line and other.start_line <= one.end_line
