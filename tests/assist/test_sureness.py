"""What is sure enough to be shown: whole lines, beginnings, the model's or the repository's."""

import math
from dataclasses import replace

import pytest

from codellama.assist.sureness import SHOWN, Offer, of_guesses, of_model, pick
from codellama.runtime.evidence import Guess
from codellama.runtime.records import Result, Stats

SURE = Guess("delay(1)", matched=12, support=3, share=1.0, confirmed=True, own=False, source="a.py")
DOUBTFUL = replace(SURE, matched=2, support=1, share=0.1, confirmed=False)


def said(text: str, *steps: tuple[int, float], mean: float | None = None) -> Result:
    """An answer whose steps have these ends and probabilities."""
    logs = tuple((end, math.log(p)) for end, p in steps)
    if mean is None and logs:
        mean = sum(log for _, log in logs) / len(logs)
    return Result(text, (), "stop", Stats(tokens=4, mean_logprob=mean), (), logs)


@pytest.mark.parametrize(
    ("text", "mean", "guess", "trust", "shown"),
    [
        ("model()", -0.01, None, 0.3, "model()"),
        ("model()", -2.0, None, 0.3, ""),
        ("model()", -1.0, None, 1.0, "model()"),
        ("model()", -2.0, None, 1.0, ""),
        ("model()", None, DOUBTFUL, 0.3, "model()"),
        ("model()", -1.0, SURE, 1.0, "delay(1)"),
        ("model()", -0.001, SURE, 1.0, "model()"),
        ("model()", -0.01, SURE, 0.3, "delay(1)"),
        ("", -0.01, SURE, 1.0, "delay(1)"),
        ("model()", -1.0, DOUBTFUL, 1.0, "model()"),
        ("", -2.0, DOUBTFUL, 1.0, ""),
        ("delay(1)\n    more()", -2.0, SURE, 0.3, "delay(1)\n    more()"),
    ],
)
def test_the_surer_whole_is_shown(
    text: str, mean: float | None, guess: Guess | None, trust: float, shown: str
) -> None:
    """By the model's probability for its first line and the guess's; agreement keeps the model's text."""
    assert DOUBTFUL.confidence < SHOWN < SURE.confidence < 0.99
    guesses = of_guesses([guess] if guess else [])
    chosen = pick([*of_model(text, said(text or "x", mean=mean), trust), *guesses])
    assert (chosen.text if chosen else "") == shown
    assert (chosen.guess if chosen else None) is (guess if shown == "delay(1)" else None)


def test_a_line_that_is_not_sure_shows_its_sure_beginning() -> None:
    """As far as the product of the tokens' probabilities holds, to a word's end; the ending counts too."""
    text = "retry_delay(attempt, limit=60.0)"
    answer = said(
        text, (6, 0.9), (11, 0.9), (12, 0.9), (19, 0.95), (21, 0.3), (26, 0.5), (32, 0.1), (32, 0.9)
    )
    chosen = pick(of_model(text, answer, 0.3))
    assert chosen is not None
    assert (chosen.text, chosen.whole) == ("retry_delay(attempt", False)
    assert chosen.sure == pytest.approx(0.9**3 * 0.95)
    cut = said(text, (6, 0.9), (11, 0.1), (32, 0.9))
    assert pick(of_model(text, cut, 0.3)) is None, "half a name is no beginning"
    unsure_end = said("value", (5, 0.9), (5, 0.1))
    assert pick(of_model("value", unsure_end, 1.0, least=0.5)) == Offer("value", 0.9 * 0.1, stands=True)
    assert pick(of_model("value", unsure_end, 0.3, least=0.5)) == Offer("value", 0.9, whole=False)


def test_a_line_too_short_to_be_read_goes_on() -> None:
    """A colon alone is no suggestion: the beginning of the block behind it may be one."""
    answer = said(
        ":\n    self.value = 0", (1, 0.9), (6, 0.9), (10, 0.9), (16, 0.9), (18, 0.2), (20, 0.1), (20, 0.9)
    )
    chosen = pick(of_model(answer.text, answer, 0.2))
    assert chosen is not None
    assert (chosen.text, chosen.whole) == (":\n    self.value", False)


def test_a_block_ends_before_a_line_that_is_not_sure() -> None:
    """Of a model that is not trusted fully; a trusted one's block stays whole."""
    text = "a = first()\nb = second()\nc = third()"
    answer = said(text, (11, 0.9), (12, 0.9), (24, 0.9), (25, 0.9), (36, 0.1), (36, 0.9))
    assert of_model(text, answer, 0.9)[0].text == "a = first()\nb = second()"
    assert of_model(text, answer, 1.0)[0].text == text


def test_of_beginnings_the_one_that_promises_most() -> None:
    """Sureness against length: neither one sure word nor a long one that is hardly so."""
    offers = [Offer("abc", 0.6, whole=False), Offer("abc = defgh", 0.5, whole=False), Offer("x" * 99, 0.1)]
    assert pick(offers) == offers[1]


def test_a_beginning_needs_less_than_a_line() -> None:
    """Three quarters of it: it claims less. A line that is sure enough goes before it all the same."""
    line, beginning = Offer("value + 1", 0.21), Offer("value", 0.16, whole=False)
    assert pick([beginning, line], least=0.2) == line
    doubtful = replace(line, sure=0.15)
    assert pick([beginning, doubtful], least=0.2) == beginning
    assert pick([replace(beginning, sure=0.14), doubtful], least=0.2) is None


def test_of_two_who_say_what_the_model_says_the_surer_counts() -> None:
    """In whichever order the file and the repository come."""
    model = Offer("delay(1)", 0.1)
    guesses = [Offer("delay(1)", 0.6, SURE), Offer("delay(1)", 0.1, DOUBTFUL)]
    for both in (guesses, guesses[::-1]):
        assert pick([model, *both], least=0.2) == replace(model, sure=0.6)


def test_what_filtering_moved_is_found_again() -> None:
    """An answer without its indentation, or cut short, is as sure as its own tokens."""
    answer = said("    go(on)", (4, 0.1), (6, 0.9), (10, 0.9))
    assert of_model("go(on)", answer, 0.5)[0].sure == pytest.approx(0.5 * 0.1 * 0.9 * 0.9)
    assert of_model("gone", answer, 1.0)[0].whole
