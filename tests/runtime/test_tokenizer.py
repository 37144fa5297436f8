"""Tokenizers against the reference's own vectors, from every format that holds them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizer_support import (
    LLAMA3_NAMES,
    byte_level_gguf,
    export_llama,
    export_llama_2023,
    export_tiktoken,
    loaded,
    spm_gguf,
    tiny_byte_level,
    write_code_llama,
)

from codellama.runtime import load_tokenizer
from codellama.runtime.errors import CheckpointError
from codellama.runtime.families import CODE_LLAMA_INFILL, InfillTokens, specials_of_ranks
from codellama.runtime.prompts import extra_text, infill_ids
from codellama.runtime.tokenizer import Tokenizer

GOLDEN_PSM = (
    "1 32007 822 3349 29918 5464 29918 294 18869 29898 29879 29901 851 29897 1599 851 29901 13 1678 9995 "
    "29871 32008 13 1678 736 1121 13 32009"
)
GOLDEN_SPM = (
    "1 32007 32008 13 1678 736 1121 13 32009 822 3349 29918 5464 29918 294 18869 29898 29879 29901 851 "
    "29897 1599 851 29901 13 1678 9995 29871"
)


def check_vectors(tokenizer: Tokenizer, folder: Path, vectors: str) -> None:
    texts = (folder / f"{vectors}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (folder / f"{vectors}.out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text) == [int(i) for i in line.split()], text
        assert tokenizer.decode(tokenizer.encode(text)) == text


SPM_ROUTES: dict[str, Callable[[Path, Path], Path]] = {
    "tokenizer.model": lambda data, _: data / "llama2.model",
    "transformers 5": lambda data, folder: export_llama(data / "llama2.model", folder),
    "published json": lambda data, folder: export_llama_2023(
        data / "llama2.model", folder / "tokenizer.json"
    ),
    "gguf": lambda data, _: data / "llama-spm-vocab.gguf",
}


@pytest.mark.parametrize("route", SPM_ROUTES)
def test_sentencepiece_vectors(shared_data: Path, tmp_path: Path, route: str) -> None:
    """All 47 texts give the reference's ids, whichever file holds the pieces."""
    folder = shared_data / "tokenizers"
    tokenizer = load_tokenizer(SPM_ROUTES[route](folder, tmp_path))
    check_vectors(tokenizer, folder, "llama-spm")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (32000, 1, 2)
    assert tokenizer.stop_ids == {2}
    assert tokenizer.infill is None


