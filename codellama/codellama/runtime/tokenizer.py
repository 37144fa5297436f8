"""Text to ids and back: SentencePiece and tiktoken behind one interface. Free of torch.

Control ids never come from text: whoever needs one puts its id into the list (see `prompts`).
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from codellama.runtime import families
from codellama.runtime.errors import CheckpointError
from codellama.runtime.families import InfillTokens

# The split pattern of Llama 3's reference tokenizer; llama.cpp calls it `llama-bpe`.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tiktoken recurses over long runs: Llama 3's reference cuts text and runs at these lengths.
_MAX_TEXT = 400_000
_MAX_RUN = 25_000


class Tokenizer(Protocol):
    """What the runtime asks of a tokenizer; `infill` is None for models that cannot infill."""

    vocab_size: int
    bos_id: int
    eos_id: int
    infill: InfillTokens | None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS and never a control id."""
        ...

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of text that stands in the middle of a line of thought: no leading space is invented."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; control ids are left out, incomplete characters become U+FFFD."""
        ...

    def decode_continuation(self, ids: Sequence[int]) -> str:
        """The text of `ids` as the continuation of other text: a leading space is kept."""
        ...


class TiktokenTokenizer:
    """Byte-pair encoding by ranks, as in Llama 3 and the pocket model."""

    def __init__(self, ranks: dict[bytes, int], specials: dict[str, int], vocab_size: int, name: str) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding(
            name=name, pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=specials
        )
        self._specials = frozenset(specials.values())
        self._pieces = len(ranks)
        self.vocab_size = vocab_size
        ids = list(specials.values())
        self.bos_id, self.eos_id = ids[0], ids[1]
        self.infill = InfillTokens(*ids[2:6]) if "<|pre|>" in specials else None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _short_parts(_valid(text)):
            ids += self._encoding.encode_ordinary(part)
        return ids

    encode_continuation = encode

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode([i for i in ids if i < self._pieces])

    decode_continuation = decode


class SentencePieceTokenizer:
    """SentencePiece byte-pair encoding, as in Llama 1, Llama 2 and Code Llama."""

    # Stands in front of a continuation so that SentencePiece's dummy space falls on it instead; it is a
    # piece of its own in every Llama vocabulary, as in the reference's encode_infilling.
    _ANCHOR = "☺"

    def __init__(self, path: Path) -> None:
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(
                f"{path} is no SentencePiece model or is damaged: fetch the checkpoint again."
            ) from error
        self.vocab_size = int(self._model.vocab_size())
        self.bos_id, self.eos_id = int(self._model.bos_id()), int(self._model.eos_id())
        code_llama = self.vocab_size == families.CODE_LLAMA_PIECES
        self.infill = families.CODE_LLAMA_INFILL if code_llama else None
        self._control = families.CODE_LLAMA_CONTROL if code_llama else range(0)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(_valid(text))
        if not self._control or not any(i in self._control for i in ids):
            return ids
        # A control piece came out of the text itself (" <PRE>"): spell that piece in smaller ones.
        return [part for i in ids for part in (self._spell(i) if i in self._control else (i,))]

    def encode_continuation(self, text: str) -> list[int]:
        return self.encode(self._ANCHOR + text)[2:]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._model.decode([i for i in ids if i not in self._control])
        return text

    def decode_continuation(self, ids: Sequence[int]) -> str:
        anchor = self._model.encode(self._ANCHOR)
        return self.decode([*anchor, *ids])[1:]

    def _spell(self, control: int) -> list[int]:
        return [self._model.piece_to_id(c) for c in self._model.id_to_piece(control)]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads `tokenizer.model` (a file, or inside a model folder): SentencePiece or tiktoken ranks.

    Raises CheckpointError where there is none or it is damaged.
    """
    path = Path(path)
    file = path / "tokenizer.model" if path.is_dir() else path
    try:
        head = file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"There is no tokenizer at {file}: a model folder needs its tokenizer.model."
        ) from error
    if head.startswith(b"\n"):  # a SentencePiece model is a protocol buffer whose first field is 1
        return SentencePieceTokenizer(file)
    return _from_ranks(head, file)


def _from_ranks(content: bytes, file: Path) -> TiktokenTokenizer:
    ranks: dict[bytes, int] = {}
    try:
        for line in content.splitlines():
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
    except ValueError as error:
        raise CheckpointError(
            f"{file} is neither a SentencePiece model nor tiktoken ranks, or is damaged: "
            "fetch the checkpoint again."
        ) from error
    if len(ranks) < 256 or set(ranks.values()) != set(range(len(ranks))):
        raise CheckpointError(f"{file} lacks ranks and is damaged: fetch the checkpoint again.")
    if len(ranks) == families.LLAMA3_RANKS:
        return TiktokenTokenizer(ranks, families.LLAMA3_SPECIALS, families.LLAMA3_VOCABULARY, "llama3")
    specials = {name: len(ranks) + n for n, name in enumerate(families.POCKET_SPECIALS)}
    return TiktokenTokenizer(ranks, specials, len(ranks) + len(specials), "pocket")


def _valid(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which no encoder takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _short_parts(text: str) -> list[str]:
    """Cuts text where tiktoken would recurse too deep: long texts, long runs of one kind."""
    parts: list[str] = []
    for start in range(0, len(text), _MAX_TEXT):
        block = text[start : start + _MAX_TEXT]
        run_start = 0
        run_length = 0
        run_is_space = None
        for place, character in enumerate(block):
            is_space = character.isspace()
            run_length = run_length + 1 if is_space == run_is_space else 1
            run_is_space = is_space
            if run_length > _MAX_RUN:
                parts.append(block[run_start:place])
                run_start, run_length = place, 1
        parts.append(block[run_start:])
    return parts
