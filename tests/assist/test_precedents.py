"""How a line went on elsewhere in the repository."""

import math
import os
import threading

import pytest

from codellama.assist import precedents
from codellama.assist.precedents import Precedents, guesses_at
from codellama.assist.sureness import SHOWN
from codellama.runtime.evidence import Guess
from codellama_index import Index
from codellama_index.records import OpenDocument

LINE = "wait = retry_delay(attempt, limit=60.0)"
OTHER = f"def first(attempt):\n    {LINE}\n    sleep(wait)\n"
PREFIX = "def second(attempt):\n    wait = retry_"
SUFFIX = "\n    sleep(wait)\n"


def whole(guesses: list[Guess]) -> Guess | None:
    return max((g for g in guesses if g.whole), key=lambda g: g.confidence, default=None)


def test_a_files_line_is_found_and_an_edit_counts(index: Index) -> None:
    """A line of another file of the repository; after a change on disk and a new look, the new line."""
    (index.root / "other.py").write_text(OTHER)
    known = Precedents()
    guess = whole(known.guesses(index, "new.py", PREFIX, SUFFIX))
    assert guess is not None
    assert (guess.text, guess.source, guess.confirmed) == ("delay(attempt, limit=60.0)", "other.py", True)
    assert guess.confidence > SHOWN
    (index.root / "other.py").write_text(OTHER.replace("60.0", "90.5"))
    os.utime(index.root / "other.py", ns=(1, 1))
    known._listed = -math.inf
    guess = whole(known.guesses(index, "new.py", PREFIX, SUFFIX))
    assert guess is not None
    assert "90.5" in guess.text
    (index.root / "other.py").unlink()
    known._listed = -math.inf
    gone = whole(known.guesses(index, "new.py", PREFIX, SUFFIX))
    assert gone is None or "90.5" not in gone.text


def test_open_buffers_speak_before_the_disk(index: Index) -> None:
    """The text in the editor counts, not the file's; without an index, buffers are all there is."""
    (index.root / "other.py").write_text(OTHER)
    buffer = (OpenDocument("other.py", OTHER.replace("60.0", "30.0")),)
    for known in (index, None):
        guess = whole(guesses_at(known, "new.py", PREFIX, SUFFIX, buffer))
        assert guess is not None
        assert "30.0" in guess.text
    assert guesses_at(None, "new.py", PREFIX, SUFFIX) == []


def test_files_with_secrets_and_of_other_languages_are_silent(index: Index) -> None:
    """What the index refuses is not read, nor what the cursor's language is not."""
    (index.root / "other.md").write_text(OTHER)
    (index.root / "keys.py").write_text(OTHER + f"key = 'AKIA{'A' * 16}'\n")
    guesses = guesses_at(index, "new.py", PREFIX, SUFFIX)
    assert not {guess.source for guess in guesses} & {"other.md", "keys.py"}


def test_what_is_read_while_nobody_waits_is_there(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess that has no time to look for files finds none of them; once they were read it does; a file that
    is gone is forgotten at the next look."""
    (index.root / "other.py").write_text(OTHER)
    known = Precedents()

    def sources() -> set[str]:
        return {guess.source for guess in known.guesses(index, "new.py", PREFIX, SUFFIX)}

    monkeypatch.setattr(precedents, "_READ_S", -1.0)
    assert sources() == set()
    known.read_on(index, "new.py", threading.Event())
    assert "other.py" in sources()
    (index.root / "other.py").unlink()
    known.read_on(index, "new.py", threading.Event())
    assert "other.py" in sources(), "it looks every twenty seconds"
    monkeypatch.setattr(precedents, "_LISTED_S", -1.0)
    known._look_s = 0.0
    known.read_on(index, "new.py", threading.Event())
    assert "other.py" not in sources()
