"""The replayed typing session: its keys write the files that they are taken from."""

import pytest
from benchmarks.typing_replay import PROJECT, TYPED, Key, Seen, keystrokes


@pytest.mark.parametrize(("name", "start"), TYPED)
def test_the_keys_write_the_file(name: str, start: str) -> None:
    """Closings that the editor puts in, slips and moves included, and there are long pauses."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    head = text[: text.index(start)]
    keys = list(keystrokes(head, text[len(head) :]))
    lines = head.split("\n")
    for key in keys:
        line = lines[key.line]
        assert key.end <= len(line)
        lines[key.line : key.line + 1] = (line[: key.start] + key.text + line[key.end :]).split("\n")
    assert "\n".join(lines) == text
    assert {"Enter", "Backspace"} <= {key.name for key in keys}
    assert any(len(key.text) == 2 and key.after[1] == key.start + 1 for key in keys), "nothing was closed"
    assert sum(key.pause_s >= 0.7 for key in keys) > 20


def test_there_are_enough_keys() -> None:
    """For the 2,000 that a session takes, within ten minutes."""
    keys = []
    for name, start in TYPED:
        text = (PROJECT / name).read_text(encoding="utf-8")
        head = text[: text.index(start)]
        keys += list(keystrokes(head, text[len(head) :]))
    assert len(keys) >= 2000
    assert {"Up", "Down"} <= {key.name for key in keys[:2000]}
    assert sum(key.pause_s for key in keys[:2000]) < 570


def test_what_is_seen_is_judged() -> None:
    """By what is typed next in the line, and by when it came."""
    key = Key("(", 3, 8, 8, "(", (3, 9), 0.9, "first, second)")
    assert Seen("a", key, 0.0, 1, 0.2, "first, sec").right
    assert not Seen("a", key, 0.0, 1, 0.2, "second").right
    late = {"position": {"line": 3, "character": 9}, "filters": ["confidence"]}
    assert Seen("a", key, 0.0, 1, 0.6, "first", late).reason == "late"
    assert Seen("a", key, 0.0, 1, 0.2, "", late).reason == "confidence"
    assert Seen("a", key, 0.0, 1, None, "", {}).reason == "no answer yet"
