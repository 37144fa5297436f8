"""Writes a checkpoint's tokenizer into a Hugging Face folder. Free of torch at import.

Files that the source has are copied; from others (a GGUF file holds its tokenizer in its header) the same
pieces are written anew, both as the model's publisher does it (`tokenizer.model`) and as transformers reads
it (`tokenizer.json`).
"""

import base64
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.runtime.chat import read_template
from codellama.runtime.sentencepiece_model import SentencePieceFile, llama_specs, write_sentencepiece
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.vocabulary import PATTERNS, PieceKind, Vocabulary, bytes_of_piece
from codellama.runtime.weights.tensors import Checkpoint

if TYPE_CHECKING:
    import tokenizers

_SPECIAL = (PieceKind.CONTROL, PieceKind.UNKNOWN)
COPIED = (
    *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "chat_template.json"),
)


def write_tokenizer(checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes all that `load_tokenizer`, llama.cpp's converter and transformers need into `folder`."""
    for name in COPIED if checkpoint.path.is_dir() else ():
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)
    template, _ = read_template(checkpoint.path)
    if template and not checkpoint.path.is_dir():
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    vocabulary = tokenizer.vocabulary
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        (folder / "tokenizer.model").write_bytes(_model_file(tokenizer, vocabulary))
    if not (folder / "tokenizer.json").is_file():
        _save_for_transformers(tokenizer, vocabulary, folder / "tokenizer.json")
    if not (folder / "tokenizer_config.json").is_file():
        text = json.dumps(_configuration(tokenizer, vocabulary), ensure_ascii=False, indent=2)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _model_file(tokenizer: Tokenizer, vocabulary: Vocabulary) -> bytes:
    """A `tokenizer.model`: SentencePiece's protocol buffer, or tiktoken's lines of ranks."""
    if vocabulary.kind == "sentencepiece":
        pieces = list(zip(vocabulary.pieces, vocabulary.scores, vocabulary.kinds, strict=True))
        unknown = vocabulary.kinds.index(PieceKind.UNKNOWN)
        rest = llama_specs(len(pieces), tokenizer.bos_id, tokenizer.eos_id, unknown, dummy_space=True)
        return write_sentencepiece(SentencePieceFile(pieces, rest))
    ordinary = (
        (i, piece) for i, piece in enumerate(vocabulary.pieces) if vocabulary.kinds[i] == PieceKind.NORMAL
    )
    lines = (f"{base64.b64encode(bytes_of_piece(piece)).decode()} {i}\n" for i, piece in ordinary)
    return "".join(lines).encode()


def _save_for_transformers(tokenizer: Tokenizer, vocabulary: Vocabulary, file: Path) -> None:
    """Writes a `tokenizer.json` through the tokenizers library; it puts BOS in front, as models expect."""
    import tokenizers
    from tokenizers import processors

    written = _sentencepiece(vocabulary) if vocabulary.kind == "sentencepiece" else _byte_level(vocabulary)
    # Those that no piece of the model is are added in the order of their ids, which follow its pieces.
    control = (vocabulary.pieces[i] for i, kind in enumerate(vocabulary.kinds) if kind in _SPECIAL)
    written.add_special_tokens(
        [tokenizers.AddedToken(text, special=True, normalized=False) for text in control]
    )
    bos = vocabulary.pieces[tokenizer.bos_id]
    written.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
    )
    written.save(str(file))


def _byte_level(vocabulary: Vocabulary) -> "tokenizers.Tokenizer":
    import tokenizers
    from tokenizers import decoders, pre_tokenizers
    from tokenizers.models import BPE

    pieces = {p: i for i, p in enumerate(vocabulary.pieces) if vocabulary.kinds[i] not in _SPECIAL}
    written = tokenizers.Tokenizer(BPE(pieces, list(vocabulary.merges), ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[vocabulary.pattern]), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    written.decoder = decoders.ByteLevel()
    return written


def _sentencepiece(vocabulary: Vocabulary) -> "tokenizers.Tokenizer":
    import tokenizers
    from tokenizers import decoders, normalizers
    from tokenizers.models import BPE

    pieces = {piece: i for i, piece in enumerate(vocabulary.pieces)}
    unknown = vocabulary.pieces[vocabulary.kinds.index(PieceKind.UNKNOWN)]
    model = BPE(pieces, _merges_of_scores(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    written = tokenizers.Tokenizer(model)
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    written.normalizer = normalizers.Sequence(spaces)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
    written.decoder = decoders.Sequence(steps)
    return written


def _merges_of_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece merges whatever pair makes the piece of the highest score; here pairs have an order."""
    ordinary = {p: i for i, p in enumerate(vocabulary.pieces) if vocabulary.kinds[i] == PieceKind.NORMAL}
    by_score = sorted(ordinary, key=lambda piece: -vocabulary.scores[ordinary[piece]])
    return [
        (piece[:n], piece[n:])
        for piece in by_score
        for n in range(1, len(piece))
        if piece[:n] in ordinary and piece[n:] in ordinary
    ]


def _configuration(tokenizer: Tokenizer, vocabulary: Vocabulary) -> dict[str, object]:
    """The `tokenizer_config.json` by which transformers picks its class."""
    named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    if PieceKind.UNKNOWN in vocabulary.kinds:
        named["unk_token"] = vocabulary.kinds.index(PieceKind.UNKNOWN)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # which takes tokenizer.json as it stands
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **{role: vocabulary.pieces[i] for role, i in named.items()},
    }
