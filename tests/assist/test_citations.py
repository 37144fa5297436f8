"""A citation is shown only after its span was read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.assist.citations import Checker, Citation, cite
from codellama_index import Index
from codellama_index.errors import PathNotFound


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
    checker = Checker(index, known=["retry.py", "tests/test_client.py"])
    checker.marked(text)
    found = checker.citations
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


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The delay is `min(60.0, ...)`-bounded: retry.py:4-6", ""),
        ("It calls `retry_delay`, see client.py:5.", ""),
        ("It calls `no_such_call`, see client.py:5", " [not verified: no_such_call is not in these lines]"),
        (
            "One thing. It calls `other_name` (client.py:5)",
            " [not verified: other_name is not in these lines]",
        ),
        ("`other_name` is elsewhere. This calls fetch: app.py:7", ""),  # another sentence's claim
        ("See client.py:99", " [not verified: these lines do not exist]"),
        ("See ../../etc/passwd.txt:1", " [not verified: these lines do not exist]"),
    ],
)
def test_failing_claims_are_marked(index: Index, text: str, verdict: str) -> None:
    """A mark follows the citation whose lines do not exist, or hold nothing of what the claim quotes."""
    marked = Checker(index).marked(text)
    assert marked.rstrip(").").endswith(verdict) if verdict else marked == text
    assert marked.replace(verdict, "") == text


@given(st.text(alphabet="ab `.:-/0123\n[]", max_size=60), st.integers(0, 60))
def test_marks_do_not_depend_on_how_the_text_comes(text: str, cut: int) -> None:
    """What was shown of a beginning that ends with a space stays, however the text goes on."""
    checker = Checker(_NoFiles())  # type: ignore[arg-type] # only `read` is asked of it
    beginning = text[: text[:cut].rfind(" ") + 1]
    assert checker.marked(text).startswith(checker.marked(beginning))


class _NoFiles:
    """An index of nothing."""

    def read(self, path: str) -> str:
        raise PathNotFound(path)
