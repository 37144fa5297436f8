"""A citation is shown only after its span was read again."""

from codellama.assist.citations import Citation, cite, cited_in
from codellama_index import Index


def test_a_span_is_read_from_the_disk(index: Index) -> None:
    """The quote is what stands there now, not what the index remembers."""
    (index.root / "retry.py").write_text("one\ntwo\nthree\n")
    assert cite(index, "retry.py", 2, 3) == Citation("retry.py", 2, 3, "two\nthree", verified=True)


def test_a_moved_passage_is_followed(index: Index) -> None:
    """Lines that moved since the index are found where they are; where they are gone, nothing is quoted."""
    head = "def fetch(url: str) -> str:\n    wait = retry_delay(1)"
    file = index.root / "client.py"
    file.write_text("# new\n# lines\n" + file.read_text())
    assert cite(index, "client.py", 4, 5, expected=head) == Citation("client.py", 6, 7, head, verified=True)
    file.write_text("nothing\n")
    assert cite(index, "client.py", 4, 5, expected=head) == Citation("client.py", 4, 5, "", verified=False)


def test_spans_that_do_not_exist(index: Index) -> None:
    """Past the end, before the start, backwards, in no file, outside: unverified, and no error."""
    spans = [("retry.py", 5, 99), ("retry.py", 0, 1), ("retry.py", 3, 2), ("no.py", 1, 1), ("../a.py", 1, 1)]
    for path, start, end in spans:
        assert cite(index, path, start, end) == Citation(path, start, end, "", verified=False)


def test_citations_in_an_answer(index: Index) -> None:
    """Each is found once, with or without quotes and ranges; a short path counts where it is unique."""
    text = "See `retry.py:4-6` and test_client.py:1, again retry.py:4-6; invented.py:3-4. At 12:30."
    found = cited_in(index, text, known=["retry.py", "tests/test_client.py"])
    assert [(c.path, c.start_line, c.end_line, c.verified) for c in found] == [
        ("retry.py", 4, 6, True),
        ("tests/test_client.py", 1, 1, True),
        ("invented.py", 3, 4, False),
    ]
    assert found[1].quote == "from client import fetch"


def test_carriage_returns_do_not_shift_lines(index: Index) -> None:
    """A file from Windows is quoted by the same line numbers, without its carriage returns."""
    (index.root / "dos.py").write_bytes(b"a = 1\r\nb = 2\r\nc = 3\r\n")
    assert cite(index, "dos.py", 2, 3).quote == "b = 2\nc = 3"
