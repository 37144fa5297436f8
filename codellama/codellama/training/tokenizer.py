"""Trains the pocket model's byte-level BPE and writes it as tiktoken ranks.

The split pattern is Llama 3's, so that the runtime, tiktoken and llama.cpp (as `llama-bpe`) cut text
alike. A line of the file is the piece in base64 and its rank.
"""

import base64
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from codellama.runtime.vocabulary import LLAMA3_PATTERN, bytes_of_piece


def train_ranks(texts: Iterable[str], pieces: int) -> dict[bytes, int]:
    """`pieces` byte sequences by rank: the 256 bytes first, then merges in the order learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(texts, trainer)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = [bytes_of_piece(piece) for piece, _ in by_id]
    ordered = [bytes([b]) for b in range(256)] + [piece for piece in merges if len(piece) > 1]
    return {piece: rank for rank, piece in enumerate(ordered)}


def write_ranks(ranks: dict[bytes, int], path: Path) -> None:
    """Writes the tiktoken file format, one `base64 rank` line a piece."""
    lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in ranks.items())
    path.write_text("".join(lines), encoding="ascii")
