"""Tokenizer files in every format, written by transformers, tokenizers and gguf."""

import json
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from gguf import GGUFWriter
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter, generate_merges

from codellama.runtime import load_tokenizer
from codellama.runtime.tokenizer import Tokenizer as OurTokenizer

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_NAMES = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eom_id|>": 8,
    "<|eot_id|>": 9,
}
LLAMA4_NAMES = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|header_start|>": 5,
    "<|header_end|>": 6,
    "<|eom|>": 7,
    "<|eot|>": 8,
}
APPENDED = ["<SU", "<SUF", "<PRE", "<M", "<MID", "<E", "<EOT", "<PRE>", "<SUF>", "<MID>"] + [
    "<EOT>" * n for n in range(1, 7)
]


@cache
def loaded(path: Path) -> OurTokenizer:
    """A tokenizer that several tests share: 128,000 pieces take a second to load."""
    return load_tokenizer(path)


def write_code_llama(llama2: Path, file: Path) -> Path:
    """Llama 2's pieces and the 16 of Code Llama, appended to the protocol buffer as bytes."""
    content = llama2.read_bytes()
    for n, piece in enumerate(APPENDED):
        text = f"▁{piece}".encode()
        message = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -31741.0 - n)
        content += b"\x0a" + bytes([len(message)]) + message
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def _pieces(model: Path) -> tuple[dict[str, int], dict[str, float]]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = range(processor.vocab_size())
    texts = {processor.id_to_piece(i): i for i in ids}
    return texts, {text: processor.get_score(i) for text, i in texts.items()}


def export_llama(model: Path, folder: Path) -> Path:
    """A SentencePiece model as transformers 5 exports it: Metaspace, and merges in the order of ids."""
    texts, _ = _pieces(model)
    LlamaTokenizer(vocab=texts, merges=generate_merges(texts)).save_pretrained(folder)
    return folder / "tokenizer.json"


def export_llama_2023(model: Path, file: Path, control: Sequence[str] = ("<unk>", "<s>", "</s>")) -> Path:
    """The same as the published checkpoints hold it: a normalizer, and merges in the order of scores."""
    texts, scores = _pieces(model)
    merges = generate_merges(texts, scores, skip_tokens=["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(models.BPE(texts, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file))
    return file


def export_tiktoken(model: Path, file: Path, specials: Sequence[str]) -> Path:
    """tiktoken ranks as transformers exports them."""
    TikTokenConverter(str(model), extra_special_tokens=list(specials)).converted().save(str(file))
    return file


def byte_level_gguf(
    tokenizer_json: Path,
    file: Path,
    pre: str = "llama-bpe",
    template: str | None = None,
    keys: dict[str, int] | None = None,
) -> Path:
    """The vocabulary of a byte-level tokenizer.json in a GGUF file without tensors."""
    data = json.loads(tokenizer_json.read_text())
    texts = data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}
    added = {token["content"] for token in data["added_tokens"]}
    ordered = sorted(texts, key=texts.__getitem__)
    writer = GGUFWriter(file, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(ordered)
    writer.add_token_types([3 if text in added else 1 for text in ordered])
    writer.add_token_merges([" ".join(merge) for merge in data["model"]["merges"]])
    writer.add_bos_token_id(texts["<|begin_of_text|>"])
    writer.add_eos_token_id(texts["<|end_of_text|>"])
    for key, value in (keys or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{key}", value)
    if template is not None:
        writer.add_chat_template(template)
    return _written(writer, file)


def spm_gguf(model: Path, file: Path, keys: dict[str, int], limit: int | None = None) -> Path:
    """A SentencePiece vocabulary in a GGUF file without tensors; `keys` are written under tokenizer.ggml."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = range(limit or processor.vocab_size())
    kinds = [2 if i == 0 else 3 if i < 3 else 6 if processor.is_byte(i) else 1 for i in ids]
    writer = GGUFWriter(file, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(i) for i in ids])
    writer.add_token_scores([processor.get_score(i) for i in ids])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in keys.items():
        writer.add_uint32(f"tokenizer.ggml.{key}", value)
    return _written(writer, file)


def _written(writer: GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def tiny_byte_level(file: Path, names: dict[str, int], merges: Sequence[tuple[str, str]] = ()) -> int:
    """A tokenizer.json of the 256 bytes, a few merges and control pieces; the number of its ids."""
    vocabulary = {text: i for i, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    split: Any = pre_tokenizers.Split(pattern=_regex(), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(sorted(names, key=names.__getitem__))
    tokenizer.save(str(file))
    return int(tokenizer.get_vocab_size())


def _regex() -> Any:
    from tokenizers import Regex

    return Regex(LLAMA3_PATTERN)


def write_llama3_chat(folder: Path, positions: int = 4096) -> None:
    """A tiny random checkpoint in Hugging Face's format that chats as Llama 3 does."""
    folder.mkdir(parents=True, exist_ok=True)
    size = tiny_byte_level(folder / "tokenizer.json", LLAMA3_NAMES, [("a", "b"), ("Ċ", "Ċ")])
    template = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>...{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)
