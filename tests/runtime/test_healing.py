"""Token healing: a prefix that ends inside a token is completed as if it had not been cut there."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runtime_support import write_llama
from tokenizer_support import loaded, write_code_llama
from transformers import LlamaConfig, LlamaForCausalLM

from codellama.runtime import Engine, load_engine
from codellama.runtime.healing import Healing, PieceIndex, Spelling, plan_healing
from codellama.runtime.locate import POCKET, locate
from codellama.runtime.records import InfillRequest, Result, Sampling

TOKENIZER = loaded(locate(POCKET))
INDEX = PieceIndex(TOKENIZER.pieces)
PROMPTS = [f"{a}{b}\n" for a in "xyz(" for b in "=.,"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A tiny model that likes its merged pieces, so that its greedy text has tokens to cut."""
    folder = tmp_path_factory.mktemp("healing")
    model = write_llama(folder)
    model.lm_head.weight.data[:256] *= 0.6
    model.save_pretrained(folder)
    return load_engine(str(folder), device="cpu")


def prefix_only(engine: Engine, prefix: str, tokens: int = 6) -> Result:
    return engine.infill(prefix, "", max_tokens=tokens, mode="prefix")


def cut_words(engine: Engine, prompts: list[str]) -> list[tuple[str, str, str]]:
    """Where greedy text goes on with a token of several characters, as one would type it: the prompt, the
    token's text, and what follows. Only tokens that the tokenizer itself would make of that text."""
    found = []
    encode = engine.tokenizer.encode
    for prompt in prompts:
        ids = engine.complete(prompt, 8).ids
        word = engine.tokenizer.decode_continuation(ids[:1])
        rest = engine.tokenizer.decode_continuation(ids)[len(word) :]
        typed = all(
            encode(prompt + word[:n])[: len(encode(prompt))] == encode(prompt) for n in range(len(word))
        )
        if len(word) > 1 and encode(prompt + word) == [*encode(prompt), ids[0]] and typed:
            found.append((prompt, word, rest))
    return found


def test_a_cut_word_is_completed_as_the_whole_one(engine: Engine) -> None:
    """Wherever one stops typing inside a token, the rest comes, and then what came without the cut."""
    words = cut_words(engine, PROMPTS)
    assert len(words) > 5, "too little was cut to test anything"
    for prompt, word, rest in words:
        for cut in range(1, len(word)):
            healed = prefix_only(engine, prompt + word[:cut])
            assert healed.text.startswith(word[cut:])
            assert (word[cut:] + rest).startswith(healed.text)
            assert engine.tokenizer.decode_continuation(healed.ids).rstrip("\ufffd") == healed.text


def test_without_healing_it_would_not(engine: Engine) -> None:
    """The same prompts unhealed go on otherwise: the test above can fail."""
    words = cut_words(engine, PROMPTS)
    plain = [(engine.complete(prompt + word[:1], 6).text, word[1:]) for prompt, word, _ in words]
    assert not all(text.startswith(rest) for text, rest in plain)


def test_a_prefix_that_ends_where_a_token_does_is_left_alone(engine: Engine) -> None:
    """Where no piece reaches over the end, ids, text and probability are those of the plain prompt."""
    for prefix in ("x", "ab", "x = turn", "def", "a\n\n:", "return"):
        plain, healed = engine.complete(prefix, 8), prefix_only(engine, prefix, 8)
        assert (plain.ids, plain.text, plain.stats.mean_logprob) == (
            healed.ids,
            healed.text,
            healed.stats.mean_logprob,
        )


def test_the_models_own_border_is_kept(engine: Engine) -> None:
    """A piece reaches over the end, and the model would not have taken it: nothing changes."""
    for prefix in ("gd", "x=t", "yr", "hd"):
        greedy = engine.logits([engine.tokenizer.bos_id, *engine.tokenizer.encode(prefix)])[-2]
        last = engine.tokenizer.encode(prefix)[-1]
        rivals = PieceIndex(engine.tokenizer.pieces).allowed(prefix[-1:].encode())
        if last == max(rivals, key=lambda i: float(greedy[i])):
            assert prefix_only(engine, prefix).ids == engine.complete(prefix, 6).ids
            return
    pytest.fail("no such prefix")


