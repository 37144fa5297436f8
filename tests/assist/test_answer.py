"""Answers: composed from evidence without an instruct model, checked against the files with one.

The instruct model is a stand-in that says what the test tells it to: no such model is small enough to
ship. The real server and the pocket model are driven by the tests of the command line.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable

import pytest

from codellama.assist.answer import Answer, answer
from codellama.runtime.records import ChatRequest
from codellama.serve.client import ModelClient, ModelInfo, ServeSettings
from codellama_index import Index


class StandIn(ModelClient):
    """Streams the pieces that it was given; keeps what it was asked."""

    def __init__(self, pieces: Iterable[str] = (), *, can_chat: bool = True, max_context: int = 4096) -> None:
        super().__init__(ServeSettings(model="stand-in"))
        self.pieces = tuple(pieces)
        self.info = ModelInfo("stand-in", "llama", max_context, can_infill=False, can_chat=can_chat)
        self.asked: list[ChatRequest] = []

    async def model(self, name: str | None = None) -> ModelInfo:
        return self.info

    async def stream(self, request: object, *, model: str | None = None) -> AsyncGenerator[str, None]:
        assert isinstance(request, ChatRequest)
        self.asked.append(request)
        for piece in self.pieces:
            yield piece


def ask(question: str, index: Index, client: ModelClient | None = None) -> tuple[Answer, str]:
    """The answer, and the text as it was shown piece by piece."""
    shown: list[str] = []
    found = asyncio.run(answer(question, index, client, max_context=8192, on_text=shown.append))
    return found, "".join(shown)


def test_composed_from_evidence(index: Index) -> None:
    """Signature, docstring and users are told, every place is cited, and that no model wrote it is said."""
    found, shown = ask("where is the retry delay decided?", index)
    assert found.model == ""
    assert shown == found.answer
    assert found.citations[0].path == "retry.py"
    assert "retry.py:4-6  function retry_delay" in found.answer
    assert "Seconds to wait." in found.answer
    assert "used in client.py:" in found.answer
    assert "Composed" in found.answer
    assert all(citation.verified for citation in found.citations)
    assert found.timings.keys() == {"retrieve_s", "answer_s"}


@pytest.mark.parametrize(
    ("question", "places"),
    [
        ("who calls retry_delay?", ["client.py:5", "client.py:1"]),
        ("what are the callers of fetch?", ["app.py:7", "app.py:3"]),  # a plain word
        ("where is `fetch` used?", ["app.py:7", "app.py:3"]),
    ],
)
def test_uses(index: Index, question: str, places: list[str]) -> None:
    """Calls come first, then mentions, then tests; each line is quoted; the definition follows."""
    found, _ = ask(question, index)
    assert [f"{c.path}:{c.start_line}" for c in found.citations[: len(places)]] == places
    assert "is used in these places:" in found.answer


def test_lines_that_changed_since_are_no_evidence(index: Index) -> None:
    """A use that is gone from the disk is not told, though the index still knows it."""
    (index.root / "client.py").write_text("pass\n" * 20)
    found, _ = ask("who calls retry_delay?", index)
    assert "client.py" not in {citation.path for citation in found.citations}


def test_nothing_found(index: Index) -> None:
    """Without evidence there are no citations, and the answer says what to try."""
    found, _ = ask("zzz qqq?", index)
    assert found.citations == ()
    assert "Nothing in this repository matches" in found.answer


def test_a_models_citations_are_checked(index: Index) -> None:
    """What it cites is read again: existing lines are quoted, invented ones marked."""
    client = StandIn(["It is min() at retry.py:4", "-6, see also made/up.py:1-2."])
    found, shown = ask("where is the retry delay decided?", index, client)
    assert found.model == "stand-in"
    assert shown == found.answer == "It is min() at retry.py:4-6, see also made/up.py:1-2."
    assert [(c.path, c.verified) for c in found.citations] == [("retry.py", True), ("made/up.py", False)]
    (request,) = client.asked
    assert request.documents[0].filename == "retry.py:4-6"
    assert request.documents[0].text.startswith("def retry_delay")


def test_a_models_escapes_do_not_pass(index: Index) -> None:
    """An escape that is split between two pieces is dropped as one in a single piece is."""
    found, shown = ask(
        "retry delay?", index, StandIn(["a\x1b", "[3", "1mb\x1b]0;x", "\x07c\x1b[2", "Jd\x1b"])
    )
    assert shown == found.answer == "abcd"


def test_a_model_that_cannot_chat_is_not_asked(index: Index) -> None:
    """The answer is composed then, and says why."""
    client = StandIn(["never"], can_chat=False)
    found, _ = ask("where is the retry delay decided?", index, client)
    assert client.asked == []
    assert found.model == ""
    assert "stand-in is no instruct model" in found.answer


def test_the_prompt_fits_the_models_context(index: Index) -> None:
    """Passages are left out for a small context, the best of them never."""
    client = StandIn(["ok"], max_context=40)
    ask("where is the retry delay decided?", index, client)
    (request,) = client.asked
    assert request.max_tokens == 10
    (passage,) = request.documents
    assert "def retry_delay" in passage.text
    assert passage.filename.startswith("retry.py:")
    assert request.messages[0].content.endswith("Question: where is the retry delay decided?")
