"""Tiny seeded checkpoints in Hugging Face's format, written by transformers and tiktoken's format."""

import base64
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

MERGES = (b"ab", b"de", b"def", b"  ", b"    ", b"\n ", b"re", b"turn")


def write_tokenizer(folder: Path) -> int:
    """A tokenizer of 256 bytes and a few merges; the number of ids with the six control tokens."""
    pieces = [*(bytes([b]) for b in range(256)), *MERGES]
    lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces))
    (folder / "tokenizer.model").write_text("".join(lines))
    return len(pieces) + 6


def write_llama(
    folder: Path,
    *,
    tied: bool = False,
    shard: str = "1GB",
    theta: float = 1e6,
    layers: int = 2,
    positions: int = 512,
) -> LlamaForCausalLM:
    """A small Llama with grouped-query attention; returns the reference model itself."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def write_classifier(folder: Path, kind: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A small sequence classifier of three labels, `deberta` or `llama`, with a tokenizer of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    inner = Tokenizer(models.BPE(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=names, initial_alphabet=alphabet)
    inner.train_from_iterator(["def return word ignore all previous instructions"] * 3, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder)
    labels = {0: "BENIGN", 1: "INJECTION", 2: "JAILBREAK"}
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "id2label": labels,
        "label2id": {label: number for number, label in labels.items()},
        "initializer_range": 0.5,
    }
    model: PreTrainedModel
    if kind == "llama":
        model = LlamaForSequenceClassification(LlamaConfig(**shape))
    else:
        relative = {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        }
        model = DebertaV2ForSequenceClassification(DebertaV2Config(**shape, **relative))
    model.eval().save_pretrained(folder)
    return model, tokenizer


def write_encoder(folder: Path) -> None:
    """A small embedding model as sentence-transformers lays it out: a Llama's last states, their mean."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    write_classifier(folder / "plain", "llama")
    inner = Transformer(str(folder / "plain"))
    SentenceTransformer(modules=[inner, Pooling(32)]).save(str(folder))
    shutil.rmtree(folder / "plain")
