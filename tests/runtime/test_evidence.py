"""What a repository's own texts say comes next: found exactly, the longest match first."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.runtime.evidence import LONGEST, ORDERS, Evidence, NGrams

OTHER = """import logging

log = logging.getLogger(__name__)


def load(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    log.debug("loaded %s", path)
    return data
"""


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=30))
def test_every_match_is_found_with_its_length(ids: list[int], context: list[int]) -> None:
    """For each order, the same places as by looking everywhere, the last first, and how far they agree."""
    grams = NGrams(ids)
    for order in ORDERS:
        if len(context) < order:
            continue
        starts = [n for n in range(len(ids) - order + 1) if ids[n : n + order] == context[-order:]]
        assert list(grams.places(context[-order:])) == starts[::-1]
        for place in (start + order for start in starts):
            matched = 0
            while (
                matched < min(place, len(context), LONGEST)
                and ids[place - 1 - matched] == context[-1 - matched]
            ):
                matched += 1
            assert grams.matched(place, context) == matched


def test_a_line_goes_on_as_it_did_in_another_file() -> None:
    """The rest of a line that stands elsewhere, inside a word too, with the file that says so."""
    evidence = Evidence()
    evidence.put("a.py", OTHER)
    start = "import os\n\n\ndef read(name):\n        with open(name"
    assert evidence.rest_of_line("def g(path):\n    with open(path, enc").text == 'oding="utf-8") as file:'
    guess = evidence.rest_of_line("import logging\n\nlog = logging.")
    assert (guess.text, guess.source, guess.own) == ("getLogger(__name__)", "a.py", False)
    assert evidence.rest_of_line(start.replace("open", "unheard_of")) is None


def test_what_the_next_line_confirms_is_surer() -> None:
    """A guess whose next line is the one after the cursor wins over a more frequent one."""
    evidence = Evidence()
    evidence.put("a.py", "if x:\n    a = f(1)\n    go()\n" * 3)
    evidence.put("b.py", "if x:\n    a = f(2)\n    stop()\n")
    plain, confirmed = (evidence.rest_of_line("if x:\n    a = ", rest) for rest in ("\n", "\n    stop()\n"))
    assert (plain.text, plain.confirmed) == ("f(1)", False)
    assert (confirmed.text, confirmed.confirmed) == ("f(2)", True)
    assert confirmed.confidence > 0.1


def test_a_guess_at_a_lines_start_is_indented() -> None:
    """Before the indentation it is part of the guess; after it, it is not."""
    evidence = Evidence()
    evidence.put("a.py", OTHER)
    begun = OTHER[: OTHER.index("    log.debug")]
    for prefix, missing in ((begun, "    log.debug"), (begun + "    ", "log.debug")):
        guess = evidence.rest_of_line(prefix)
        assert guess is not None
        assert guess.text.startswith(missing)


def test_the_line_above_a_known_line_is_found() -> None:
    """Where nothing before the cursor is known, the line that stands above the next line elsewhere."""
    evidence = Evidence()
    evidence.put("a.py", "alpha()\nresult = gather(items, limit=3)\nfor item in result:\n    show(item)\n")
    guess = evidence.rest_of_line("beta()\n\nres", "\nfor item in result:\n")
    assert guess is not None
    assert (guess.text, guess.confirmed) == ("ult = gather(items, limit=3)", True)


def test_the_cursors_own_file_speaks_by_its_text_alone() -> None:
    """Prefix and suffix count; the state of the file that was put before, `without`, does not."""
    evidence = Evidence()
    evidence.put("a.py", "total = compute(old_name)\n")
    text = "total = compute(new_name)\n\n\ntotal = "
    guess = evidence.rest_of_line(text, without=("a.py",))
    assert (guess.text, guess.own) == ("compute(new_name)", True)
    assert evidence.rest_of_line("total = ", without=("a.py",)) is None
    assert evidence.rest_of_line("total = ", "\n" + text[:26], without=("a.py",)).text == "compute(new_name)"


def test_a_text_is_replaced_and_dropped() -> None:
    """An edit counts at once, and what is gone says nothing."""
    evidence = Evidence()
    for text in ("value = first()\n", "value = second()\n"):
        evidence.put("a.py", text)
        assert evidence.rest_of_line("value = ").text == text[8:-1]
    evidence.drop("a.py")
    evidence.drop("a.py")
    assert "a.py" not in evidence
    assert evidence.rest_of_line("value = ") is None


def test_confidence_rises_with_what_speaks_for_a_guess() -> None:
    """A probability; longer matches and more agreement make it larger."""
    evidence = Evidence()
    evidence.put("a.py", OTHER * 3)
    short = evidence.rest_of_line("    log.")
    long = evidence.rest_of_line(OTHER[: OTHER.index("log.debug") + 4], "\n    return data\n")
    assert short.text == long.text == 'debug("loaded %s", path)'
    assert 0 < short.confidence < long.confidence < 1


@pytest.mark.parametrize("prefix", ["", "\n", "   ", "é☺\x00", "x", "(", "a" * 5000])
def test_any_prefix_is_answered(prefix: str) -> None:
    """Nothing, white space, odd characters and endless words give a guess or none, and no error."""
    evidence = Evidence()
    evidence.put("empty.py", "")
    evidence.put("a.py", OTHER)
    guess = evidence.rest_of_line(prefix, prefix)
    assert guess is None or ("\n" not in guess.text and 0 < guess.confidence < 1)


def test_a_guess_never_reaches_past_its_line() -> None:
    """Random texts of few words: every guess is the rest of some line of them."""
    chance = random.Random(0)
    words = ["a", "b", "(", ")", " ", "\n", "\n    "]
    texts = ["".join(chance.choices(words, k=80)) for _ in range(20)]
    evidence = Evidence()
    for n, text in enumerate(texts):
        evidence.put(str(n), text)
    lines = {line.rstrip() for text in texts for line in text.split("\n")}
    for _ in range(100):
        text = chance.choice(texts)
        guess = evidence.rest_of_line(text[: chance.randrange(80)])
        assert guess is None or guess.own or any(line.endswith(guess.text) for line in lines)


def test_a_beginning_is_what_most_places_agree_on() -> None:
    """Where the rests differ, the words they share are surer than any of them; an end ends the agreement."""
    evidence = Evidence()
    for n, name in enumerate(("first", "second", "third")):
        evidence.put(f"{n}.py", f"    log.warning(message, {name})\n")
    evidence.put("4.py", "    log.error(1)\n")
    guesses = evidence.guesses("def f():\n    log.")
    beginnings = [guess for guess in guesses if not guess.whole]
    longest = max(beginnings, key=lambda guess: (guess.support, len(guess.text)))
    assert (longest.text, longest.support) == ("warning(message,", 3)
    assert longest.share > next(guess for guess in guesses if guess.whole).share
