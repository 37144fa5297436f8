"""What goes to the server beside the cursor: windows of the file, and snippets of others. Pure.

More is sent than fits; the server counts tokens and packs. The windows begin and end at multiples of 64
lines and the snippets keep their order, so that moving the cursor leaves the prompt's beginning alone.
"""

from collections.abc import Iterable

from codellama.runtime.records import Extra
from codellama_index.records import Snippet

BLOCK_LINES = 64
PREFIX_LINES = 1024
SUFFIX_LINES = 256


def windows(text: str, offset: int) -> tuple[str, str]:
    """Prefix and suffix around byte `offset` of UTF-8, each cut to whole blocks of lines."""
    raw = text.encode("utf-8", "replace")
    prefix = raw[:offset].decode("utf-8", "ignore")
    suffix = raw[offset:].decode("utf-8", "ignore")
    before = prefix.split("\n")
    if len(before) > PREFIX_LINES:
        first = -(-(len(before) - PREFIX_LINES) // BLOCK_LINES) * BLOCK_LINES
        prefix = "\n".join(before[first:])
    after = suffix.split("\n")
    if len(after) > SUFFIX_LINES:
        # The block that the suffix ends with is counted from the file's start, as the prefix's is.
        last = (len(before) + SUFFIX_LINES) // BLOCK_LINES * BLOCK_LINES - len(before)
        suffix = "\n".join(after[: max(last, 1)]) + "\n"
    return prefix, suffix


def extras(snippets: Iterable[Snippet]) -> tuple[Extra, ...]:
    """Snippets as the server takes them, in the order given."""
    return tuple(Extra(s.path, s.text, s.score) for s in snippets)
