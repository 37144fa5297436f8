"""Where a place in a text is: LSP positions to character indices and byte offsets, and back.

The only code that knows UTF-16. A position is a line and a number of code units (bytes, UTF-16
units or code points, as negotiated) into it; everywhere else a place is an offset in bytes of
UTF-8. Lines end at \\n, \\r\\n and \\r alone, as the protocol says: form feeds and U+2028 are text.
It keeps no documents (see `documents`) and makes no protocol types (see `convert`).
"""

import re
from bisect import bisect_right
from itertools import accumulate
from operator import add
from typing import Literal

Encoding = Literal["utf-8", "utf-16", "utf-32"]

_CODEC: dict[Encoding, tuple[str, int]] = {
    "utf-8": ("utf-8", 1),
    "utf-16": ("utf-16-le", 2),
    "utf-32": ("utf-32-le", 4),
}
_LINE_BREAK = re.compile(r"\r\n|\n|\r")


def well_formed(text: str) -> str:
    """`text` with each half surrogate replaced by U+FFFD, which counts the same in UTF-16 and 32.

    JSON can carry halves of a surrogate pair; no text has them and no encoding takes them.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def units(text: str, encoding: Encoding) -> int:
    """How many code units a well-formed text has."""
    codec, unit = _CODEC[encoding]
    return len(text.encode(codec, "replace")) // unit


class Lines:
    """A well-formed text and where its lines start; places outside of it are moved to its edge.

    A place inside a character (half a surrogate pair, the second byte of é) means the place before
    that character, a place past the end of a line means its end, before the line break.
    """

    def __init__(self, text: str, encoding: Encoding) -> None:
        self.text = text
        self._codec, self._unit = _CODEC[encoding]
        self._starts = _starts(text)

    def index(self, line: int, character: int) -> int:
        """The index into `text`, in code points, of a position."""
        if line < 0:
            return 0
        if line >= len(self._starts):
            return len(self.text)
        units = self._content(line).encode(self._codec)[: max(character, 0) * self._unit]
        # A character cut in half at the end is dropped: that is the place before it.
        return self._starts[line] + len(units.decode(self._codec, errors="ignore"))

    def offset(self, line: int, character: int) -> int:
        """The offset in bytes of UTF-8 of a position."""
        return len(self.text[: self.index(line, character)].encode())

    def position(self, offset: int) -> tuple[int, int]:
        """The line and character of an offset in bytes of UTF-8."""
        before = self.text.encode()[: max(offset, 0)]
        index = len(before.decode(errors="ignore"))
        line = bisect_right(self._starts, index) - 1
        content = self._content(line)[: index - self._starts[line]]
        return line, len(content.encode(self._codec)) // self._unit

    def _content(self, line: int) -> str:
        """The text of a line without its line break."""
        end = self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)
        return self.text[self._starts[line] : end].rstrip("\r\n")


def _starts(text: str) -> list[int]:
    """Where each line starts. Without carriage returns, as most texts are, this is ten times as quick."""
    if "\r" in text:
        return [0, *(found.end() for found in _LINE_BREAK.finditer(text))]
    lines = text.split("\n")
    breaks = range(len(lines))  # before each line there are as many line breaks as lines
    return list(map(add, accumulate(map(len, lines), initial=0), breaks))
