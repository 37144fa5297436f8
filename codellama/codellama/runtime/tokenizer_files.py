"""From a checkpoint's files to its tokenizer. Free of torch.

The pieces come from `tokenizer.model` (SentencePiece or tiktoken ranks), from Hugging Face's
`tokenizer.json` (byte-pair encoding over SentencePiece's pieces or over bytes), or from a GGUF file's
header. What they are for comes from the files beside them, and from `families` where those say nothing.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codellama.runtime.errors import CheckpointError
from codellama.runtime.families import CODE_LLAMA_END, LLAMA3_RANKS, LLAMA4_RANKS, LLAMA_SPACES, InfillTokens
from codellama.runtime.sentencepiece_model import llama_specs, read_sentencepiece
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_pieces import (
    Notes,
    control_of,
    from_merges,
    from_ranks,
    from_sentencepiece,
    steps_of,
)
from codellama.runtime.vocabulary import PATTERNS, PieceKind
from codellama.runtime.weights.gguf import read_header

_AGAIN = "fetch the checkpoint again."
_LAST = -1e9  # the score of runs of spaces in every Llama's SentencePiece model


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a `tokenizer.model`, a `tokenizer.json`, a `.gguf` file, or what a model folder holds of them.

    Raises CheckpointError where there is none or it is damaged.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    notes = _notes(path) if path.is_dir() else Notes()
    file = path
    if path.is_dir():
        places = [path / "tokenizer.model", path / "tokenizer.json"]
        if (path / "params.json").is_file():  # Meta hands out one for all sizes of Llama 1 and 2
            places.append(path.parent / "tokenizer.model")
        file = next((place for place in places if place.is_file()), path)
    try:
        content = file.read_bytes()
        if file.name == "tokenizer.model" and _is_bare(content) and (path / "tokenizer.json").is_file():
            file = path / "tokenizer.json"
            content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"There is no tokenizer at {path}: a model folder needs its tokenizer.model or tokenizer.json."
        ) from error
    try:
        tokenizer = _from_content(content, notes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is neither a SentencePiece model nor tiktoken ranks nor a tokenizer.json of a Llama, or "
            f"is damaged ({error}): {_AGAIN}"
        ) from error
    if notes.embedded is not None:
        tokenizer.fit(notes.embedded, str(path))
    return tokenizer


def _is_bare(content: bytes) -> bool:
    """Whether these are tiktoken ranks of no family that is known, which leaves their control ids open."""
    return not content.startswith(b"\n") and content.count(b"\n") not in (LLAMA3_RANKS, LLAMA4_RANKS)


def _from_content(content: bytes, notes: Notes) -> Tokenizer:
    if content.startswith(b"\n"):  # a SentencePiece model is a protocol buffer whose first field is 1
        model = read_sentencepiece(content)
        return from_sentencepiece(model.pieces, model.rest, notes)
    if content.lstrip().startswith(b"{"):
        return _from_json(json.loads(content), notes)
    return _from_ranks(content, notes)


def _from_ranks(content: bytes, notes: Notes) -> Tokenizer:
    ranks: dict[bytes, int] = {}
    for line in content.splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece, validate=True)] = int(rank)
    if len(ranks) < 256 or set(ranks.values()) != set(range(len(ranks))):
        raise ValueError("ranks are missing")
    return from_ranks(ranks, notes)


def _from_json(data: dict[str, Any], notes: Notes) -> Tokenizer:
    """Hugging Face's format; its added tokens become control pieces, which it would find in text."""
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"it is a {model['type']}, not byte-pair encoding")
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    added = {t["content"]: (int(t["id"]), bool(t.get("special"))) for t in data.get("added_tokens", ())}
    notes = replace(notes, added={**notes.added, **added})
    if not model.get("byte_fallback"):
        return from_merges(vocabulary, merges, data, notes)
    scores = {left + right: -float(n) for n, (left, right) in reversed(list(enumerate(merges)))}
    if vocabulary.get("▁▁") == LLAMA_SPACES:
        # transformers 5 orders the merges by id, which turns " x" into two spaces and "x".
        scores |= {text: _LAST for text in scores if not text.strip("▁")}
    pieces = [
        (text, scores.get(text, _LAST), _kind(text, text in scores, notes)) for text in _by_id(vocabulary)
    ]
    unk = vocabulary.get(model.get("unk_token") or "<unk>", 0)
    control = control_of({text: i for text, (i, _) in notes.added.items()}, notes)
    rest = llama_specs(len(pieces), control.bos, control.eos, unk, dummy_space=_dummy_space(data))
    return from_sentencepiece(pieces, rest, notes)


def _kind(text: str, merged: bool, notes: Notes) -> PieceKind:
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
        for part in steps_of(data.get(key))
    )


def _by_id(vocabulary: Mapping[str, int]) -> list[str]:
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[text] for text in texts] != list(range(len(texts))):
        raise ValueError("its ids have gaps")
    return texts


def _from_gguf(file: Path) -> Tokenizer:
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
    notes = Notes(
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
        return from_sentencepiece(pieces, rest, notes)
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
    return from_merges(ordinary, merges, rules, notes)


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


def _notes(folder: Path) -> Notes:
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
    return Notes(
        added=added,
        bos=ids.get(_content(configuration.get("bos_token"))),
        eos=ids.get(_content(configuration.get("eos_token"))),
        ends=tuple(ends),
        embedded=embedded if isinstance(embedded, int) else None,
    )


def _content(token: object) -> str:
    """The text of a token in tokenizer_config.json, which is bare or in an object."""
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): {_AGAIN}") from error
    return data if isinstance(data, dict) else {}