def test_infill_is_healed_in_spm_alone(engine: Engine) -> None:
    """SPM ends with the prefix and is healed; PSM does not; the prompt that is shown is unhealed."""
    tokens = engine.tokenizer.infill
    assert tokens is not None
    ids = engine.infill_ids("x d", "\n", "spm")
    assert ids[-3:] == engine.tokenizer.encode("x d")
    builder = engine._prompts
    assert builder.build(InfillRequest("x d", "\n", mode="spm")).healing == Healing(1, b"d")
    assert builder.build(InfillRequest("x d", "\n", mode="psm")).healing is None
    for seed in range(8):
        request = InfillRequest("x d", "\n", mode="spm", max_tokens=4, sampling=Sampling(3.0, seed=seed))
        result = engine.run(request)
        # The ids are those of the text that is new: what the user typed is not repeated in either.
        assert engine.tokenizer.decode_continuation(result.ids).rstrip("\ufffd") == result.text
        assert 0 < len(result.ids) <= 4


def test_a_line_that_is_asked_for_is_not_blank(engine: Engine) -> None:
    """Where nothing stands yet, one line is not ended before it says something; several lines may be."""

    def said(prefix: str, stop: tuple[str, ...]) -> list[Result]:
        samplings = [Sampling(9.0, seed=seed) for seed in range(300)]
        return [engine.run(InfillRequest(prefix, "\n", (), 3, "spm", s, stop)) for s in samplings]

    def blank(results: list[Result]) -> int:
        ended = [one for one in results if one.finish_reason == "stop" and not one.text.strip()]
        return sum("\ufffd" not in engine.tokenizer.decode(one.ids) for one in ended)  # parts of characters

    for prefix in ("ab = 1\n", "ab = 1\n    ", ""):
        assert blank(said(prefix, ("\n",))) == 0
    assert any(one.text.startswith("\n") for one in said("ab = 1\n", ()))
    # Behind a whole statement, and where several lines may come, nothing or a break may be the answer.
    for prefix, stop in (("ab = 1", ("\n",)), ("ab = 1\n", ()), ("ab = 1\n", ("\n\n",))):
        assert not engine._prompts.build(InfillRequest(prefix, "\n", stop=stop)).fills_line


def test_warm_is_cold(engine: Engine, tmp_path: Path) -> None:
    """In a typing session that is healed at every key, results are those of an engine that is fresh."""
    write_llama(tmp_path)
    warm = load_engine(str(tmp_path), device="cpu")
    text = "ab = def(de, re)\n    return ab\n" * 9
    reused = 0
    for end in (len(text) - 30, len(text) - 29, len(text) - 13, len(text) - 12, len(text) - 29):
        request = InfillRequest(text[:end], "\n", max_tokens=6, mode="spm")
        cold = load_engine(str(tmp_path), device="cpu").run(request)
        again = warm.run(request)
        assert (again.ids, again.text, again.stats.mean_logprob) == (
            cold.ids,
            cold.text,
            cold.stats.mean_logprob,
        )
        reused += again.stats.reused_tokens
    assert reused


def test_a_full_context_is_not_exceeded(tmp_path: Path) -> None:
    """Healing may need more steps than it took back: where no place is left, it is left out."""
    write_llama(tmp_path, positions=64)
    engine = load_engine(str(tmp_path), device="cpu")
    healed = set()
    for length in range(40, 60):
        request = InfillRequest("x" * length + "de", "", max_tokens=10, mode="spm")
        prompt = engine._prompts.build(request)
        steps = len(prompt.healing.text) if prompt.healing else 0
        assert len(prompt.ids) + steps + 10 <= 64
        assert len(engine.run(request).ids) <= 10
        healed.add(steps > 0)
    assert healed == {False, True}


_texts = st.text("abcdefr etunil\n  ()=._é☺", max_size=40) | st.text(max_size=20)


