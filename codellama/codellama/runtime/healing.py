"""Token healing: a prompt that ends inside a token is taken back to where the token begins. Free of torch.

A model has seen "return" as one token and never " re" followed by "turn": after a prefix that ends in
" re" its guesses are poor. So the last tokens of the prefix are left out of the prompt, and the first
generated ones must spell them again before they may go on (arXiv 2308.12950, appendix E). Where no
piece of the vocabulary reaches over the prefix's end, nothing is taken back.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_MOST_TOKENS = 8  # that are taken back: each of them costs a step of decoding


class PieceIndex:
    """A vocabulary by the beginnings of its pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        ordered = sorted((piece, i) for i, piece in enumerate(pieces) if piece)
        self._texts = [piece for piece, _ in ordered]
        self._ids = [i for _, i in ordered]
        known = set(self._texts)
        # Only with every byte at hand can any text be spelled, whatever piece was chosen before.
        self.spells_anything = all(bytes([byte]) in known for byte in range(256))

    def reaches_over(self, text: bytes) -> bool:
        """Whether some piece begins with `text` and goes on."""
        start, end = self._range(text)
        return end > start and len(self._texts[end - 1]) > len(text)

    def allowed(self, text: bytes) -> list[int]:
        """The pieces that begin with `text`, and those that `text` begins with."""
        start, end = self._range(text)
        ids = self._ids[start:end]
        for size in range(1, len(text)):
            first, last = self._exactly(text[:size])
            ids += self._ids[first:last]
        return ids

    @cached_property
    def breaking(self) -> frozenset[int]:
        """The pieces that end a line before they say anything."""
        return frozenset(i for i in self._ids if self.pieces[i].lstrip(b" \t")[:1] in (b"\n", b"\r"))

    def single_bytes(self, text: bytes) -> list[int]:
        """The pieces of one byte each that spell `text`."""
        return [self._ids[bisect_left(self._texts, bytes([byte]))] for byte in text]

    def _range(self, text: bytes) -> tuple[int, int]:
        start = bisect_left(self._texts, text)
        return start, bisect_left(self._texts, True, start, key=lambda piece: not piece.startswith(text))

    def _exactly(self, text: bytes) -> tuple[int, int]:
        start = bisect_left(self._texts, text)
        return start, bisect_left(self._texts, True, start, key=lambda piece: piece != text)


@dataclass(frozen=True, slots=True)
class Healing:
    """`count` tokens at the prompt's end are left out; `text` is what they spelled."""

    count: int
    text: bytes


def plan_healing(index: PieceIndex, tail: Sequence[int]) -> Healing | None:
    """What to take back of a prompt that ends with the ids `tail`, which come from text; None for nothing.

    The most tokens whose text some piece reaches over; where there is none and the text ends in more
    than one space, the last token, since words begin with their space. A line that has ended stays so:
    pieces of several line breaks reach over its end, and with it taken back a model says an empty line.
    """
    if not index.spells_anything:
        return None
    best: Healing | None = None
    text = b""
    for count, token in enumerate(reversed(tail[-_MOST_TOKENS:]), 1):
        if _ends_line(index.pieces[token]):
            break
        text = index.pieces[token] + text
        if _whole(text) and index.reaches_over(text):
            best = Healing(count, text)
    if best is None and tail:
        last = index.pieces[tail[-1]]
        if (
            len(last) > 1
            and last.endswith(b" ")
            and not _ends_line(last)
            and _whole(last)
            and index.reaches_over(b" ")
        ):
            best = Healing(1, last)
    return best


class Spelling:
    """What of a healed prompt's text is still to be spelled by the tokens that come."""

    def __init__(self, index: PieceIndex, healing: Healing) -> None:
        self._index = index
        self._left = healing.text

    @property
    def left(self) -> bytes:
        """What is still to be spelled."""
        return self._left

    @property
    def done(self) -> bool:
        return not self._left

    def allowed(self) -> list[int] | None:
        """The ids that may come next; None once all is spelled and every id may."""
        return self._index.allowed(self._left) if self._left else None

    def push(self, token: int) -> bytes:
        """Takes the token that came; what of it goes beyond the prompt's own text."""
        before, piece = self._left, self._index.pieces[token]
        self._left = before[len(piece) :]
        return piece[len(before) :]


def _ends_line(piece: bytes) -> bool:
    return b"\n" in piece or b"\r" in piece


def _whole(text: bytes) -> bool:
    """Whether the bytes are whole characters."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