@pytest.fixture(scope="session")
def llama3_files(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Llama 3's tokenizer as Meta, transformers and llama.cpp hold it."""
    folder = tmp_path_factory.mktemp("llama3")
    model = shared_data / "tokenizers" / "llama3.model"
    exported = export_tiktoken(model, folder / "tokenizer.json", list(specials_of_ranks(128_000)))
    gguf = byte_level_gguf(exported, folder / "llama3.gguf")
    return {"tokenizer.model": model, "tokenizer.json": exported, "gguf": gguf}


@pytest.mark.parametrize("route", ["tokenizer.model", "tokenizer.json", "gguf"])
def test_llama3_vectors(shared_data: Path, llama3_files: dict[str, Path], route: str) -> None:
    """All 47 texts give the reference's ids; the control ids and every end of an answer are known."""
    tokenizer = loaded(llama3_files[route])
    check_vectors(tokenizer, shared_data / "tokenizers", "llama3-bpe")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (128_256, 128_000, 128_001)
    assert tokenizer.stop_ids == {128_001, 128_008, 128_009}
    assert tokenizer.control.turns is not None
    assert tokenizer.control.turns.start == 128_006


def test_a_vocabulary_is_the_same_from_ranks_and_from_json(llama3_files: dict[str, Path]) -> None:
    """Pieces, kinds and merges that a converter writes do not depend on where they were read."""
    ranks = loaded(llama3_files["tokenizer.model"]).vocabulary
    exported = loaded(llama3_files["tokenizer.json"]).vocabulary
    assert ranks == exported
    assert ranks.pattern == "llama-bpe"


def test_llama4(shared_data: Path) -> None:
    """200,000 ranks: their own ids, ends and infill pieces, and words that end before a capital."""
    tokenizer = loaded(shared_data / "tokenizers" / "llama4.model")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (202_048, 200_000, 200_001)
    assert tokenizer.stop_ids == {200_001, 200_007, 200_008}
    assert tokenizer.infill == InfillTokens(pre=200_002, suf=200_004, mid=200_003, eot=200_008)
    assert tokenizer.control.turns is not None
    assert (tokenizer.control.turns.start, tokenizer.control.turns.end) == (200_005, 200_006)
    assert tokenizer.control.names["<|python_start|>"] == 200_016

    def parts(text: str) -> list[str]:
        return [tokenizer.decode([i]) for i in tokenizer.encode(text)]

    assert parts("HelloWorld") == ["Hello", "World"]
    assert parts("it's we'll") == ["it's", " we'll"]
    assert parts("//\n/x") == ["//\n", "/", "x"], "Llama 3 would begin a word with the slash"
    assert parts("a 12345") == ["a", " ", "123", "45"]


@pytest.fixture(scope="session")
def code_llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Code Llama's 32,016 pieces in every format; the GGUF files name the infill pieces in three ways."""
    root = tmp_path_factory.mktemp("code")
    model = write_code_llama(shared_data / "tokenizers" / "llama2.model", root / "tokenizer.model")
    control = ["<unk>", "<s>", "</s>", "▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]
    old = {
        "prefix_token_id": 32007,
        "suffix_token_id": 32008,
        "middle_token_id": 32009,
        "eot_token_id": 32010,
    }
    new = {"fim_pre_token_id": 32007, "fim_suf_token_id": 32008, "fim_mid_token_id": 32009}
    return {
        "tokenizer.model": model,
        "tokenizer.json": export_llama_2023(model, root / "json" / "tokenizer.json", control),
        "gguf, old keys": spm_gguf(model, root / "old.gguf", old),
        "gguf, new keys": spm_gguf(model, root / "new.gguf", new),
        "gguf, no keys": spm_gguf(model, root / "none.gguf", {}),
    }


@pytest.mark.parametrize(
    "route", ["tokenizer.model", "tokenizer.json", "gguf, old keys", "gguf, new keys", "gguf, no keys"]
)
def test_code_llama_golden_prompts(code_llama: dict[str, Path], route: str) -> None:
    """Infill prompts equal the reference's ids, and the format's tags in a text stay text."""
    tokenizer = load_tokenizer(code_llama[route])
    assert tokenizer.infill == CODE_LLAMA_INFILL
    assert tokenizer.control.step == 32_015
    prefix = tokenizer.encode('def remove_non_ascii(s: str) -> str:\n    """ ')
    suffix = tokenizer.encode_continuation("\n    return result\n")
    for mode, golden in (("psm", GOLDEN_PSM), ("spm", GOLDEN_SPM)):
        ids = infill_ids(tokenizer.infill, tokenizer.bos_id, mode, prefix, suffix)
        assert ids == [int(i) for i in golden.split()]
    for text in (" <PRE>", "a <SUF> b", "<MID>", " <EOT><EOT>", "x <EOT>", "<s></s><unk>", "<0x0A>"):
        ids = tokenizer.encode(text)
        assert not set(ids) & {0, 1, 2, *range(32_007, 32_016)}
        assert tokenizer.decode(ids) == text
    assert 32_005 in tokenizer.encode("Set <E>"), "an ordinary piece, as the reference has it"


def test_ids_that_no_embedding_has_are_given_up(shared_data: Path, tmp_path: Path) -> None:
    """Code Llama 34B and Python: infill pieces added from 32000 on, and 32000 embeddings."""
    (tmp_path / "tokenizer.model").symlink_to(shared_data / "tokenizers" / "llama2.model")
    names = ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]
    added = ", ".join(
        f'"{32000 + n}": {{"content": "{text}", "special": true}}' for n, text in enumerate(names)
    )
    (tmp_path / "tokenizer_config.json").write_text(f'{{"added_tokens_decoder": {{{added}}}}}')
    assert load_tokenizer(tmp_path).vocab_size == 32_004
    assert load_tokenizer(tmp_path).infill is not None
    (tmp_path / "config.json").write_text('{"vocab_size": 32000}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 32_000
    assert tokenizer.infill is None
    (tmp_path / "config.json").write_text('{"vocab_size": 31000}')
    with pytest.raises(CheckpointError, match=r"32000 pieces.*embeds 31000"):
        load_tokenizer(tmp_path)


def test_an_id_for_pictures_is_given_up(tmp_path: Path) -> None:
    """Llama 3.2's vision models have a piece behind the last that text embeds; an end would be missed."""
    names = LLAMA3_NAMES | {"<|image|>": 10}
    size = tiny_byte_level(tmp_path / "tokenizer.json", names, [("a", "b")])
    (tmp_path / "config.json").write_text(f'{{"text_config": {{"vocab_size": {size - 1}}}}}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == size - 1
    assert "<|image|>" not in tokenizer.control.names
    assert tokenizer.decode(tokenizer.encode("a <|image|>")) == "a <|image|>"
    assert max(tokenizer.stop_ids) == size - 2
    (tmp_path / "config.json").write_text(f'{{"text_config": {{"vocab_size": {size - 2}}}}}')
    with pytest.raises(CheckpointError, match=f"{size - 1} pieces.*embeds {size - 2}"):
        load_tokenizer(tmp_path)


def test_added_pieces_are_control_pieces(shared_data: Path, tmp_path: Path) -> None:
    """A chat model's own pieces behind Llama 2's: no text reaches them, and no answer shows them."""
    (tmp_path / "tokenizer.model").symlink_to(shared_data / "tokenizers" / "llama2.model")
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 32000, "<|im_end|>": 32001}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 32001]}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 32_002
    assert tokenizer.stop_ids == {2, 32_001}
    ids = tokenizer.encode("<|im_start|>user")
    assert max(ids) < 32_000
    assert tokenizer.decode([*ids, 32_001]) == "<|im_start|>user"
    assert tokenizer.vocabulary.pieces[-2:] == ("<|im_start|>", "<|im_end|>")
    (tmp_path / "config.json").write_text('{"vocab_size": 32000}')
    assert load_tokenizer(tmp_path).stop_ids == {2}, "no model can say an id that it does not embed"


