"""Generation at its edges: typing sessions, cancellation in mid-prefill, broken characters, limits."""

import random
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.runtime import Engine, load_engine
from codellama.runtime.errors import (
    ContextTooLong,
    InfillUnsupported,
    InvalidRequest,
)
from codellama.runtime.generation import BLOCK, StreamedText
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extra,
    InfillRequest,
    Piece,
    Request,
    Result,
    Sampling,
)


@pytest.fixture
def engine(checkpoints: dict[str, Path]) -> Engine:
    """A cold engine whose greedy text is readable, with room for eight prefill blocks."""
    return load_engine(str(checkpoints["untied"]), device="cpu")


PROMPT = "def total(items):\n    return sum(items)\n"


def _drain(engine: Engine, request: Request) -> tuple[list[Piece], Result]:
    return _rest(engine.stream(request))


def _rest(stream: Generator[Piece, None, Result]) -> tuple[list[Piece], Result]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def _requests(seed: int) -> list[Request]:
    """A typing session: prompts that share beginnings, in an order with jumps back and forth."""
    chance = random.Random(seed)
    text = "".join(chance.choice("abcdef ()\n") for _ in range(700))
    requests: list[Request] = []
    for _ in range(8):
        cut = chance.randrange(300, 700)
        sampling = Sampling(temperature=chance.choice([0.0, 0.9]), seed=chance.randrange(99))
        if chance.random() < 0.5:
            requests.append(CompletionRequest(text[:cut], 12, sampling))
        else:
            requests.append(InfillRequest(text[:cut], text[660:], (), 12, sampling=sampling))
    return requests


def test_a_warm_engine_answers_as_a_cold_one(checkpoints: dict[str, Path]) -> None:
    """Whatever ran before, ids, text and log-probability are bit for bit those of a fresh engine."""
    warm = load_engine(str(checkpoints["untied"]), device="cpu")
    reused = 0
    for seed in range(3):
        for request in _requests(seed):
            cold = load_engine(str(checkpoints["untied"]), device="cpu").run(request)
            again = warm.run(request)
            assert cold.stats.reused_tokens == 0
            assert (again.ids, again.text, again.finish_reason) == (cold.ids, cold.text, cold.finish_reason)
            assert again.stats.mean_logprob == cold.stats.mean_logprob
            reused += again.stats.reused_tokens
    assert reused > 0, "nothing was reused, so nothing was tested"


def test_the_same_prompt_is_reused_in_whole_blocks(engine: Engine) -> None:
    """A second run computes no more than what follows the last whole block."""
    first = engine.complete("x" * 400, max_tokens=4)
    second = engine.complete("x" * 400, max_tokens=4)
    assert first.stats.prompt_tokens == 401
    assert second.stats.reused_tokens == 401 // BLOCK * BLOCK
    assert second.ids == first.ids


def test_cancelling_ends_within_a_decode_step(engine: Engine) -> None:
    """Once `cancelled` says so no further token comes, and the next request is not disturbed."""
    cancel = threading.Event()
    stream = engine.stream(CompletionRequest(PROMPT, 200), cancel.is_set)
    for _ in range(3):
        next(stream)
    cancel.set()
    late, result = _rest(stream)
    assert len(late) <= 2
    assert result.finish_reason == "cancelled"
    assert result.stats.tokens <= 6
    assert engine.complete(PROMPT, 8).ids[:3] == result.ids[:3]


def test_cancelling_ends_within_a_prefill_block(engine: Engine) -> None:
    """A cancelled prefill stops at a block, and the blocks done are reused."""
    calls = iter([False, False, True])
    result = engine.run(CompletionRequest("y" * 600, 8), lambda: next(calls))
    assert (result.finish_reason, result.ids) == ("cancelled", ())
    again = engine.complete("y" * 600, 8)
    assert again.stats.reused_tokens == 2 * BLOCK
    assert again.finish_reason == "length"


def test_an_open_stream_holds_nobody_up(engine: Engine) -> None:
    """Others run while a stream waits for its reader; closing it gives its cache back."""
    stream = engine.stream(CompletionRequest(PROMPT, 100))
    next(stream)
    results: list[Result] = []
    other = threading.Thread(target=lambda: results.append(engine.complete("a = ", 4)), daemon=True)
    other.start()
    other.join(30)
    assert [result.finish_reason for result in results] == ["length"]
    assert engine._sessions.idle_bytes < engine._sessions.nbytes
    stream.close()
    assert engine._sessions.idle_bytes == engine._sessions.nbytes


def test_stop_texts_never_leak(engine: Engine) -> None:
    """The result ends before the stop text, wherever in the ids it begins or ends."""
    free = engine.complete(PROMPT, 48).text
    for start in range(0, len(free) - 4, 3):
        stop = free[start : start + 4]
        pieces, result = _drain(engine, CompletionRequest(PROMPT, 48, stop=(stop, "never there")))
        assert result.text == free[: free.index(stop)]
        assert result.finish_reason == "stop"
        assert "".join(piece.text for piece in pieces) == result.text


def test_pieces_join_to_the_text(engine: Engine) -> None:
    """What is streamed is the result, also for wild samples full of broken bytes."""
    for seed in range(6):
        sampling = Sampling(temperature=3.0, seed=seed)
        pieces, result = _drain(engine, CompletionRequest(PROMPT, 40, sampling))
        assert "".join(piece.text for piece in pieces) == result.text
        assert result.stats.tokens == len(result.ids) <= 40


