"""Tokenizers against the reference's own vectors, and text against itself."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.runtime import load_tokenizer
from codellama.runtime.errors import CheckpointError
from codellama.runtime.locate import locate
from codellama.runtime.prompts import extra_text, infill_ids

GOLDEN_PSM = (
    "1 32007 822 3349 29918 5464 29918 294 18869 29898 29879 29901 851 29897 1599 851 29901 13 1678 9995 "
    "29871 32008 13 1678 736 1121 13 32009"
)
GOLDEN_SPM = (
    "1 32007 32008 13 1678 736 1121 13 32009 822 3349 29918 5464 29918 294 18869 29898 29879 29901 851 "
    "29897 1599 851 29901 13 1678 9995 29871"
)


@pytest.mark.parametrize(
    ("vectors", "model"), [("llama-spm", "llama2.model"), ("llama3-bpe", "llama3.model")]
)
def test_reference_vectors(shared_data: Path, vectors: str, model: str) -> None:
    """All 47 texts of each kind give the reference's ids."""
    folder = shared_data / "tokenizers"
    tokenizer = load_tokenizer(folder / model)
    texts = (folder / f"{vectors}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (folder / f"{vectors}.out").read_text().split("\n")
    assert len(texts) >= 46
    for text, line in zip(texts, lines, strict=False):
        assert tokenizer.encode(text) == [int(i) for i in line.split()], text


@pytest.fixture(scope="session")
def code_llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code Llama's 32,016 pieces: Llama 2's and the sixteen that infilling added."""
    content = (shared_data / "tokenizers" / "llama2.model").read_bytes()
    names = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    names += ["▁" + "<EOT>" * n for n in range(2, 7)]
    for n, name in enumerate(names):
        # One more entry of ModelProto's repeated field 1: the piece (field 1) and its score (field 2).
        text = name.encode()
        entry = bytes([0x0A, len(text)]) + text + b"\x15" + struct.pack("<f", -31741.0 - n)
        content += bytes([0x0A, len(entry)]) + entry
    file = tmp_path_factory.mktemp("code") / "tokenizer.model"
    file.write_bytes(content)
    return file


def test_code_llama_golden_prompts(code_llama: Path) -> None:
    """Infill prompts equal the reference's ids."""
    tokenizer = load_tokenizer(code_llama)
    assert tokenizer.infill is not None
    prefix = tokenizer.encode('def remove_non_ascii(s: str) -> str:\n    """ ')
    suffix = tokenizer.encode_continuation("\n    return result\n")
    for mode, golden in (("psm", GOLDEN_PSM), ("spm", GOLDEN_SPM)):
        ids = infill_ids(tokenizer.infill, tokenizer.bos_id, mode, prefix, suffix)
        assert ids == [int(i) for i in golden.split()]


@pytest.mark.parametrize("text", [" <PRE>", "a <SUF> b", "<MID>", " <EOT><EOT>", "x <EOT>"])
def test_control_pieces_never_come_from_text(code_llama: Path, text: str) -> None:
    """Text that spells a control piece is encoded in other pieces, and decodes to itself."""
    tokenizer = load_tokenizer(code_llama)
    ids = tokenizer.encode(text)
    assert not [i for i in ids if i >= 32007]
    assert tokenizer.decode(ids).strip() == text.strip()


def test_ordinary_parts_stay_as_the_reference_has_them(code_llama: Path) -> None:
    """`Set <E>` holds 32005, an ordinary piece."""
    assert 32005 in load_tokenizer(code_llama).encode("Set <E>")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_survives(text: str) -> None:
    """decode(encode(x)) = x for the pocket model's tokenizer, whatever the text."""
    tokenizer = load_tokenizer(locate("pocket"))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_long_runs_end(shared_data: Path) -> None:
    """A million of one character neither recurses nor hangs."""
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "llama3.model")
    text = "^" * 100_000 + " " * 100_000
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("content", [b"", b"hello", b"\n\x0e\x0aabc", b"YQ== 0\n", b"YQ== x\n"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    """A file that is no tokenizer is a CheckpointError naming it."""
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_extras_cannot_leave_their_comment() -> None:
    """A file name with a line break stays one comment line, in the language's syntax."""
    assert extra_text("a\nb.py", "x") == "# Path: ab.py\nx\n"
    assert extra_text("a.ts", "x") == "// Path: a.ts\nx\n"
    assert extra_text("a.sql", "x") == "-- Path: a.sql\nx\n"
