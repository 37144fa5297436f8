"""Generation: results that do not depend on history, that stop when told to, and that never leak."""

import random
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.runtime import Engine, load_engine
from codellama.runtime.errors import (
    CheckpointError,
    ContextTooLong,
    InfillUnsupported,
    InvalidRequest,
    UnknownModel,
)
from codellama.runtime.generation import StreamedText
from codellama.runtime.records import CompletionRequest, Extra, InfillRequest, Sampling


def test_warm_equals_cold(engine: Engine, tiny: Path) -> None:
    """Whatever was asked before, a prompt gets the same ids, and shared blocks are reused."""
    chance = random.Random(0)
    base = "".join(chance.choice("abdef \n") for _ in range(400))
    reused = 0
    for _ in range(6):
        prompt = base[: chance.randint(200, 400)] + chance.choice(["", "x", "def"])
        warm = engine.complete(prompt, max_tokens=6)
        cold = load_engine(str(tiny)).complete(prompt, max_tokens=6)
        assert warm.ids == cold.ids
        assert warm.stats.mean_logprob == cold.stats.mean_logprob
        assert cold.stats.reused_tokens == 0
        reused += warm.stats.reused_tokens
    assert reused > 0


def test_a_cache_that_grows_keeps_what_it_held(engine: Engine, tiny: Path) -> None:
    """A prompt too long for the cache of the one that it goes on from: as a fresh engine answers."""
    text = "".join(random.Random(1).choice("abdef \n") for _ in range(400))
    engine.complete(text[:200], max_tokens=4)
    warm = engine.complete(text, max_tokens=6)
    cold = load_engine(str(tiny), device="cpu").complete(text, max_tokens=6)
    assert warm.stats.reused_tokens > 0
    assert (warm.ids, warm.stats.mean_logprob) == (cold.ids, cold.stats.mean_logprob)


def test_the_caches_of_a_small_model_stay_small(tiny: Path) -> None:
    """Whatever memory there is, they hold no more than eight whole contexts, and prompts go on from them."""
    engine = load_engine(str(tiny), device="cpu")
    room = engine.config.max_context
    prompts = ["".join(chr(97 + (n * k) % 26) for k in range(room - 40)) for n in range(3, 16)]
    for prompt in prompts:
        engine.complete(prompt, 2)
    one = engine._model.position_bytes * room
    assert 4 * one < engine._sessions.nbytes <= 8 * one
    assert engine.complete(prompts[-1] + "a", 2).stats.reused_tokens > 0


def test_cancel_ends_at_once(engine: Engine) -> None:
    """Once `cancelled` says so, not one more token comes; the engine is free for the next."""
    count = 0

    def cancelled() -> bool:
        nonlocal count
        count += 1
        return count > 4

    result = engine.run(CompletionRequest("ab", max_tokens=200), cancelled)
    assert result.finish_reason == "cancelled"
    assert 0 < result.stats.tokens <= 5
    assert engine.complete("ab", max_tokens=2).finish_reason in ("length", "stop")


def test_closing_a_stream_frees_the_engine(engine: Engine) -> None:
    """A stream that nobody reads on gives the engine back."""
    stream = engine.stream(CompletionRequest("ab", max_tokens=200))
    next(stream)
    stream.close()
    assert engine.complete("ab", max_tokens=1).stats.tokens <= 1


def test_pieces_join_to_the_text(engine: Engine) -> None:
    """What is streamed is what the result says, and never a broken character."""
    request = CompletionRequest("ab", max_tokens=60, sampling=Sampling(temperature=1.5, seed=1))
    stream = engine.stream(request)
    pieces: list[str] = []
    result = None
    while result is None:
        try:
            pieces.append(next(stream).text)
        except StopIteration as end:
            result = end.value
    assert len(pieces) > 5
    assert "".join(pieces) == result.text


def test_seeds_repeat(engine: Engine) -> None:
    """The same seed samples the same ids; another one does not."""

    def ids(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=1.0, top_p=0.95, seed=seed)
        return engine.run(CompletionRequest("ab", 20, sampling)).ids

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


@given(st.text("abc<>", max_size=40))
def test_stop_texts_never_leak(text: str) -> None:
    """However the text is cut into tokens, nothing of a stop text or behind it is released."""
    streamed = StreamedText(lambda ids: "".join(map(chr, ids)), ["<a>", "cc"])
    out = ""
    for character in text:
        out += streamed.push(ord(character))
        if streamed.stopped:
            break
    out += streamed.finish()
    ends = [text.find(stop) for stop in ("<a>", "cc") if stop in text]
    assert out == (text[: min(ends)] if ends else text)


