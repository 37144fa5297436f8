"""SentencePiece's own file format, taken apart and put together again. Free of torch.

A checkpoint may hold its pieces in another format (`tokenizer.json`, GGUF), and a model's control pieces may
be marked as ordinary ones; either way the library gets a model in which they are what they are.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from codellama.runtime.vocabulary import PieceKind


@dataclass(frozen=True, slots=True)
class SentencePieceFile:
    """A SentencePiece model as its protocol buffer: the pieces, and the rest as it stands."""

    pieces: list[tuple[str, float, PieceKind]]
    rest: bytes


def read_sentencepiece(content: bytes) -> SentencePieceFile:
    """Takes a `tokenizer.model` apart; raises ValueError where it is damaged."""
    pieces: list[tuple[str, float, PieceKind]] = []
    rest = b""
    for number, value, raw in _fields(content):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        else:
            rest += raw
    return SentencePieceFile(pieces, rest)


def write_sentencepiece(file: SentencePieceFile) -> bytes:
    """The protocol buffer (sentencepiece_model.proto) that SentencePiece loads."""
    out = bytearray()
    for text, score, kind in file.pieces:
        entry = _tagged(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        out += _tagged(1, entry)
    return bytes(out) + file.rest


def llama_specs(pieces: int, bos: int, eos: int, unk: int, *, dummy_space: bool) -> bytes:
    """The rest of a Llama's SentencePiece model: byte-pair encoding with bytes, text as it stands."""
    ids = b"".join(_varint(n << 3) + _varint(i) for n, i in ((40, unk), (41, bos), (42, eos)))
    trainer = b"\x18\x02" + b"\x20" + _varint(pieces) + _varint(35 << 3) + b"\x01" + ids
    normalizer = _tagged(1, b"identity") + bytes([0x18, dummy_space, 0x20, 0, 0x28, 1])
    return _tagged(2, trainer) + _tagged(3, normalizer)


def _piece(content: bytes) -> tuple[str, float, PieceKind]:
    text, score, kind = "", 0.0, PieceKind.NORMAL
    for number, value, _ in _fields(content):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = PieceKind(value)
    return text, score, kind


def _fields(content: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """The fields of a protocol buffer: number, value, and the whole as it stands."""
    at = 0
    while at < len(content):
        start = at
        tag, at = _read_varint(content, at)
        value: bytes | int
        if tag & 7 == 0:
            value, at = _read_varint(content, at)
        elif tag & 7 in (1, 5):
            size = 8 if tag & 7 == 1 else 4
            value, at = content[at : at + size], at + size
        elif tag & 7 == 2:
            size, at = _read_varint(content, at)
            value, at = content[at : at + size], at + size
        else:
            raise ValueError(f"unknown wire type {tag & 7}")
        if at > len(content):
            raise ValueError("it ends inside a field")
        yield tag >> 3, value, content[start:at]


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    raise ValueError("it ends inside a number")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _tagged(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content
