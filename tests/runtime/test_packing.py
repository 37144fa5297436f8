"""Packing never exceeds its room and says truly what it kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.runtime.families import control_tokens
from codellama.runtime.packing import BLOCK_LINES, block_lines, pack
from codellama.runtime.prompts import extra_text
from codellama.runtime.records import Extra
from codellama.runtime.tokenizer import Tokenizer, tiktoken_tokenizer


def _bytes_tokenizer() -> Tokenizer:
    """A token a byte, so that room can be counted by eye."""
    control = control_tokens({"<|bos|>": 256, "<|eos|>": 257})
    assert control is not None
    return tiktoken_tokenizer({bytes([b]): b for b in range(256)}, control, "llama-bpe")


TOKENIZER = _bytes_tokenizer()
_text = st.text("ab é\n", max_size=120)
_extras = st.lists(
    st.builds(Extra, st.sampled_from(["a.py", "b.go", "c\n.rs"]), _text, st.sampled_from([0.0, 1.0, 2.0])),
    max_size=5,
)


@given(prefix=_text, suffix=_text, extras=_extras, room=st.integers(0, 400))
def test_the_total_never_exceeds_the_room(prefix: str, suffix: str, extras: list[Extra], room: int) -> None:
    """What is kept fits, `packed` tells exactly what that is, and the given order is kept."""
    parts = pack(TOKENIZER, prefix, suffix, extras, room)
    assert len(parts.prefix) + len(parts.suffix) + sum(map(len, parts.extras)) <= room
    encoded = [TOKENIZER.encode(extra_text(e.filename, e.text)) for e in extras]
    assert [(p.filename, p.tokens) for p in parts.packed] == [
        (e.filename, len(ids)) for e, ids in zip(extras, encoded, strict=True)
    ]
    assert parts.extras == [ids for p, ids in zip(parts.packed, encoded, strict=True) if p.kept]
    assert TOKENIZER.encode(prefix)[len(TOKENIZER.encode(prefix)) - len(parts.prefix) :] == parts.prefix
    assert TOKENIZER.encode(suffix)[: len(parts.suffix)] == parts.suffix


def test_no_room_is_exceeded_by_a_single_token() -> None:
    """Room for room, where prefix and extras together all but fill it."""
    extras = [Extra("a.py", "a" * size) for size in (12, 3, 30)]
    for room in range(300):
        parts = pack(TOKENIZER, "p" * 90, "s" * 20, extras, room)
        assert len(parts.prefix) + len(parts.suffix) + sum(map(len, parts.extras)) <= room


@given(extras=_extras, room=st.integers(0, 400))
def test_the_highest_priority_is_kept_first(extras: list[Extra], room: int) -> None:
    """An extra is dropped only for ones before it by priority: a smaller or equal one that is kept
    while it is dropped had no claim to its place."""
    packed = pack(TOKENIZER, "", "", extras, room).packed
    for dropped, what in zip(packed, extras, strict=True):
        for kept, other in zip(packed, extras, strict=True):
            if not dropped.kept and kept.kept and other.priority < what.priority:
                assert kept.tokens < dropped.tokens


def test_extras_are_kept_by_priority_and_stay_in_order() -> None:
    """Of three where two fit, the least goes, and the others keep the order they came in."""
    extras = [Extra("a.py", "a" * 20, 1.0), Extra("b.py", "b" * 20, 0.0), Extra("c.py", "c" * 20, 2.0)]
    size = len(TOKENIZER.encode(extra_text("a.py", "a" * 20)))
    parts = pack(TOKENIZER, "x" * 10, "", extras, 4 * size + 10)
    assert [p.kept for p in parts.packed] == [True, False, True]
    assert [TOKENIZER.decode(ids)[8:12] for ids in parts.extras] == ["a.py", "c.py"]


@pytest.mark.parametrize("room", [60, 200, 500, 1000, 2000, 4000])
def test_the_window_begins_at_a_block_of_lines(room: int) -> None:
    """Where the room holds a block the prefix begins at one, so typing on does not move it; no block that
    would fit is left out."""
    lines = [f"{n:05d}\n" for n in range(1000)]
    block = block_lines(room)
    assert block == BLOCK_LINES or block * 48 > room
    text = TOKENIZER.decode(pack(TOKENIZER, "".join(lines), "", (), room).prefix)
    assert text.endswith(lines[-1])
    assert int(text[:5]) % block == 0
    assert len(text) <= room < len(text) + len(lines[0]) * block
    after = TOKENIZER.decode(pack(TOKENIZER, "".join(lines) + "x", "", (), room).prefix)
    assert after in (text + "x", text[block * len(lines[0]) :] + "x")


@pytest.mark.parametrize("room", [150, 570, 1900])
def test_typing_keeps_what_was_read(room: int) -> None:
    """While forty lines are typed at the end of a long file, in small contexts too, nine tenths of the
    prompts begin as the one before did, and at least a third of the room is used."""
    text = "".join(f" v{n}=f({n})\n" for n in range(440))
    ends = range(len(text) - 500, len(text), 3)
    before: list[int] = []
    shares = []
    for end in ends:
        now = pack(TOKENIZER, text[:end], "", (), room).prefix
        assert len(now) > room / 3
        shared = next((n for n, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before))
        shares.append(min(shared, len(now)) / len(now))
        before = now
    assert sum(shares[1:]) / (len(shares) - 1) > 0.9


def test_a_line_longer_than_the_room() -> None:
    """What has no end within the room is cut at a token."""
    assert TOKENIZER.decode(pack(TOKENIZER, "a\n" + "b" * 500, "", (), 100).prefix) == "b" * 100


def test_a_short_file_is_sent_whole() -> None:
    """What fits is not cut at all."""
    parts = pack(TOKENIZER, "prefix\n" * 9, "suffix\n" * 3, [Extra("a.py", "x")], 400)
    assert TOKENIZER.decode(parts.prefix) == "prefix\n" * 9
    assert TOKENIZER.decode(parts.suffix) == "suffix\n" * 3
    assert parts.packed[0].kept


def test_a_long_suffix_is_cut_after_a_line() -> None:
    """The suffix gets at most a quarter and ends where a line does."""
    suffix = TOKENIZER.decode(pack(TOKENIZER, "", "0123456\n" * 100, (), 400).suffix)
    assert suffix == "0123456\n" * 12


def test_a_long_prefix_leaves_room_for_extras() -> None:
    """Extras get their share of a context that the file alone would fill."""
    parts = pack(TOKENIZER, "p" * 5000, "", [Extra("a.py", "x" * 50)], 400)
    assert parts.packed[0].kept
    assert len(parts.prefix) >= 200


def test_an_extras_name_cannot_leave_its_comment() -> None:
    """Line breaks in a file's name are dropped."""
    assert extra_text("a\nimport os\r.py", "x") == "# Path: aimport os.py\nx\n"
    assert extra_text("a.go", "x").startswith("// Path: a.go\n")
