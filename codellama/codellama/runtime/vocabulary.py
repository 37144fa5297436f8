"""A tokenizer's pieces in one shape, whatever file they come from. Free of torch.

SentencePiece pieces write a space as ▁; byte-level pieces are written as GPT-2 does it, each byte as one
printable character. Both are as Hugging Face and GGUF files hold them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

# The split pattern of Llama 3's reference tokenizer; llama.cpp calls it `llama-bpe`.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Llama 4's, which splits words where a capital follows a small letter; llama.cpp calls it `llama4`.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT_FORM = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
LLAMA4_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT_FORM}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT_FORM}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By llama.cpp's names of them, the first of which is the one to write.
PATTERNS = {
    "llama-bpe": LLAMA3_PATTERN,
    "llama3": LLAMA3_PATTERN,
    "llama-v3": LLAMA3_PATTERN,
    "llama4": LLAMA4_PATTERN,
    "gpt-4o": LLAMA4_PATTERN,
}


class PieceKind(IntEnum):
    """What a piece is, in SentencePiece's and GGUF's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5  # has a text, and never comes from one
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces by id. `scores` belong to SentencePiece, `merges` (in their order) to byte-level BPE.

    `pattern` is the name, in PATTERNS, of how byte-level BPE splits text; "" for SentencePiece.
    """

    kind: Literal["sentencepiece", "bytes"]
    pieces: tuple[str, ...]
    kinds: tuple[PieceKind, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()
    pattern: str = ""


def bytes_of_piece(piece: str) -> bytes:
    """The bytes that a byte-level piece stands for; raises KeyError where it is none."""
    return bytes(_BYTES[character] for character in piece)


def piece_of_bytes(content: bytes) -> str:
    """How a byte-level piece is written."""
    return "".join(_CHARACTERS[byte] for byte in content)


def merges_of_ranks(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every pair of pieces that joins to a piece, by its rank: what tiktoken's files leave out.

    One pair a piece would not do, since tiktoken joins whatever two neighbours make a piece.
    """
    for piece in sorted(ranks, key=ranks.__getitem__):
        cuts = ((piece[:n], piece[n:]) for n in range(1, len(piece)))
        pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        yield from sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _stand_ins() -> Iterable[tuple[int, str]]:
    """GPT-2's table: printable characters stand for themselves, the other bytes for those from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [*((byte, chr(byte)) for byte in printable), *((b, chr(256 + n)) for n, b in enumerate(hidden))]


_CHARACTERS = dict(_stand_ins())
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}
