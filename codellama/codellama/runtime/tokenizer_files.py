"""From a checkpoint's files to its tokenizer. Free of torch.

The pieces come from `tokenizer.model` (SentencePiece or tiktoken ranks), from Hugging Face's
`tokenizer.json` (byte-pair encoding over SentencePiece's pieces or over bytes), or from a GGUF file's
header. What they are for comes from the files beside them, and from `families` where those say nothing.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codellama.runtime import families
from codellama.runtime.errors import CheckpointError
from codellama.runtime.families import (
    CODE_LLAMA_END,
    CODE_LLAMA_NAMES,
    ControlTokens,
    InfillTokens,
    control_tokens,
)
from codellama.runtime.sentencepiece_model import SentencePieceFile, llama_specs, read_sentencepiece
from codellama.runtime.tokenizer import (
    BytePairTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    tiktoken_tokenizer,
)
from codellama.runtime.vocabulary import PATTERNS, PieceKind, Vocabulary, bytes_of_piece

_AGAIN = "fetch the checkpoint again."
_LAST = -1e9  # the score of runs of spaces in every Llama's SentencePiece model


@dataclass(frozen=True, slots=True)
class _Notes:
    """What the files beside the pieces say: added pieces by text (False: they have one), and roles."""

    added: Mapping[str, tuple[int, bool]] = field(default_factory=dict)
    bos: int | None = None
    eos: int | None = None
    ends: tuple[int, ...] = ()
    infill: InfillTokens | None = None
    embedded: int | None = None


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a `tokenizer.model`, a `tokenizer.json`, a `.gguf` file, or what a model folder holds of them.

    Raises CheckpointError where there is none or it is damaged.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    notes = _notes(path) if path.is_dir() else _Notes()
    file = path
    if path.is_dir():
        file = next((f for f in (path / "tokenizer.model", path / "tokenizer.json") if f.is_file()), path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"There is no tokenizer at {path}: a model folder needs its tokenizer.model or tokenizer.json."
        ) from error
    try:
        tokenizer = _from_content(content, file, notes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is neither a SentencePiece model nor tiktoken ranks nor a tokenizer.json of a Llama, or "
            f"is damaged ({error}): {_AGAIN}"
        ) from error
    if notes.embedded is not None:
        tokenizer.fit(notes.embedded, str(path))
    return tokenizer


def _from_content(content: bytes, file: Path, notes: _Notes) -> Tokenizer:
    if content.startswith(b"\n"):  # a SentencePiece model is a protocol buffer whose first field is 1
        model = read_sentencepiece(content)
        return _sentencepiece(model.pieces, model.rest, notes)
    if content.lstrip().startswith(b"{"):
        return _from_json(json.loads(content), notes)
    return _from_ranks(content, notes)


def _from_ranks(content: bytes, notes: _Notes) -> Tokenizer:
    ranks: dict[bytes, int] = {}
    for line in content.splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece, validate=True)] = int(rank)
    if len(ranks) < 256 or set(ranks.values()) != set(range(len(ranks))):
        raise ValueError("ranks are missing")
    names = {name: i for name, (i, _) in notes.added.items() if i >= len(ranks)}
    if control_tokens(names) is None:
        names = families.specials_of_ranks(len(ranks)) | names
    pattern = "llama4" if len(ranks) == families.LLAMA4_RANKS else "llama-bpe"
    return tiktoken_tokenizer(ranks, _control(names, notes), pattern)


def _sentencepiece(
    pieces: Sequence[tuple[str, float, PieceKind]], rest: bytes, notes: _Notes
) -> SentencePieceTokenizer:
    """The tokenizer of these pieces and of those that were added behind them."""
    known = {text: i for i, (text, _, _) in enumerate(pieces)}
    names = {text: i for text, i in known.items() if _is_control(text, pieces[i][2])}
    names |= {text: i for text, (i, control) in notes.added.items() if control and known.get(text, i) == i}
    return SentencePieceTokenizer(SentencePieceFile(list(pieces), rest), _control(names, notes))


def _is_control(text: str, kind: PieceKind) -> bool:
    return kind in (PieceKind.CONTROL, PieceKind.UNKNOWN) or text in CODE_LLAMA_NAMES


def _control(names: Mapping[str, int], notes: _Notes) -> ControlTokens:
    # transformers writes its default ids (2) into configurations whose tokenizer has a byte there.
    ends = [i for i in notes.ends if i in names.values()]
    control = control_tokens(names, bos=notes.bos, eos=notes.eos, ends=ends, infill=notes.infill)
    if control is None:
        raise ValueError("no piece of it begins or ends a text")
    return control


def _from_json(data: dict[str, Any], notes: _Notes) -> Tokenizer:
    """Hugging Face's format; its added tokens become control pieces, which it would find in text."""
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"it is a {model['type']}, not byte-pair encoding")
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    added = {t["content"]: (int(t["id"]), bool(t.get("special"))) for t in data.get("added_tokens", ())}
    notes = _with_added(notes, added)
    if not model.get("byte_fallback"):
        return _byte_level(vocabulary, merges, data, notes)
    scores = {left + right: -float(n) for n, (left, right) in reversed(list(enumerate(merges)))}
    if vocabulary.get("▁▁") == families.LLAMA_SPACES:
        # transformers 5 orders the merges by id, which turns " x" into two spaces and "x".
        scores |= {text: _LAST for text in scores if not text.strip("▁")}
    pieces = [
        (text, scores.get(text, _LAST), _kind(text, text in scores, notes)) for text in _by_id(vocabulary)
    ]
    unk = vocabulary.get(model.get("unk_token") or "<unk>", 0)
    control = _control({text: i for text, (i, _) in notes.added.items()}, notes)
    rest = llama_specs(len(pieces), control.bos, control.eos, unk, dummy_space=_dummy_space(data))
    return _sentencepiece(pieces, rest, notes)