def test_infill_layouts(engine: Engine) -> None:
    """PSM and SPM as the contract lays them out, extras at the head of the prefix."""
    encode, tokens = engine.tokenizer.encode, engine.tokenizer.infill
    assert tokens is not None
    bos, extra = engine.tokenizer.bos_id, Extra("a/b.go", "x := 1")
    head = encode("// Path: a/b.go\nx := 1\n")
    assert engine.infill_ids("ab", "de", "psm", [extra]) == [
        *(bos, tokens.pre, *head, *encode("ab"), tokens.suf, *encode("de"), tokens.mid)
    ]
    spm = [bos, tokens.pre, tokens.suf, *encode("de"), tokens.mid, *head, *encode("ab")]
    assert engine.infill_ids("ab", "de", "spm", [extra]) == spm
    assert engine.infill_ids("ab", "de", "auto", [extra]) == spm


@given(st.text(max_size=60))
def test_text_never_becomes_a_control_id(text: str) -> None:
    """Whatever a file holds, a prompt has each control id once, where the layout puts it."""
    from codellama.runtime.locate import POCKET, locate
    from codellama.runtime.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(locate(POCKET))
    ids = tokenizer.encode(text + "<|pre|><|eot|><PRE> <MID>")
    assert max(ids) < tokenizer.bos_id


def test_long_input_is_packed(engine: Engine) -> None:
    """Far more than the context holds is cut before the prompt is built; what was kept is told."""
    extras = [Extra(f"f{n}.py", "abc\n" * 20, priority=n) for n in range(5)]
    request = InfillRequest("ab = de\n" * 3000, "de\n" * 3000, tuple(extras), max_tokens=4)
    result = engine.run(request)
    assert result.stats.prompt_tokens + 4 <= engine.config.max_context
    kept = [packed.kept for packed in result.packed]
    assert kept == sorted(kept), "the highest priority is kept first"
    assert any(kept)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (CompletionRequest("a", max_tokens=0), InvalidRequest),
        (CompletionRequest("a", sampling=Sampling(temperature=-1)), InvalidRequest),
        (CompletionRequest("a", sampling=Sampling(top_p=0)), InvalidRequest),
        (CompletionRequest("a" * 600, max_tokens=1), ContextTooLong),
        (InfillRequest("a", "b", max_tokens=512), ContextTooLong),
    ],
)
def test_bad_requests(engine: Engine, request_: CompletionRequest, error: type[Exception]) -> None:
    """What cannot be done is refused before anything runs; too long names the limit."""
    with pytest.raises(error, match="512" if error is ContextTooLong else "give"):
        engine.run(request_)


def test_a_model_that_cannot_infill(engine: Engine) -> None:
    """Asked outright it refuses; on auto it continues the prefix."""
    engine.tokenizer.infill = None
    with pytest.raises(InfillUnsupported):
        engine.infill("ab", "de", mode="psm")
    result = engine.infill("ab", "de", max_tokens=3)
    assert result.ids == engine.complete("ab", max_tokens=3).ids


def test_chat_needs_an_instruct_model(engine: Engine) -> None:
    """The error says what to set."""
    with pytest.raises(InvalidRequest, match=r"chat\.model"):
        engine.chat([{"role": "user", "content": "hi"}])


def test_threads_take_turns(engine: Engine) -> None:
    """Requests from several threads get the answers that they get alone."""
    prompts = [f"{'ab' * n}def" for n in range(1, 7)]
    alone = [engine.complete(p, max_tokens=5).ids for p in prompts]
    found: dict[int, tuple[int, ...]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: engine.complete(prompts[n], max_tokens=5).ids}))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(6)] == alone


def test_unknown_names(tiny: Path) -> None:
    """Models, devices and dtypes that do not exist are named, with what to do."""
    with pytest.raises(UnknownModel, match="pocket"):
        load_engine("no-such-model")
    with pytest.raises(InvalidRequest, match="device"):
        load_engine(str(tiny), device="abacus")
    with pytest.raises(InvalidRequest, match="dtype"):
        load_engine(str(tiny), dtype="int3")


@pytest.mark.parametrize(
    "damage", ["truncated", "garbage", "no weights", "no tokenizer", "not json", "gpt", "scaling"]
)
def test_damaged_checkpoints(tmp_path: Path, tiny: Path, damage: str) -> None:
    """Every damage is a CheckpointError that names the file; none is a traceback or a crash."""
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "garbage":
        weights.write_bytes(b"\xff" * 5000)
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no tokenizer":
        (tmp_path / "tokenizer.model").unlink()
    elif damage == "not json":
        config.write_text("{")
    elif damage == "gpt":
        config.write_text(config.read_text().replace('"llama"', '"gpt2"'))
    else:
        config.write_text(config.read_text().replace('"default"', '"yarn"'))
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        load_engine(str(tmp_path))
