"""Answers: composed from evidence without an instruct model, checked against the files with one.

The instruct model is a stand-in that says what the test tells it to: no such model is small enough to
ship. The real server and the pocket model are driven by the tests of the command line.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable

import pytest

from codellama.assist.answer import Answer, Turn, answer
from codellama.runtime.errors import InvalidRequest
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


def test_users_of_a_name_that_others_have(index: Index) -> None:
    """`close` of a file is no use of a pool's `close`: only a receiver that sounds like its owner counts."""
    (index.root / "pool.py").write_text(
        'class Pool:\n    def close(self):\n        """Ends the idle connections."""\n'
    )
    (index.root / "other.py").write_text("def tidy(file, pool):\n    file.close()\n")
    index.sync()
    assert "used in" not in ask("how are idle connections ended?", index)[0].answer
    (index.root / "other.py").write_text("def tidy(file, pool):\n    file.close()\n    pool.close()\n")
    index.sync()
    assert "used in other.py:3" in ask("how are idle connections ended?", index)[0].answer


def test_a_module_that_is_only_named_comes_last(index: Index) -> None:
    """`pub mod plumbing;` holds no answer: what stands in the module does."""
    (index.root / "lib.rs").write_text("pub mod plumbing;\n")
    (index.root / "plumbing.rs").write_text("/// Fixes the plumbing.\npub fn tighten(joint: u8) {}\n")
    index.sync()
    found, _ = ask("how does the plumbing work?", index)
    assert [citation.path for citation in found.citations] == ["plumbing.rs", "lib.rs"]


@pytest.mark.parametrize("question", ["where is `Kettle` defined?", "where is water boiled?"])
def test_long_documentation_does_not_take_the_place_of_code(index: Index, question: str) -> None:
    """Of what is documented at length the code is quoted; its documentation is told in short."""
    notes = "".join(f"/// Note {n}.\n" for n in range(30))
    text = f"/// Boils water.\n///\n{notes}pub struct Kettle {{\n    litres: u8,\n}}\n"
    (index.root / "kettle.rs").write_text(text)
    index.sync()
    found, _ = ask(question, index)
    assert "```kettle.rs:33-35\npub struct Kettle {\n" in found.answer
    assert found.citations[0].verified


def test_a_passage_is_quoted_under_its_place(index: Index) -> None:
    """A quote stands in a fence whose info string is its place, as the disk has it."""
    found, _ = ask("where is the retry delay decided?", index)
    quote = '```retry.py:4-6\ndef retry_delay(attempt: int) -> float:\n    """Seconds to wait."""\n'
    assert quote in found.answer


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
    assert "is used by:" in found.answer
    assert "Answered exactly from the index" in found.answer


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
    """What it cites is read again: existing lines are quoted, invented ones marked in the text."""
    client = StandIn(["It is min() at retry.py:4", "-6, see also made/up.py:1-2."])
    found, shown = ask("where is the retry delay decided?", index, client)
    assert found.model == "stand-in"
    marked = "made/up.py:1-2 [not verified: these lines do not exist]."
    assert shown == found.answer == f"It is min() at retry.py:4-6, see also {marked}"
    assert [(c.path, c.verified) for c in found.citations] == [("retry.py", True), ("made/up.py", False)]
    (request,) = client.asked
    (document,) = [d for d in request.documents if d.filename == "retry.py"]
    assert document.text.startswith('1 """Retries."""\n')
    assert document.priority == max(d.priority for d in request.documents)
    assert request.messages[-1].content.endswith("Question: where is the retry delay decided?")


def test_a_passage_with_the_models_own_tags(index: Index) -> None:
    """A model that refuses its documents, as Llama 2's chat does those with [INST], is not needed."""

    class Refusing(StandIn):
        async def stream(self, request: object, *, model: str | None = None) -> AsyncGenerator[str, None]:
            raise InvalidRequest("A message holds [INST]: write it another way.")
            yield ""

    found, shown = ask("where is the retry delay decided?", index, Refusing())
    assert found.model == ""
    assert shown == found.answer
    assert "retry.py:4-6" in found.answer
    assert "stand-in cannot be asked: A message holds [INST]" in found.answer


def test_follow_up_questions(index: Index) -> None:
    """What refers back is looked up together with the last question, and the model sees the turns."""
    before = Turn("where is the retry delay decided?", "In retry.py:4-6.")
    shown: list[str] = []
    done = answer("and who calls it?", index, None, max_context=8192, on_text=shown.append, history=[before])
    assert "retry.py" in [citation.path for citation in asyncio.run(done).citations]
    client = StandIn(["ok"])
    asyncio.run(
        answer("who calls it?", index, client, max_context=8192, on_text=shown.append, history=[before])
    )
    (request,) = client.asked
    assert [m.role for m in request.messages] == ["user", "assistant", "user"]
    assert request.messages[0].content == before.question
    assert request.messages[1].content == before.answer


def test_the_next_question_shares_the_prompts_beginning(index: Index) -> None:
    """Documents come in an order that does not depend on the question, so that the cache serves again."""
    client = StandIn(["ok"])
    ask("where is the retry delay decided?", index, client)
    ask("what does main print?", index, client)
    first, second = ([(d.filename, d.text) for d in request.documents] for request in client.asked)
    assert first == second
    assert len(first) == 5  # the outline and every file


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


@pytest.mark.parametrize("tokens", [40, 256, 500, 4096])
def test_the_prompt_fits_the_models_context(index: Index, tokens: int) -> None:
    """Documents are left out for a small context, the best passage never."""
    client = StandIn(["ok"], max_context=tokens)
    ask("where is the retry delay decided?", index, client)
    (request,) = client.asked
    assert request.max_tokens == min(768, tokens // 4)
    best = max(request.documents, key=lambda document: document.priority)
    assert best.filename == "retry.py"
    assert "def retry_delay" in best.text
    assert sum(len(d.text) for d in request.documents[1:]) <= 3 * tokens
    assert ("tests/test_client.py" in [d.filename for d in request.documents]) == (tokens >= 500)