def test_a_tokenizer_one_folder_up(shared_data: Path, tmp_path: Path) -> None:
    """Meta's Llama 1 and 2 lie in folders beside the one tokenizer.model of all; other folders do not."""
    (tmp_path / "tokenizer.model").symlink_to(shared_data / "tokenizers" / "llama2.model")
    (tmp_path / "7B").mkdir()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(tmp_path / "7B")
    (tmp_path / "7B" / "params.json").write_text("{}")
    assert load_tokenizer(tmp_path / "7B").vocab_size == 32_000


def test_default_ids_of_a_configuration_end_nothing(tmp_path: Path) -> None:
    """transformers writes eos 2 where nobody set it, and 2 is a byte in a byte-level vocabulary."""
    size = tiny_byte_level(tmp_path / "tokenizer.json", LLAMA3_NAMES)
    (tmp_path / "config.json").write_text(f'{{"vocab_size": {size}, "eos_token_id": 2}}')
    tokenizer = load_tokenizer(tmp_path)
    assert min(tokenizer.stop_ids) > 255
    assert tokenizer.vocab_size == size


def test_long_runs_end(shared_data: Path) -> None:
    """A hundred thousand of one character neither recurse nor hang: cut at 25,000, as the reference does."""
    tokenizer = loaded(shared_data / "tokenizers" / "llama3.model")
    text = "^" * 100_000 + " " * 100_000
    assert tokenizer.decode(tokenizer.encode(text)) == text
    part, rest = tokenizer.encode("^" * 25_000), tokenizer.encode("^" * 10_000)
    assert tokenizer.encode("^" * 60_000) == [*part, *part, *rest]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("tokenizer.model", c)
            for c in (b"", b"hello", b"\n\x0e\x0aabc", b"\n\x02\n\x00", b"YQ== 0\n", b"YQ== x\n")
        ),
        ("tokenizer.model", b"\n" + b"\xff" * 200),
        *(("tokenizer.json", c) for c in (b"{", b"{}", b'{"model": {"type": "WordPiece"}}')),
        (
            "tokenizer.json",
            b'{"model": {"type": "BPE", "vocab": {"a": 5}, "merges": [], "byte_fallback": true}}',
        ),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}}'),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that is no tokenizer is a CheckpointError naming it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_tokenizer(tmp_path)


def test_a_gguf_file_without_a_tokenizer(tmp_path: Path, shared_data: Path) -> None:
    """It is named, and so is a way of splitting text that no Llama has."""
    exported = tmp_path / "tokenizer.json"
    tiny_byte_level(exported, LLAMA3_NAMES, [("a", "b")])
    assert load_tokenizer(byte_level_gguf(exported, tmp_path / "good.gguf")).encode("abc") != []
    with pytest.raises(CheckpointError, match=r"deepseek.*|bad\.gguf"):
        load_tokenizer(byte_level_gguf(exported, tmp_path / "bad.gguf", pre="deepseek-llm"))


@pytest.mark.parametrize(
    "names", [("prefix", "suffix", "middle"), ("fim_pre", "fim_suf", "fim_mid")], ids=["old keys", "new keys"]
)
def test_infill_ids_by_key(tmp_path: Path, names: tuple[str, str, str]) -> None:
    """A GGUF file says which pieces infill, whatever they are called; ids that do not exist say nothing."""
    exported = tmp_path / "tokenizer.json"
    size = tiny_byte_level(
        exported, LLAMA3_NAMES | {"<a>": 20, "<b>": 21, "<c>": 22, "<d>": 23}, [("a", "b")]
    )
    keys = {f"{name}_token_id": size - 4 + n for n, name in enumerate(names)} | {"eot_token_id": size - 1}
    file = byte_level_gguf(exported, tmp_path / "a.gguf", keys=keys)
    assert load_tokenizer(file).infill == InfillTokens(size - 4, size - 3, size - 2, size - 1)
    assert size - 1 in load_tokenizer(file).stop_ids
    beyond = byte_level_gguf(exported, tmp_path / "b.gguf", keys=dict.fromkeys(keys, size))
    assert load_tokenizer(beyond).infill is None


def test_extras_cannot_leave_their_comment() -> None:
    """A file name with a line break stays one comment line, in the language's syntax."""
    assert extra_text("a\nb.py", "x") == "# Path: ab.py\nx\n"
    assert extra_text("a.ts", "x") == "// Path: a.ts\nx\n"
    assert extra_text("a.sql", "x") == "-- Path: a.sql\nx\n"