def test_control_tokens_end_the_answer_and_are_not_part_of_it(engine: Engine) -> None:
    """EOT ends an infill: it is in neither the ids nor the text."""
    assert engine.tokenizer.infill is not None
    ends = {engine.tokenizer.infill.eot, engine.tokenizer.eos_id}
    stopped = 0
    for seed in range(30):
        request = InfillRequest("a", "b", (), 64, sampling=Sampling(temperature=20.0, seed=seed))
        result = engine.run(request)
        assert not ends & set(result.ids)
        assert "<|" not in result.text
        stopped += result.finish_reason == "stop"
    assert stopped


def _bytes_text(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


@given(
    text=st.text(alphabet="ab\né☺😀", max_size=30),
    stops=st.lists(st.text(alphabet="ab\né😀", min_size=1, max_size=4), max_size=3),
)
def test_streamed_text_is_whole_and_ends_before_a_stop(text: str, stops: list[str]) -> None:
    """Byte by byte: no broken character, no part of a stop text, and nothing else lost."""
    streamed = StreamedText(_bytes_text, stops)
    pieces = []
    for byte in text.encode():
        pieces.append(streamed.push(byte))
        if streamed.stopped:
            break
    pieces.append(streamed.finish())
    shown = "".join(pieces)
    assert shown == streamed.text
    assert "\ufffd" not in shown
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    assert streamed.stopped == any(stop in text for stop in stops)
    if not streamed.stopped:
        assert shown == text


@given(st.text(alphabet="aé☺😀", min_size=1, max_size=10), st.data())
def test_a_character_cut_off_by_the_limit_is_left_out(text: str, data: st.DataObject) -> None:
    """Where generation ends inside a character, the text ends before it."""
    content = text.encode()
    cut = data.draw(st.integers(0, len(content)))
    streamed = StreamedText(_bytes_text, ())
    shown = "".join([streamed.push(byte) for byte in content[:cut]]) + streamed.finish()
    assert shown == streamed.text == content[:cut].decode("utf-8", "ignore")


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (CompletionRequest("a", 0), "max_tokens"),
        (InfillRequest("a", "b", (), -1), "max_tokens"),
        (CompletionRequest("a", 1, Sampling(temperature=-0.1)), "temperature"),
        (CompletionRequest("a", 1, Sampling(temperature=float("nan"))), "temperature"),
        (CompletionRequest("a", 1, Sampling(temperature=float("inf"))), "temperature"),
        (CompletionRequest("a", 1, Sampling(top_p=0.0)), "top_p"),
        (CompletionRequest("a", 1, Sampling(top_p=1.1)), "top_p"),
        (CompletionRequest("a", 1, Sampling(top_p=float("nan"))), "top_p"),
        (ChatRequest((ChatMessage("user", "hi"),)), "chat"),
    ],
)
def test_impossible_requests_are_refused(engine: Engine, request_: Request, word: str) -> None:
    """A bad value is named before anything is computed."""
    with pytest.raises(InvalidRequest, match=word):
        engine.run(request_)


@pytest.mark.parametrize("extra", [0, 1, 5, 500])
def test_a_request_too_long_names_the_limit(engine: Engine, extra: int) -> None:
    """ContextTooLong says how many tokens the model takes, for completions and infills."""
    with pytest.raises(ContextTooLong, match="1024"):
        engine.run(CompletionRequest("z" * 1024))
    with pytest.raises(ContextTooLong, match="1024"):
        engine.run(InfillRequest("a", "b", (), 1024 - 4 + extra))


def test_an_infill_uses_the_context_and_never_more(engine: Engine) -> None:
    """Long files are cut to fit: the prompt and its answer fill at most the context."""
    result = engine.infill("p" * 5000, "s" * 5000, [Extra("a.py", "x" * 90)], max_tokens=20)
    assert 700 < result.stats.prompt_tokens + 20 <= 1024
    assert [(p.filename, p.kept) for p in result.packed] == [("a.py", True)]


def test_infilling_needs_a_model_that_infills(engine: Engine) -> None:
    """Asked for outright it is refused; `auto` and `prefix` fall back to the prefix."""
    engine.tokenizer.infill = None
    with pytest.raises(InfillUnsupported, match="infill"):
        engine.run(InfillRequest("a", "b", mode="spm"))
    plain = engine.complete("def f", 5).ids
    assert engine.infill("def f", "b", max_tokens=5).ids == plain
    assert engine.infill("def f", "b", max_tokens=5, mode="prefix").ids == plain


def test_a_seed_repeats(engine: Engine) -> None:
    """The same seed gives the same sample, another seed another."""

    def sample(seed: int | None, top_p: float = 1.0) -> tuple[int, ...]:
        return engine.run(CompletionRequest(PROMPT, 16, Sampling(1.0, top_p, seed))).ids

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(None) != sample(None)
    assert sample(5, top_p=1e-9) == engine.complete(PROMPT, 16).ids


def test_max_context_can_be_lowered(checkpoints: dict[str, Path]) -> None:
    """A lower limit holds and is the one that errors name."""
    small = load_engine(str(checkpoints["untied"]), device="cpu", max_context=100)
    assert small.infill("p" * 500, "s" * 500, max_tokens=10).stats.prompt_tokens <= 90
    with pytest.raises(ContextTooLong, match="100 tokens"):
        small.complete("z" * 100)


def test_bfloat16_runs(checkpoints: dict[str, Path]) -> None:
    """The half-size type loads and answers."""
    engine = load_engine(str(checkpoints["untied"]), device="cpu", dtype="bfloat16")
    assert engine.complete(PROMPT, 4).stats.tokens == 4
