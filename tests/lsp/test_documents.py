"""`codellama_lsp.documents`: the editor's edits, applied as the editor applies them."""

from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from codellama_lsp.documents import Documents
from codellama_lsp.positions import Lines

URI = "file:///a.py"


def opened(text: str) -> Documents:
    documents = Documents()
    documents.open(types.TextDocumentItem(URI, "python", 1, text))
    return documents


def partial(
    start: tuple[int, int], end: tuple[int, int], text: str
) -> types.TextDocumentContentChangePartial:
    span = types.Range(types.Position(*start), types.Position(*end))
    return types.TextDocumentContentChangePartial(range=span, text=text)


def text_of(documents: Documents) -> str:
    document = documents.get(URI)
    assert document is not None
    return document.text


def test_edits_apply_in_order() -> None:
    """Each edit counts from the text the one before it left."""
    documents = opened("one\ntwo\n")
    documents.change(URI, 2, [partial((0, 3), (1, 0), " "), partial((0, 4), (0, 7), "2")])
    assert text_of(documents) == "one 2\n"
    document = documents.get(URI)
    assert document is not None
    assert document.version == 2


def test_a_whole_text_replaces_everything() -> None:
    """A change without a range is the whole document."""
    documents = opened("old")
    documents.change(URI, 2, [types.TextDocumentContentChangeWholeDocument(text="new")])
    assert text_of(documents) == "new"


def test_a_form_feed_moves_no_line() -> None:
    """An edit after a form feed or U+2028 lands where the editor made it."""
    documents = opened("a\fb\nc\u2028d\ne")
    documents.change(URI, 2, [partial((2, 0), (2, 1), "E")])
    assert text_of(documents) == "a\fb\nc\u2028d\nE"


def test_an_edit_counts_utf16_units() -> None:
    """An astral character counts two by default."""
    documents = opened("😀x")
    documents.change(URI, 2, [partial((0, 2), (0, 3), "y")])
    assert text_of(documents) == "😀y"


def test_a_request_keeps_the_version_it_saw() -> None:
    """An edit makes a new document and leaves the old one as it was."""
    documents = opened("old")
    seen = documents.get(URI)
    documents.change(URI, 2, [partial((0, 0), (0, 3), "new")])
    assert seen is not None
    assert seen.text == "old"


def test_edits_of_unknown_documents_are_ignored() -> None:
    """A client that edits or closes what it never opened does no harm."""
    documents = Documents()
    documents.change(URI, 2, [partial((0, 0), (0, 0), "x")])
    documents.close(URI)
    assert documents.get(URI) is None


alphabet = st.text(st.sampled_from("ab\n\r\f\u2028é😀"), max_size=12)


@given(alphabet, alphabet, st.integers(0, 12), st.integers(0, 12))
def test_an_edit_is_a_splice(text: str, new: str, one: int, other: int) -> None:
    """Replacing a range of positions is replacing the characters between them."""
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    lines = Lines(text, "utf-16")
    first = lines.position(len(text[:start].encode()))
    last = lines.position(len(text[:end].encode()))
    documents = opened(text)
    documents.change(URI, 2, [partial(first, last, new)])
    # A place between \r and \n is the one before the line break.
    expected = text[: lines.index(*first)] + new + text[lines.index(*last) :]
    assert text_of(documents) == expected
