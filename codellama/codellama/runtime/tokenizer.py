"""Text to ids and back: SentencePiece and byte-level pairs behind one interface. Free of torch.

Control ids never come from text: whoever needs one puts its id into the list (see `prompts`).
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from typing import Protocol

from codellama.runtime.errors import CheckpointError
from codellama.runtime.families import ControlTokens, InfillTokens
from codellama.runtime.sentencepiece_model import SentencePieceFile, write_sentencepiece
from codellama.runtime.vocabulary import PATTERNS, PieceKind, Vocabulary, merges_of_ranks, piece_of_bytes

# tiktoken recurses over long runs: Llama 3's reference cuts text and runs at these lengths.
_MAX_TEXT = 400_000
_MAX_RUN = 25_000


class Tokenizer(Protocol):
    """What the runtime asks of a tokenizer; `infill` is None where there are no tokens for it.

    `pieces` holds the bytes that each id stands for, in the middle of a text; none for control ids.
    """

    vocab_size: int
    bos_id: int
    eos_id: int
    control: ControlTokens
    infill: InfillTokens | None
    pieces: Sequence[bytes]

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end any answer."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Every piece, as files of other formats hold them."""
        ...

    def fit(self, embedded: int, source: str) -> None:
        """Gives up control ids that the model does not embed; raises CheckpointError for ordinary ones."""
        ...

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


class _Base:
    """What both kinds share: their pieces, and their control ids by role."""

    def __init__(self, pieces: Sequence[bytes], control: ControlTokens, own: int) -> None:
        """`own` is the number of ids that no model can do without."""
        self.pieces = pieces
        self.vocab_size = max(len(pieces), max(control.ids, default=0) + 1)
        self._own = own
        self._set_control(control)

    def _set_control(self, control: ControlTokens) -> None:
        self.control = control
        self.bos_id, self.eos_id, self.infill = control.bos, control.eos, control.infill

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.control.ends

    def fit(self, embedded: int, source: str) -> None:
        """Gives up the control ids that a model of `embedded` embeddings does not have.

        Code Llama 34B and Python come with infill ids from 32000 on, behind their pieces, and 32000
        embeddings; Llama 3.2's vision models with an id for pictures, which text does not embed. Raises
        CheckpointError, naming `source`, where more than such ids are missing.
        """
        if self._own > embedded:
            raise CheckpointError(
                f"{source}: the tokenizer has {self._own} pieces and the model embeds {embedded}: they do "
                "not belong together, fetch the checkpoint again."
            )
        if self.vocab_size > embedded:
            names = {name: i for name, i in self.control.names.items() if i < embedded}
            infill = self.control.infill
            if infill and max(astuple(infill)) >= embedded:
                infill = None
            ends = frozenset(i for i in self.control.ends if i < embedded)
            self._set_control(replace(self.control, names=names, ends=ends, infill=infill))
            self.pieces = self.pieces[:embedded]
            self.vocab_size = embedded


