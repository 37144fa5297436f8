"""Prompts and answers that fit a latency, from measured rates."""

from codellama.assist.pace import Pace, Room
from codellama.runtime.records import Stats

ALL = Room(160_000, 64)


def test_a_server_that_tells_no_times_gets_everything() -> None:
    """The first prompt is short all the same: nobody knows yet whether it will tell."""
    pace = Pace()
    first = pace.room(0.3, 64, 160_000)
    assert first.max_tokens == 64
    assert 768 <= first.prompt_bytes < 2000
    pace.learn(Stats(prompt_tokens=900, tokens=20))
    assert pace.room(0.3, 64, 160_000) == ALL
    pace.learn(Stats(prompt_tokens=900, prefill_s=0.9, tokens=20))
    assert pace.room(0.3, 64, 160_000).prompt_bytes < 2000


def test_a_slow_server_gets_less() -> None:
    """Half the rate, half the tokens; never less than a suggestion needs."""
    slow, slower, slowest = Pace(), Pace(), Pace()
    slow.told(4000, 200)
    slower.told(2000, 100)
    slowest.told(1, 1)
    assert slow.room(0.3, 64, 160_000).max_tokens == 26
    assert slower.room(0.3, 64, 160_000).max_tokens == 13
    assert slow.room(0.3, 64, 160_000).prompt_bytes == 2 * slower.room(0.3, 64, 160_000).prompt_bytes
    assert slowest.room(0.3, 64, 160_000) == Room(768, 8)


def test_what_the_rest_takes_is_taken_off() -> None:
    """Time beside the model leaves it less, and never nothing."""
    pace = Pace()
    pace.told(4000, 200)
    before = pace.room(0.3, 64, 160_000)
    for _ in range(30):
        pace.learn(Stats(prefill_s=0.1, decode_s=0.1), 0.35)
    assert pace.room(0.3, 64, 160_000).prompt_bytes < before.prompt_bytes
    for _ in range(30):
        pace.learn(Stats(), 9.0)
    assert pace.room(0.3, 64, 160_000).max_tokens == 9


def test_a_prompt_that_is_cached_may_be_long() -> None:
    """Near where a long one was computed, in that document, while the server still has it."""
    pace = Pace()
    pace.told(4000, 200)
    short, long = (pace.room(0.3, 64, 160_000, warm=warm).prompt_bytes for warm in (False, True))
    assert long == 4 * short
    pace.warmed("a", 5000)
    assert pace.is_warm("a", 5200)
    assert not pace.is_warm("a", 50_000)
    assert not pace.is_warm("b", 5000)
    for n in range(8):
        pace.warmed("b", 9000 * n)
    assert not pace.is_warm("a", 5000)


def test_a_fast_server_is_not_held_back() -> None:
    """A GPU takes all that is allowed."""
    pace = Pace()
    pace.told(200_000, 2000)
    assert pace.room(0.3, 64, 60_000) == Room(60_000, 64)


def test_answers_teach() -> None:
    """What answers took counts from then on; an answer of no tokens, or a cached prompt, teaches nothing."""
    pace = Pace()
    pace.told(1000, 100)
    pace.learn(Stats(prompt_tokens=500, reused_tokens=490, prefill_s=9.0, decode_s=9.0, tokens=1))
    assert (pace.prefill, pace.decode) == (1000, 100)
    for _ in range(30):
        pace.learn(Stats(prompt_tokens=600, reused_tokens=100, prefill_s=1.0, decode_s=1.0, tokens=50))
    assert pace.prefill is not None
    assert pace.decode is not None
    assert abs(pace.prefill - 500) < 1
    assert abs(pace.decode - 50) < 1
