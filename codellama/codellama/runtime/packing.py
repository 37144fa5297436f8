"""What of prefix, suffix and extras fits into the context, counted in tokens. Free of torch.

Everything is cut before the prompt is built, never after, so no template is ever clipped. The window
over a long prefix begins at a multiple of 64 lines, or of fewer in a small context: while the cursor moves,
it mostly begins at the same line, and the ids before it can be reused. The caller sends the prefix from the
start of the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codellama.runtime.prompts import extra_text
from codellama.runtime.records import Extra, Packed
from codellama.runtime.tokenizer import Tokenizer

BLOCK_LINES = 64
# What a line of code takes, about: a block takes half of the room at most.
_TOKENS_PER_LINE = 12
# Of the room for text: the suffix gets at most a quarter, extras at most half of what is then left.
SUFFIX_SHARE = 0.25
EXTRAS_SHARE = 0.5
# No piece of a Llama tokenizer is longer than this on ordinary text; longer text need not be encoded.
_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Parts:
    """Encoded parts that fit together; `extras` in the order given, `packed` says what was kept."""

    prefix: list[int]
    suffix: list[int]
    extras: list[list[int]]
    packed: tuple[Packed, ...]


def pack(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    extras: Sequence[Extra],
    room: int,
    encode_extra: Callable[[str], list[int]] | None = None,
) -> Parts:
    """Cuts the three to `room` tokens in all: nearest the cursor first, extras by priority.

    `encode_extra` stands for the tokenizer's `encode` where extras are cached.
    """
    encode_extra = encode_extra or tokenizer.encode
    after = _head(tokenizer, suffix, int(room * SUFFIX_SHARE))
    encoded = [encode_extra(extra_text(e.filename, e.text)) for e in extras]
    left = room - len(after)
    shortest = min((len(ids) for ids in encoded), default=0)
    before = _tail(tokenizer, prefix, left)
    # A prefix that leaves no place for any extra gives up what the extras may claim.
    if encoded and left - len(before) < shortest:
        before = _tail(tokenizer, prefix, int(left * (1 - EXTRAS_SHARE)))
    kept = choose(extras, encoded, min(left - len(before), int(left * EXTRAS_SHARE)))
    return Parts(
        prefix=before,
        suffix=after,
        extras=[ids for n, ids in enumerate(encoded) if n in kept],
        packed=tuple(
            Packed(extra.filename, len(ids), n in kept)
            for n, (extra, ids) in enumerate(zip(extras, encoded, strict=True))
        ),
    )


def choose(extras: Sequence[Extra], encoded: Sequence[Sequence[int]], room: int) -> set[int]:
    """The places of the extras to keep, the highest priority first; ties in the order given."""
    kept: set[int] = set()
    for n in sorted(range(len(extras)), key=lambda n: (-extras[n].priority, n)):
        if len(encoded[n]) <= room:
            kept.add(n)
            room -= len(encoded[n])
    return kept


def _head(tokenizer: Tokenizer, text: str, room: int) -> list[int]:
    """The ids of the text's beginning, cut after a line where one ends within the room."""
    ids = tokenizer.encode_continuation(text[: room * _CHARACTERS_PER_TOKEN])
    if len(ids) <= room:
        return ids
    cut = tokenizer.decode_continuation(ids[:room]).rpartition("\n")[0]
    short = tokenizer.encode_continuation(cut + "\n") if cut else ids[:room]
    return short[:room]


def block_lines(room: int) -> int:
    """The lines of a block in so small a room: a power of two, so that smaller blocks divide larger ones."""
    lines = BLOCK_LINES
    while lines > 1 and 2 * lines * _TOKENS_PER_LINE > room:
        lines //= 2
    return lines


def _tail(tokenizer: Tokenizer, text: str, room: int) -> list[int]:
    """The ids of the text's end, begun at a block of lines where one fits the room."""
    if room <= 0 or not text:
        return []
    lines = text.splitlines(keepends=True)
    block = block_lines(room)
    while block:  # long lines: blocks of fewer
        found = _blocks(tokenizer, lines, block, room)
        if found:
            return found
        block //= 2
    return tokenizer.encode(lines[-1][-room * _CHARACTERS_PER_TOKEN :])[-room:]


def _blocks(tokenizer: Tokenizer, lines: Sequence[str], block: int, room: int) -> list[int]:
    """The ids from the first block on that fits with all that follows; none where no block does."""
    found: list[int] = []
    # By halving: a long file is encoded a few times only.
    first, last = 0, -(-len(lines) // block)
    while first < last:
        middle = (first + last) // 2
        tail = "".join(lines[middle * block :])
        ids = tokenizer.encode(tail) if len(tail) <= room * _CHARACTERS_PER_TOKEN else None
        if ids is not None and len(ids) <= room:
            found, last = ids, middle
        else:
            first = middle + 1
    return found