@given(text=_texts, choices=st.lists(st.integers(0, 10_000), min_size=40, max_size=40))
def test_whatever_is_chosen_spells_the_prefix(text: str, choices: list[int]) -> None:
    """What is kept and what is taken back make the prefix; every way through the allowed pieces spells it."""
    ids = TOKENIZER.encode(text)
    healing = plan_healing(INDEX, ids)
    if healing is None:
        return
    kept = b"".join(TOKENIZER.pieces[i] for i in ids[: -healing.count])
    assert kept + healing.text == TOKENIZER.decode(ids).encode()
    spelling, out = Spelling(INDEX, healing), b""
    for choice in choices:
        allowed = spelling.allowed()
        if allowed is None:
            break
        token = allowed[choice % len(allowed)]
        before = len(out)
        out += TOKENIZER.pieces[token]
        assert spelling.push(token) == out[max(before, len(healing.text)) :]
        assert before < len(healing.text)
    assert out[: len(healing.text)] == healing.text[: len(out)]


@pytest.mark.parametrize(
    ("prefix", "healing"),
    [
        ("", None),
        ("def f(x):\n    ret", Healing(1, b" ret")),
        ("def f(x):\n    ", Healing(1, b"    ")),  # words begin with their space
        ("x = 日", None),
        ("def f(x):\n", None),  # pieces of several line breaks would reach over it
        ("def f(x):\n\n", None),
    ],
)
def test_what_is_taken_back(prefix: str, healing: Healing | None) -> None:
    assert plan_healing(INDEX, TOKENIZER.encode(prefix)) == healing


def test_a_line_that_has_ended_is_never_taken_back() -> None:
    """Though pieces reach over its end, and over the indentation that follows it."""
    pieces = [*(bytes([byte]) for byte in range(256)), b"    ", b"\n    \n", b"\n    ", b"     "]
    index = PieceIndex(pieces)
    for tail in ([ord("x"), ord("\n")], [ord("x"), 258], [ord("x"), 257]):
        assert plan_healing(index, tail) is None
    assert plan_healing(index, [ord("x"), ord("\n"), 256]) == Healing(1, b"    ")


def test_words_begin_with_their_space() -> None:
    """No piece goes on from two spaces: the second may still begin a word, once the first is spelled."""
    pieces = [*(bytes([byte]) for byte in range(256)), b"  ", b" a"]
    index = PieceIndex(pieces)
    healing = plan_healing(index, [ord("x"), 256])
    assert healing == Healing(1, b"  ")
    assert set(index.allowed(healing.text)) == {ord(" "), 256}
    spelling = Spelling(index, healing)
    assert spelling.push(ord(" ")) == b""
    assert set(spelling.allowed() or ()) == {ord(" "), 256, 257}
    assert spelling.push(257) == b"a"
    assert spelling.done


@pytest.fixture(scope="module")
def code_llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A tiny model with Code Llama's real pieces."""
    folder = tmp_path_factory.mktemp("code-llama")
    write_code_llama(shared_data / "tokenizers" / "llama2.model", folder / "tokenizer.model")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=32_016, max_position_embeddings=256, initializer_range=0.3, **shape)
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    return load_engine(str(folder), device="cpu")


def test_sentencepiece_is_healed(code_llama: Engine) -> None:
    """Code Llama's pieces: the word's beginning is spelled again, its space included, and never shown."""
    builder = code_llama._prompts
    built = builder.build(InfillRequest("def f():\n    ret", "\n", mode="spm"))
    assert built.healing == Healing(1, b" ret")
    for prefix in ("def f():\n    ret", "x = pri", "impo", "self.__in", "a = [1, 2]\nfor el"):
        request = InfillRequest(prefix, "\n", max_tokens=5, mode="spm")
        healing = builder.build(request).healing
        assert healing is not None
        result = code_llama.run(request)
        assert code_llama.tokenizer.decode_continuation(result.ids).rstrip("\ufffd") == result.text
        # The model's own next piece reaches over the end: its rest is how the answer begins.
        kept = code_llama.infill_ids(prefix, "\n", "spm")[: -healing.count]
        logits = code_llama.logits(kept)[-1]
        first = max(builder.index.allowed(healing.text), key=lambda i: float(logits[i]))
        piece = code_llama.tokenizer.pieces[first]
        if len(piece) > len(healing.text):
            assert result.text.startswith(piece[len(healing.text) :].decode())
