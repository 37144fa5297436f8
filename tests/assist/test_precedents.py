"""How a line went on elsewhere in the repository, and when that is shown in the model's stead."""

import math
import os
from dataclasses import replace

import pytest

from codellama.assist.precedents import SHOWN, Precedents, guess_at, surer
from codellama.runtime.evidence import Guess
from codellama.runtime.records import Stats
from codellama_index import Index
from codellama_index.records import OpenDocument

LINE = "wait = retry_delay(attempt, limit=60.0)"
OTHER = f"def first(attempt):\n    {LINE}\n    sleep(wait)\n"
PREFIX = "def second(attempt):\n    wait = retry_"
SUFFIX = "\n    sleep(wait)\n"
SURE = Guess("delay(1)", matched=12, support=3, share=1.0, confirmed=True, own=False, source="a.py")
DOUBTFUL = replace(SURE, matched=2, support=1, share=0.1, confirmed=False)


def test_a_files_line_is_found_and_an_edit_counts(index: Index) -> None:
    """A line of another file of the repository; after a change on disk and a new look, the new line."""
    (index.root / "other.py").write_text(OTHER)
    known = Precedents()
    guess = known.guess(index, "new.py", PREFIX, SUFFIX)
    assert guess is not None
    assert (guess.text, guess.source, guess.confirmed) == ("delay(attempt, limit=60.0)", "other.py", True)
    assert guess.confidence > SHOWN
    (index.root / "other.py").write_text(OTHER.replace("60.0", "90.5"))
    os.utime(index.root / "other.py", ns=(1, 1))
    known._listed = -math.inf
    guess = known.guess(index, "new.py", PREFIX, SUFFIX)
    assert guess is not None
    assert "90.5" in guess.text
    (index.root / "other.py").unlink()
    known._listed = -math.inf
    gone = known.guess(index, "new.py", PREFIX, SUFFIX)
    assert gone is None or "90.5" not in gone.text


def test_open_buffers_speak_before_the_disk(index: Index) -> None:
    """The text in the editor counts, not the file's; without an index, buffers are all there is."""
    (index.root / "other.py").write_text(OTHER)
    buffer = (OpenDocument("other.py", OTHER.replace("60.0", "30.0")),)
    for known in (index, None):
        guess = guess_at(known, "new.py", PREFIX, SUFFIX, buffer)
        assert guess is not None
        assert "30.0" in guess.text
    assert guess_at(None, "new.py", PREFIX, SUFFIX) is None


def test_files_with_secrets_and_of_other_languages_are_silent(index: Index) -> None:
    """What the index refuses is not read, nor what the cursor's language is not."""
    (index.root / "other.md").write_text(OTHER)
    (index.root / "keys.py").write_text(OTHER + f"key = 'AKIA{'A' * 16}'\n")
    guess = guess_at(index, "new.py", PREFIX, SUFFIX)
    assert guess is None or guess.source not in ("other.md", "keys.py")


@pytest.mark.parametrize(
    ("text", "logprob", "guess", "trust", "shown"),
    [
        ("model()", -0.01, None, 0.3, "model()"),
        ("model()", -2.0, None, 0.3, ""),
        ("model()", -2.0, None, 1.0, "model()"),
        ("model()", None, SURE, 0.3, "model()"),
        ("model()", -2.0, SURE, 1.0, "delay(1)"),
        ("model()", -0.01, SURE, 1.0, "model()"),
        ("model()", -0.01, SURE, 0.3, "delay(1)"),
        ("", -0.01, SURE, 1.0, "delay(1)"),
        ("", None, SURE, 0.3, "delay(1)"),
        ("model()", -2.0, DOUBTFUL, 1.0, "model()"),
        ("", -2.0, DOUBTFUL, 1.0, ""),
        ("delay(1)\n    more()", -2.0, SURE, 0.3, "delay(1)\n    more()"),
    ],
)
def test_the_surer_is_shown(
    text: str, logprob: float | None, guess: Guess | None, trust: float, shown: str
) -> None:
    """By the model's probability for its first line and the guess's; agreement keeps the model's text."""
    stats = Stats(tokens=4, mean_logprob=logprob)
    assert DOUBTFUL.confidence < SHOWN < SURE.confidence < math.exp(-0.04)
    chosen, by = surer(text, text or "x", stats, guess, trust)
    assert chosen == shown
    assert by is (guess if shown == "delay(1)" else None)
