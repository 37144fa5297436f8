"""GGUF files whose headers claim too much or contradict themselves, Llama 4's too."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_files_support import EXPERTS, HF, refused
from family_support import write_family
from formats_support import (
    copy,
    make_llama,
    write_gguf,
)


def patch(path: Path, after: bytes, skip: int, content: bytes) -> Path:
    """Overwrites bytes `skip` behind the first place where `after` ends."""
    raw = bytearray(path.read_bytes())
    place = (raw.index(after) + len(after) if after else 0) + skip
    raw[place : place + len(content)] = content
    path.write_bytes(raw)
    return path


TENSOR = b"blk.1.attn_q.weight"  # then: dimensions u32, two sizes u64, type u32, offset u64
TOKENS = b"tokenizer.ggml.tokens"  # then: type u32 (9), items u32 (8), count u64, length u64, text


@pytest.mark.parametrize(
    ("after", "skip", "content", "word"),
    [
        (b"", 0, b"GGML", "GGUF"),
        (b"", 4, struct.pack("<I", 1), "version"),
        (b"", 4, struct.pack(">I", 3), "version"),
        (b"", 8, struct.pack("<Q", 2**63), "tensors"),
        (b"", 8, struct.pack("<Q", 60000), "tensors"),
        (b"", 16, struct.pack("<Q", 2**64 - 1), "entries"),
        (b"", 16, struct.pack("<Q", 30), ""),
        (b"", 24, struct.pack("<Q", 2**62), "ends inside"),
        (TOKENS, 0, struct.pack("<I", 77), "type 77"),
        (TOKENS, 4, struct.pack("<I", 9), "type 9"),
        (TOKENS, 8, struct.pack("<Q", 2**61), "texts"),
        (TOKENS, 8, struct.pack("<Q", 100000), "texts"),
        (TOKENS, 16, struct.pack("<Q", 2**61), "ends inside"),
        (b"tokenizer.ggml.scores", 8, struct.pack("<Q", 2**62), "array"),
        (TENSOR, 0, struct.pack("<I", 2**31), "dimensions"),
        (TENSOR, 0, struct.pack("<I", 0), "dimensions"),
        (TENSOR, 4, struct.pack("<Q", 2**63), "shape"),
        (TENSOR, 4, struct.pack("<QQ", 2**40, 2**40), "ends before"),
        (TENSOR, 4, struct.pack("<QQ", 0, 64), "shape"),
        (TENSOR, 4, struct.pack("<QQ", 32, 64), "(64, 32)"),
        (TENSOR, 20, struct.pack("<I", 999), "type 999"),
        (TENSOR, 20, struct.pack("<I", 16), "IQ2_XXS"),
        (TENSOR, 24, struct.pack("<Q", 2**63), "ends before"),
        (TENSOR, 24, struct.pack("<Q", 2**40), "ends before"),
        (TENSOR, 24, struct.pack("<Q", 0), "overlap"),
        (TENSOR, 24, struct.pack("<Q", 1), "align"),
    ],
)
def test_absurd_gguf(bad: Callable[[str], Path], after: bytes, skip: int, content: bytes, word: str) -> None:
    """Every count, size and offset of a header, set to what cannot be."""
    path = patch(bad("gguf"), after, skip, content)
    message = refused(path, str(path), word)
    if after == TENSOR:
        assert "blk.1.attn_q.weight" in message or HF in message


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("llama.block_count", 10**9, "layers"),
        ("llama.block_count", 0, "block_count"),
        ("llama.embedding_length", 2**31, "size"),
        ("llama.attention.head_count", 0, "head_count"),
        ("llama.attention.head_count_kv", 3, "heads"),
        ("llama.context_length", 0, "context_length"),
    ],
)
def test_contradictory_gguf(bad: Callable[[str], Path], key: str, value: int, word: str) -> None:
    """The description against the tensors."""
    path = patch(bad("gguf"), key.encode(), 4, struct.pack("<I", value))
    refused(path, str(path), word)


def test_gguf_of_other_kinds(bad: Callable[[str], Path], tmp_path: Path) -> None:
    """Another architecture, and a tokenizer with more pieces than the model embeds."""
    path = bad("gguf")
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1))
    refused(path, str(path), "qwen2")
    split = write_gguf(tmp_path / "split.gguf", make_llama(), entries={"split.count": 2})
    refused(split, str(split), "2 parts", "--merge")
    for divisors in (torch.zeros(4), torch.ones(3)):
        scaled = write_gguf(tmp_path / "scaled.gguf", make_llama(), divisors=divisors)
        refused(scaled, str(scaled), "rotary")
    experts = write_gguf(tmp_path / "moe.gguf", make_llama(), entries={"llama.expert_count": 8})
    refused(experts, str(experts), "mixture of experts")
    refused(write_gguf(tmp_path / "t.gguf", make_llama(), pieces=273), "t.gguf", "273", "token_embd.weight")


@pytest.fixture(scope="module")
def llama4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llama4")
    model = write_family(root, "llama-4-scout")
    entries = {"llama4.attention.sliding_window": 8192}
    return write_gguf(root / "m.gguf", model, pieces=0, entries=entries)


@pytest.mark.parametrize(
    ("after", "skip", "content", "words"),
    [
        (b"llama4.block_count", 4, struct.pack("<I", 10**9), ("layers",)),
        (b"llama4.expert_count", 4, struct.pack("<I", 0), ("expert_count",)),
        (b"llama4.expert_count", 4, struct.pack("<I", 5), ("router", "(4, 80)")),
        (b"llama4.expert_count", 4, struct.pack("<I", 2**31), ("size",)),
        (b"llama4.expert_used_count", 4, struct.pack("<I", 5), ("5 of 4 experts",)),
        (b"llama4.expert_feed_forward_length", 4, struct.pack("<I", 32), (EXPERTS, "(4, 80, 64)")),
        (b"llama4.interleave_moe_layer_step", 4, struct.pack("<I", 0), ("interleave_moe_layer_step",)),
        (b"llama4.interleave_moe_layer_step", 4, struct.pack("<I", 2), ("feed_forward.gate_proj",)),
        (b"llama4.attention.sliding_window", 4, struct.pack("<I", 0), ("without chunks",)),
        (b"blk.1.ffn_up_exps", 0, b".wei_ht", ("lacks the tensor blk.1.ffn_up_exps.weight",)),
        (b"blk.1.ffn_up_exps.weight", 4, struct.pack("<Q", 40), ("blk.1.ffn_up_exps.weight", "(4, 48, 40)")),
    ],
)
def test_contradictory_llama4(
    llama4: Path, tmp_path: Path, after: bytes, skip: int, content: bytes, words: tuple[str, ...]
) -> None:
    """Llama 4's description against its experts."""
    path = patch(copy(llama4, tmp_path / "m.gguf"), after, skip, content)
    refused(path, str(path), *words)


def test_flat_llama4_experts(llama4: Path, tmp_path: Path) -> None:
    """Experts in a matrix, as many numbers as they need."""
    path, name = copy(llama4, tmp_path / "m.gguf"), b"blk.1.ffn_down_exps.weight"
    raw, size = path.read_bytes(), struct.pack("<Q", 4)
    flat = raw.replace(name + struct.pack("<IQQQ", 3, 48, 80, 4), name + struct.pack("<IQQ", 2, 48, 320))
    # The name of the model takes the place that is left, so that all else stays where it was.
    flat = flat.replace(size + b"tiny", struct.pack("<Q", 12) + b"tinytinytiny", 1)
    assert len(flat) == len(raw)
    assert flat != raw
    path.write_bytes(flat)
    refused(path, str(path), name.decode(), "(320, 48)")