def _kind(text: str, merged: bool, notes: _Notes) -> PieceKind:
    """What a piece of a tokenizer.json is, which does not say it."""
    if text == "<unk>":
        return PieceKind.UNKNOWN
    if len(text) == 6 and text.startswith("<0x"):
        return PieceKind.BYTE
    if text in notes.added:
        return PieceKind.CONTROL if notes.added[text][1] else PieceKind.UNUSED
    return PieceKind.NORMAL if merged or len(text) == 1 else PieceKind.UNUSED


def _dummy_space(data: dict[str, Any]) -> bool:
    """Whether a space is put in front of a text, by either of the two ways to say so."""
    return any(
        part.get("type") == "Prepend" or part.get("prepend_scheme", "never") != "never"
        for key in ("normalizer", "pre_tokenizer")
        for part in _sequence(data.get(key))
    )


def _sequence(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    inner: list[dict[str, Any]] = part.get("normalizers") or part.get("pretokenizers") or [part]
    return inner


def _byte_level(
    vocabulary: Mapping[str, int],
    merges: Iterable[tuple[str, ...]],
    data: dict[str, Any],
    notes: _Notes,
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
    control = _control({text: i for text, (i, special) in notes.added.items() if special}, notes)
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
    for part in _sequence(data.get("pre_tokenizer")):
        pattern = (part.get("pattern") or {}).get("Regex")
        for name, known in PATTERNS.items():
            if pattern == known:
                return name
    return ""


def _by_id(vocabulary: Mapping[str, int]) -> list[str]:
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[text] for text in texts] != list(range(len(texts))):
        raise ValueError("its ids have gaps")
    return texts


def _from_gguf(file: Path) -> Tokenizer:
    from codellama.runtime.weights.gguf import read_header

    data = read_header(file).metadata
    try:
        return _from_metadata(data)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{file} holds no tokenizer of a Llama ({error}): {_AGAIN}") from error


def _from_metadata(data: Mapping[str, Any]) -> Tokenizer:
    head = "tokenizer.ggml."
    texts: list[str] = data[head + "tokens"]
    kinds = [PieceKind(kind) for kind in data.get(head + "token_type", [1] * len(texts))]
    if len(kinds) != len(texts):
        raise ValueError("it has pieces without a type")
    special = (PieceKind.CONTROL, PieceKind.USER_DEFINED)
    notes = _Notes(
        added={
            t: (i, k == special[0]) for i, (t, k) in enumerate(zip(texts, kinds, strict=True)) if k in special
        },
        bos=data.get(head + "bos_token_id"),
        eos=data.get(head + "eos_token_id"),
        ends=tuple(data[key] for key in (head + "eot_token_id", head + "eom_token_id") if key in data),
        infill=_infill_of(data, len(texts)),
    )
    model = data[head + "model"]
    if model == "llama":
        scores = data[head + "scores"]
        kinds = [PieceKind.UNUSED if kind == PieceKind.USER_DEFINED else kind for kind in kinds]
        pieces = list(zip(texts, map(float, scores), kinds, strict=True))
        unk = data.get(head + "unknown_token_id", 0)
        dummy = bool(data.get(head + "add_space_prefix", True))
        rest = llama_specs(
            len(pieces), data[head + "bos_token_id"], data[head + "eos_token_id"], unk, dummy_space=dummy
        )
        return _sentencepiece(pieces, rest, notes)
    if model != "gpt2":
        raise ValueError(f"its kind is {model!r}, not 'llama' or 'gpt2'")
    pattern = PATTERNS.get(data.get(head + "pre", "llama-bpe"))
    if pattern is None:
        raise ValueError(f"its text is split as {data[head + 'pre']!r} does, which no Llama does")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    rules = {
        "model": {"ignore_merges": True},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
    }
    ordinary = {t: i for i, t in enumerate(texts) if kinds[i] == PieceKind.NORMAL}
    merges = (tuple(merge.split(" ")) for merge in data[head + "merges"])
    return _byte_level(ordinary, merges, rules, notes)


def _infill_of(data: Mapping[str, Any], size: int) -> InfillTokens | None:
    """The infill ids under their new keys or their old ones; None where the file has neither."""
    head = "tokenizer.ggml."
    roles = (("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle"))
    ids = [data.get(f"{head}{new}_token_id", data.get(f"{head}{old}_token_id")) for new, old in roles]
    if any(not isinstance(i, int) or i >= size for i in ids):
        return None
    if CODE_LLAMA_END in data[head + "tokens"]:
        end = data[head + "tokens"].index(CODE_LLAMA_END)
    else:
        end = data.get(head + "eot_token_id", data[head + "eos_token_id"])
    return InfillTokens(ids[0], ids[1], ids[2], end)


def _notes(folder: Path) -> _Notes:
    """What a folder's other files say about its pieces."""
    configuration = _json(folder / "tokenizer_config.json")
    added = {text: (int(i), True) for text, i in _json(folder / "added_tokens.json").items()}
    for i, token in (configuration.get("added_tokens_decoder") or {}).items():
        added[token["content"]] = (int(i), bool(token.get("special")))
    model = _json(folder / "config.json")
    ends: list[int] = []
    for source in (model, model.get("text_config") or {}, _json(folder / "generation_config.json")):
        value = source.get("eos_token_id")
        ends += [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)]
    embedded = model.get("vocab_size", (model.get("text_config") or {}).get("vocab_size"))
    ids = {text: i for text, (i, _) in added.items()}
    return _Notes(
        added=added,
        bos=ids.get(_content(configuration.get("bos_token"))),
        eos=ids.get(_content(configuration.get("eos_token"))),
        ends=tuple(ends),
        embedded=embedded if isinstance(embedded, int) else None,
    )


def _content(token: object) -> str:
    """The text of a token in tokenizer_config.json, which is bare or in an object."""
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _with_added(notes: _Notes, added: Mapping[str, tuple[int, bool]]) -> _Notes:
    return _Notes({**notes.added, **added}, notes.bos, notes.eos, notes.ends, notes.infill, notes.embedded)


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): {_AGAIN}") from error
    return data if isinstance(data, dict) else {}