class BytePairTokenizer(_Base):
    """Byte-level byte-pair encoding, as in Llama 3, Llama 4 and the pocket model.

    `split_and_merge` gives the ids of a text that holds no control pieces: tiktoken's or tokenizers' own.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        control: ControlTokens,
        split_and_merge: Callable[[str], list[int]],
        vocabulary: Callable[[], Vocabulary],
    ) -> None:
        ordinary = max((i for i, piece in enumerate(pieces) if piece), default=0)
        super().__init__(pieces, control, 1 + max(ordinary, *control.used))
        self._encode, self._vocabulary = split_and_merge, vocabulary

    def encode(self, text: str) -> list[int]:
        return [i for part in _short_parts(_valid(text)) for i in self._encode(part)]

    encode_continuation = encode

    def decode(self, ids: Sequence[int]) -> str:
        size = len(self.pieces)
        return b"".join(self.pieces[i] for i in ids if i < size).decode("utf-8", "replace")

    decode_continuation = decode

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary()


def tiktoken_tokenizer(ranks: dict[bytes, int], control: ControlTokens, pattern: str) -> BytePairTokenizer:
    """A tokenizer from tiktoken ranks, numbered from 0 without gaps; `pattern` is a name in PATTERNS."""
    import tiktoken

    encoding = tiktoken.Encoding(
        name=pattern, pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={}
    )
    by_rank = sorted(ranks, key=ranks.__getitem__)

    def vocabulary() -> Vocabulary:
        names = {i: name for name, i in control.names.items()}
        size = max(len(by_rank), *(i + 1 for i in names))
        pieces = [piece_of_bytes(piece) for piece in by_rank]
        pieces += [names.get(i, f"<|unused_{i}|>") for i in range(len(by_rank), size)]
        kinds = [PieceKind.NORMAL] * len(by_rank) + [PieceKind.CONTROL] * (size - len(by_rank))
        merges = ((piece_of_bytes(a), piece_of_bytes(b)) for a, b in merges_of_ranks(ranks))
        return Vocabulary("bytes", tuple(pieces), tuple(kinds), merges=tuple(merges), pattern=pattern)

    return BytePairTokenizer(by_rank, control, encoding.encode_ordinary, vocabulary)


class SentencePieceTokenizer(_Base):
    """SentencePiece byte-pair encoding, as in Llama 1, Llama 2 and Code Llama."""

    # Stands in front of a continuation so that SentencePiece's dummy space falls on it instead; it is a
    # piece of its own in every Llama vocabulary, as in the reference's encode_infilling.
    _ANCHOR = "☺"

    def __init__(self, model: SentencePieceFile, control: ControlTokens) -> None:
        """Control pieces of the file are marked as such, so that no text reaches them.

        Raises ValueError where the library does not take the model.
        """
        import sentencepiece

        marked = [
            (text, score, PieceKind.CONTROL if i in control.ids and kind != PieceKind.UNKNOWN else kind)
            for i, (text, score, kind) in enumerate(model.pieces)
        ]
        content = write_sentencepiece(SentencePieceFile(marked, model.rest))
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            raise ValueError(str(error)) from error
        super().__init__([_bytes(text, kind) for text, _, kind in marked], control, len(marked))
        self._marked = marked
        self._anchor: list[int] = self._model.encode(self._ANCHOR)
        self._anchor_text = len(self._model.decode(self._anchor))

    @property
    def vocabulary(self) -> Vocabulary:
        names = {i: name for name, i in self.control.names.items()}
        behind = [
            (names.get(i, f"<unused_{i}>"), i in names) for i in range(len(self._marked), self.vocab_size)
        ]
        marked = [
            *self._marked,
            *((text, 0.0, PieceKind.CONTROL if known else PieceKind.UNUSED) for text, known in behind),
        ]
        texts, scores, kinds = zip(*marked, strict=True)
        return Vocabulary("sentencepiece", texts, kinds, scores=scores)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.encode(_valid(text))
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        return self.encode(self._ANCHOR + text)[len(self._anchor) :]

    def decode(self, ids: Sequence[int]) -> str:
        size = len(self.pieces)
        text: str = self._model.decode([i for i in ids if i < size and self.pieces[i]])
        return text

    def decode_continuation(self, ids: Sequence[int]) -> str:
        return self.decode([*self._anchor, *ids])[self._anchor_text :]


def _bytes(piece: str, kind: PieceKind) -> bytes:
    if kind == PieceKind.BYTE:
        return bytes([int(piece[3:-1], 16)])  # <0x0A>
    return b"" if kind in (PieceKind.CONTROL, PieceKind.UNKNOWN) else piece.replace("▁", " ").encode()


def _valid(text: str) -> str:
    """The text with `?` for halves of surrogate pairs, which no encoder takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _short_parts(text: str) -> list[str]:
    """Cuts text where tiktoken would recurse too deep: long texts, long runs of one kind."""
    if len(text) <= _MAX_RUN:
        return [text]
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
