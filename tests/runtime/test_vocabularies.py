"""For all families: text comes back whole, and control ids are beyond its reach."""

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_support import LLAMA3_NAMES, export_llama, loaded, tiny_byte_level, write_code_llama

from codellama.runtime.families import CODE_LLAMA_INFILL, specials_of_ranks
from codellama.runtime.locate import POCKET, locate
from codellama.runtime.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def llama2(shared_data: Path) -> Tokenizer:
    return loaded(shared_data / "tokenizers" / "llama2.model")


@pytest.fixture(scope="session")
def llama3(shared_data: Path) -> Tokenizer:
    return loaded(shared_data / "tokenizers" / "llama3.model")


@pytest.fixture(scope="session")
def code_llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("code-llama") / "tokenizer.model"
    return loaded(write_code_llama(shared_data / "tokenizers" / "llama2.model", file))


@pytest.fixture(scope="session")
def exported(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Llama 2's pieces from a tokenizer.json."""
    folder = tmp_path_factory.mktemp("exported")
    return loaded(export_llama(shared_data / "tokenizers" / "llama2.model", folder))


@pytest.fixture(scope="session")
def llama4(shared_data: Path) -> Tokenizer:
    return loaded(shared_data / "tokenizers" / "llama4.model")


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer.json of bytes, as Llama 3's."""
    file = tmp_path_factory.mktemp("byte-level") / "tokenizer.json"
    tiny_byte_level(file, LLAMA3_NAMES, [("a", "b"), ("Ġ", "a"), ("Ċ", "Ċ")])
    return loaded(file)


# ▁ is how SentencePiece writes a space: it cannot come back as itself.
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)


@given(text=_texts)
def test_decoding_gives_the_text_back(
    text: str,
    llama3: Tokenizer,
    llama4: Tokenizer,
    code_llama: Tokenizer,
    exported: Tokenizer,
    byte_level: Tokenizer,
) -> None:
    """decode(encode(x)) is x, whole and as a continuation, for every family and format."""
    for tokenizer in (llama3, llama4, code_llama, exported, byte_level, loaded(locate(POCKET))):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode_continuation(tokenizer.encode_continuation(text)) == text


_tags = st.sampled_from([" <PRE>", " <SUF>", " <MID>", " <EOT>", "<PRE>", "▁<EOT>", "\n <EOT><EOT>", " "])


@given(parts=st.lists(_tags | st.text("ab <>\n", max_size=4), max_size=8))
def test_text_never_becomes_a_code_llama_control_id(parts: list[str], code_llama: Tokenizer) -> None:
    """Text that holds the format's own tags stays text, and decodes to itself."""
    text = "".join(parts)
    for ids in (code_llama.encode(text), code_llama.encode_continuation(text)):
        assert not set(ids) & set(range(32_007, 32_016))
    assert code_llama.decode(code_llama.encode(text)) == text.replace("▁", " ")


def test_the_pieces_would_be_reached_without_care(shared_data: Path, tmp_path: Path) -> None:
    """The danger is real: SentencePiece itself turns " <PRE>" into the control id."""
    file = write_code_llama(shared_data / "tokenizers" / "llama2.model", tmp_path / "tokenizer.model")
    plain = sentencepiece.SentencePieceProcessor(model_file=str(file))
    assert CODE_LLAMA_INFILL.pre in plain.encode("a <PRE>")


_names = st.sampled_from([*specials_of_ranks(128_000), *specials_of_ranks(200_000), "<s>", "</s>", "<unk>"])


@given(parts=st.lists(_names | st.text("ab <>|\n", max_size=4), max_size=6))
def test_no_name_of_a_control_piece_reaches_it(
    parts: list[str],
    llama3: Tokenizer,
    llama4: Tokenizer,
    code_llama: Tokenizer,
    exported: Tokenizer,
    byte_level: Tokenizer,
) -> None:
    """Whatever stands between them, names of control pieces are ordinary text, and come back as it."""
    text = "".join(parts)
    for tokenizer in (llama3, llama4, code_llama, exported, byte_level):
        for ids in (tokenizer.encode(text), tokenizer.encode_continuation(text)):
            assert not set(ids) & tokenizer.control.ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_of_tiktoken_families_never_come_from_text(llama3: Tokenizer) -> None:
    """The spelling of a special token is ordinary text."""
    pocket = loaded(locate(POCKET))
    for tokenizer, first in ((llama3, 128_000), (pocket, pocket.bos_id)):
        for text in ("<|begin_of_text|>", "<|eot_id|>", "<|pre|>", "<|eot|>", "<|bos|>"):
            assert max(tokenizer.encode(text)) < first
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_ids_are_no_text(llama3: Tokenizer, code_llama: Tokenizer) -> None:
    """Decoding leaves control ids out, and ids beyond the pieces."""
    assert code_llama.decode([*code_llama.encode("a"), 32010]) == "a"
    assert llama3.decode([*llama3.encode("a"), 128_009, 128_255]) == "a"


def test_only_the_models_trained_for_it_infill(
    llama2: Tokenizer, llama3: Tokenizer, code_llama: Tokenizer
) -> None:
    """32,016 pieces and the pocket model's have infill tokens; Llama 2 and 3 have none."""
    assert llama2.infill is None
    assert llama3.infill is None
    assert code_llama.infill == CODE_LLAMA_INFILL
    assert loaded(locate(POCKET)).infill is not None


def test_long_runs_and_lone_surrogates_are_survived(llama2: Tokenizer, llama3: Tokenizer) -> None:
    """A run that would exhaust tiktoken's stack comes back whole; half a character does no harm."""
    for text in (" " * 60_000, "a" * 60_000):
        assert llama3.decode(llama3.encode(text)) == text
    for tokenizer in (llama2, llama3):
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) in ("a?b", "a\ufffdb")
