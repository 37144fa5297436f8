"""`codellama_lsp.positions` against a reference that counts one character at a time."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codellama_lsp.positions import Encoding, Lines, well_formed

ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-16", "utf-32")

# Every length of UTF-8 and UTF-16, all LSP line breaks, and what only others take for one.
texts = st.text(st.sampled_from("ab\té\u00df\u20ac\U0001f600\U00020000\n\r\v\f\u0085\u2028\u2029"))
any_text = st.one_of(texts, st.text())
encodings = st.sampled_from(ENCODINGS)


def units(char: str, encoding: Encoding) -> int:
    if encoding == "utf-32":
        return 1
    if encoding == "utf-16":
        return 2 if ord(char) > 0xFFFF else 1
    return len(char.encode())


def walk(text: str, encoding: Encoding) -> list[tuple[int, int, int]]:
    """(index, line, character) of every place a cursor can stand at, in order."""
    places = []
    line = character = index = 0
    while index < len(text):
        places.append((index, line, character))
        if text[index] in "\r\n":
            index += 2 if text[index : index + 2] == "\r\n" else 1
            line, character = line + 1, 0
        else:
            character += units(text[index], encoding)
            index += 1
    return [*places, (index, line, character)]


@given(any_text, encodings)
def test_every_place_agrees_with_the_reference(text: str, encoding: Encoding) -> None:
    """Positions become the index and byte offset that counting finds, and come back."""
    lines = Lines(text, encoding)
    for index, line, character in walk(text, encoding):
        offset = len(text[:index].encode())
        assert lines.index(line, character) == index
        assert lines.offset(line, character) == offset
        assert lines.position(offset) == (line, character)


@example("é", "utf-8", 0, 1)
@example("😀", "utf-16", 0, 1)
@given(any_text, encodings, st.integers(-1, 3), st.integers(-1, 9))
def test_any_position_lands_inside_the_text(text: str, encoding: Encoding, line: int, character: int) -> None:
    """A position that is not there means the nearest one before it on its line, or the end."""
    here = [place for place in walk(text, encoding) if place[1] == line]
    if line < 0:
        expected = 0
    elif not here:
        expected = len(text)
    else:
        expected = max((index for index, _, column in here if column <= character), default=here[0][0])
    assert Lines(text, encoding).index(line, character) == expected


@example("\r\n", "utf-16", 1)
@given(any_text, encodings, st.integers(-1, 20))
def test_any_offset_lands_on_a_place(text: str, encoding: Encoding, offset: int) -> None:
    """An offset inside a character or a line break means the place before it."""
    places = walk(text, encoding)
    expected = max((place for place in places if len(text[: place[0]].encode()) <= offset), default=places[0])
    assert Lines(text, encoding).position(offset) == expected[1:]


def test_form_feed_and_line_separator_are_text() -> None:
    """Only \\n, \\r\\n and \\r end a line, unlike what str.splitlines thinks."""
    assert Lines("a\fb\u2028c\u0085d", "utf-16").position(9) == (0, 6)


@pytest.mark.parametrize(("encoding", "character"), [("utf-8", 7), ("utf-16", 5), ("utf-32", 4)])
def test_the_example_of_the_protocol(encoding: Encoding, character: int) -> None:
    """The closing quotation mark of x="😋" in each encoding."""
    assert Lines('x="😋"', encoding).index(0, character) == 4


@given(st.text(st.characters(categories=["L", "Cs"])))
def test_half_surrogates_become_replacement_characters(text: str) -> None:
    """The result can be encoded and counts the same in UTF-16."""
    mended = well_formed(text)
    mended.encode()
    assert len(mended.encode("utf-16-le")) == len(text.encode("utf-16-le", "surrogatepass"))
