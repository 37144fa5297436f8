"""`codellama_lsp.cache`, `timing`, `edits` and `switch`: what keeps up with typing, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from codellama_lsp.cache import Cursor, Suggestions
from codellama_lsp.edits import Edits, passage
from codellama_lsp.settings import CompletionSettings
from codellama_lsp.switch import Switch
from codellama_lsp.timing import Debounce


def at(text: str, uri: str = "u") -> Cursor:
    """The cursor is where | stands."""
    index = text.index("|")
    return Cursor.at(uri, text.replace("|", "", 1), index)


FOUND = [
    # where it was suggested, what, where the cursor is now, what is left
    ("x = |", "f(a)", "x = |", "f(a)"),
    ("x = |", "f(a)", "x = f|", "(a)"),
    ("x = |", "f(a)", "x = f(|)", "a"),
    ("x = |", "f(a)", "x = g|", None),
    ("x = |", "f(a)", "x = f(a)|", None),
    ("x = |", "f(a)", "y = f|", None),
    ("x = |", "f(a)", "x = f|z", None),
    ("x = |\ny", "f(a)", "x = f(|)\ny", "a"),
    ("f {|", "\n  a;\n}", "f {\n  |\n}", "a;"),
    ("x = |\n", '"abc"', 'x = "|"\n', "abc"),
    ("x|", "", "x|", ""),
    ("xy|", "z", "x|", None),
]


@pytest.mark.parametrize(("there", "text", "here", "left"), FOUND)
def test_what_is_found_of_a_suggestion(there: str, text: str, here: str, left: str | None) -> None:
    """Along its own text, before the same text, with pairs that the editor closes; nowhere else."""
    kept: Suggestions[str] = Suggestions()
    kept.put(at(there), text, "why")
    found = kept.find(at(here))
    assert (found and found.text) == left
    assert kept.find(at(here, "other")) is None


@given(st.text(max_size=3000), st.text(min_size=1, max_size=60), st.text(max_size=600), st.data())
def test_a_beginning_always_finds_its_rest(before: str, text: str, after: str, data: st.DataObject) -> None:
    """However long the document is; and where the whole was accepted, `behind` is the same place."""
    kept: Suggestions[str] = Suggestions()
    start = Cursor.at("u", before + after, len(before))
    kept.put(start, text, "why")
    typed = data.draw(st.integers(0, len(text) - 1))
    found = kept.find(Cursor.at("u", before + text[:typed] + after, len(before) + typed))
    assert found is not None
    assert found.text == text[typed:]
    assert start.behind(text) == Cursor.at("u", before + text + after, len(before) + len(text))


def test_the_cache_is_bounded_and_forgets() -> None:
    """The oldest go first; a closed document's go with it."""
    kept: Suggestions[int] = Suggestions(most=3)
    for n in range(5):
        kept.put(at("x" * n + "|"), "text", n)
    assert [kept.find(at("x" * n + "|")) is not None for n in range(5)] == [False, False, True, True, True]
    kept.forget("u")
    assert kept.find(at("xxxx|")) is None


def typed(gaps: list[float], latency_s: float) -> tuple[Debounce, float]:
    debounce, now = Debounce(), 100.0
    for gap in gaps:
        now += gap
        debounce.typed(now)
        debounce.answered(latency_s)
    return debounce, now


def test_the_wait_follows_the_typing() -> None:
    """A little longer than the time between keys, so that pauses alone ask; faster hands wait less."""
    slow, now = typed([0.25] * 60, 0.1)
    assert 0.25 < slow.wait_s(now) < 0.4
    quick, now = typed([0.1] * 60, 0.1)
    assert 0.1 < quick.wait_s(now) < 0.2


def test_the_wait_and_the_answer_together_are_bounded() -> None:
    """A slow model is waited for less; pauses teach nothing; what was waited already counts."""
    slow, now = typed([0.3] * 60, 0.35)
    assert slow.wait_s(now) + 0.35 < 0.55
    before = slow.interval_s
    slow.typed(now + 60)
    assert slow.interval_s == before
    assert slow.wait_s(now + 60.1) == pytest.approx(slow.wait_s(now + 60) - 0.1)
    assert slow.wait_s(now + 61) == 0


def test_a_model_that_answers_at_once_is_asked_at_once() -> None:
    """On a GPU there is nothing to wait for, and nothing before the first key."""
    quick, now = typed([0.2] * 60, 0.005)
    assert quick.wait_s(now) == 0
    assert Debounce().wait_s(5.0) == 0


def test_a_document_that_nobody_types_in_is_not_waited_for() -> None:
    """A look into another file is answered at once."""
    debounce = Debounce()
    debounce.typed(1.0, "a")
    assert debounce.wait_s(1.0, "a") > 0.1
    assert debounce.wait_s(1.0, "b") == 0


def change(line: int, text: str = "x") -> types.TextDocumentContentChangePartial:
    here = types.Position(line, 0)
    return types.TextDocumentContentChangePartial(range=types.Range(here, here), text=text)


def test_edits_are_remembered_by_place() -> None:
    """The newest first, one for each place, none of the document that is asked about, none that are old."""
    edits = Edits()
    edits.add("a", [change(5)], 0)
    edits.add("a", [change(7)], 1)
    edits.add("a", [change(90)], 2)
    edits.add("b", [change(1)], 3)
    assert [(e.uri, e.line) for e in edits.elsewhere("c", 4)] == [("b", 1), ("a", 90), ("a", 7)]
    assert [e.uri for e in edits.elsewhere("a", 4)] == ["b"]
    assert edits.elsewhere("c", 4000) == ()
    edits.forget("b")
    assert [e.uri for e in edits.elsewhere("c", 4)] == ["a", "a"]


def test_a_passage_lies_within_its_document() -> None:
    """Even where lines were deleted since."""
    text = "\n".join(str(n) for n in range(30))
    assert passage(text, 0) == (1, 9, "\n".join(str(n) for n in range(9)))
    assert passage(text, 29)[:2] == (22, 30)
    assert passage("", 40) == (1, 1, "")


def test_what_is_switched_off() -> None:
    """By settings, by toggles, for a while; a narrower toggle never turns on what is off everywhere."""
    switch, settings = Switch(), CompletionSettings(off_languages=("go",))
    assert switch.allows(settings, "/r", "python", 0)
    assert not switch.allows(settings, "/r", "go", 0)
    assert switch.toggle(settings, "language", "go")
    assert switch.allows(settings, "/r", "go", 0)
    assert not switch.toggle(settings, "workspace", "/r")
    assert not switch.allows(settings, "/r", "python", 0)
    assert switch.allows(settings, "/other", "python", 0)
    assert not switch.toggle(settings, "everywhere", "")
    assert not switch.allows(settings, "/other", "python", 0)
    assert switch.toggle(settings, "everywhere", "")
    switch.snooze(10)
    assert switch.asleep(9)
    assert not switch.allows(settings, "/other", "python", 9)
    assert switch.allows(settings, "/other", "python", 10)
