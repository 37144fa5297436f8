"""Tiny seeded checkpoints in Hugging Face's format, written by transformers and tiktoken's format."""

import base64
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
