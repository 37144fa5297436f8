"""From pieces, and what is known about them, to a tokenizer. Free of torch.

Where the pieces come from is `tokenizer_files`' affair. Added pieces become control pieces: they never come
from text, though Hugging Face would find them there.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codellama.runtime import families
from codellama.runtime.families import CODE_LLAMA_NAMES, ControlTokens, InfillTokens, control_tokens
from codellama.runtime.sentencepiece_model import SentencePieceFile
from codellama.runtime.tokenizer import BytePairTokenizer, SentencePieceTokenizer, tiktoken_tokenizer
from codellama.runtime.vocabulary import PATTERNS, PieceKind, Vocabulary, bytes_of_piece


@dataclass(frozen=True, slots=True)
class Notes:
    """What the files beside the pieces say.

    `added` gives by text the id of each added piece, and whether it controls the model or is text.
    """

    added: Mapping[str, tuple[int, bool]] = field(default_factory=dict)
    bos: int | None = None
    eos: int | None = None
    ends: tuple[int, ...] = ()
    infill: InfillTokens | None = None
    embedded: int | None = None


def from_ranks(ranks: dict[bytes, int], notes: Notes) -> BytePairTokenizer:
    """The tokenizer of tiktoken ranks, numbered from 0 without gaps."""
    names = {name: i for name, (i, _) in notes.added.items() if i >= len(ranks)}
    if control_tokens(names) is None:
        names = families.specials_of_ranks(len(ranks)) | names
    pattern = "llama4" if len(ranks) == families.LLAMA4_RANKS else "llama-bpe"
    return tiktoken_tokenizer(ranks, control_of(names, notes), pattern)


def from_sentencepiece(
    pieces: Sequence[tuple[str, float, PieceKind]], rest: bytes, notes: Notes
) -> SentencePieceTokenizer:
    """The tokenizer of these pieces and of those that were added behind them."""
    known = {text: i for i, (text, _, _) in enumerate(pieces)}
    names = {text: i for text, i in known.items() if _is_control(text, pieces[i][2])}
    names |= {text: i for text, (i, control) in notes.added.items() if control and known.get(text, i) == i}
    return SentencePieceTokenizer(SentencePieceFile(list(pieces), rest), control_of(names, notes))


def _is_control(text: str, kind: PieceKind) -> bool:
    return kind in (PieceKind.CONTROL, PieceKind.UNKNOWN) or text in CODE_LLAMA_NAMES


def control_of(names: Mapping[str, int], notes: Notes) -> ControlTokens:
    """What the control pieces `names` are for; raises ValueError where none begins or ends a text."""
    # transformers writes its default ids (2) into configurations whose tokenizer has a byte there.
    ends = [i for i in notes.ends if i in names.values()]
    control = control_tokens(names, bos=notes.bos, eos=notes.eos, ends=ends, infill=notes.infill)
    if control is None:
        raise ValueError("no piece of it begins or ends a text")
    return control


def from_merges(
    vocabulary: Mapping[str, int],
    merges: Iterable[tuple[str, ...]],
    data: dict[str, Any],
    notes: Notes,
) -> BytePairTokenizer:
    """Byte-pair encoding by a list of merges, as the tokenizers library does it."""
    import tokenizers
    from tokenizers.models import BPE

    pairs = tuple((left, right) for left, right in merges)
    rules = {key: data.get(key) for key in ("normalizer", "pre_tokenizer")}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": empty, **rules}))
        whole = bool(data["model"].get("ignore_merges"))
        library.model = BPE(dict(vocabulary), list(pairs), ignore_merges=whole)
    except Exception as error:  # the library raises this very class, and none more precise
        raise ValueError(str(error)) from error
    control = control_of({text: i for text, (i, special) in notes.added.items() if special}, notes)
    size = max([*vocabulary.values(), *control.ids, *(i for i, _ in notes.added.values())]) + 1
    texts, kinds = [f"<|unused_{i}|>" for i in range(size)], [PieceKind.UNUSED] * size
    pieces = [b""] * size
    for text, i in vocabulary.items():
        texts[i], kinds[i], pieces[i] = text, PieceKind.NORMAL, bytes_of_piece(text)
    for text, (i, special) in notes.added.items():
        texts[i], kinds[i] = text, PieceKind.CONTROL if special else PieceKind.UNUSED
        pieces[i] = b"" if special else text.encode()
    found = Vocabulary("bytes", tuple(texts), tuple(kinds), merges=pairs, pattern=_pattern_name(data))

    def encode(text: str) -> list[int]:
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    return BytePairTokenizer(pieces, control, encode, lambda: found)


def _pattern_name(data: dict[str, Any]) -> str:
    """The split pattern's name in PATTERNS; "" for one that no Llama has."""
    for part in steps_of(data.get("pre_tokenizer")):
        pattern = (part.get("pattern") or {}).get("Regex")
        for name, known in PATTERNS.items():
            if pattern == known:
                return name
    return ""


def steps_of(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a tokenizer.json's normalizer or pre-tokenizer, which may be one or a sequence."""
    if part is None:
        return []
    inner: list[dict[str, Any]] = part.get("normalizers") or part.get("pretokenizers") or [part]
    return inner
