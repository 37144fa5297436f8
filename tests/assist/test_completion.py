"""Completions: what is sent, what is done to the answer, what is told about it.

The server is a stand-in that answers what the test tells it to; the tests of the command line and of the
language server drive the real one.
"""

import asyncio
import time
from dataclasses import replace

import pytest

from codellama.assist import completion
from codellama.assist.completion import Completion, CompletionQuery, complete
from codellama.runtime.records import InfillRequest, Packed, Result, Stats
from codellama.serve.client import ModelClient
from codellama_index import Index
from codellama_index.errors import StoreError

TEXT = "from retry import retry_delay\n\n\ndef pause(n):\n    return \n"
CURSOR = TEXT.index("return ") + len("return ")
QUERY = CompletionQuery("new.py", TEXT, CURSOR)


class StandIn(ModelClient):
    """Answers `text`; keeps the last request; packs every extra."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.request = InfillRequest("", "")

    async def infill(
        self, request: InfillRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        self.request = request
        packed = tuple(Packed(extra.filename, 5, kept=True) for extra in request.extras)
        return Result(self.text, (), "stop", Stats(tokens=3), packed)


def run(client: StandIn, index: Index | None, query: CompletionQuery = QUERY) -> Completion:
    return asyncio.run(complete(client, index, query))


def test_prefix_suffix_and_snippets_go_separately(index: Index) -> None:
    """The server gets the parts, with the definition that the cursor's surroundings name, and packs them."""
    client = StandIn("retry_delay(n)")
    done = run(client, index)
    assert client.request.prefix + client.request.suffix == TEXT
    assert client.request.prefix.endswith("return ")
    assert "retry.py" in [extra.filename for extra in client.request.extras]
    assert any("def retry_delay" in extra.text for extra in client.request.extras)
    assert "retry.py" in [source.path for source in done.sources]
    assert (done.text, done.filters, done.finish_reason) == ("retry_delay(n)", (), "stop")


def test_the_order_of_snippets_does_not_depend_on_the_cursor(index: Index) -> None:
    """Moving along a line keeps the extras, so that the server's cached prefix stays."""
    client = StandIn("x")
    extras = []
    for offset in (CURSOR - 3, CURSOR):
        run(client, index, replace(QUERY, offset=offset))
        extras.append([extra.filename for extra in client.request.extras])
    assert extras[0] == extras[1] == sorted(extras[0])


def test_what_was_filtered_is_told() -> None:
    """The names of the filters that changed the text come with it."""
    done = run(StandIn("n * 2<EOT>\x1b[2J  "), None)
    assert done.text == "n * 2"
    assert done.filters == ("stop_at_control_pieces",)


@pytest.mark.parametrize(
    ("suffix", "asked", "stop"),
    [
        ("", None, ()),
        (")\n", None, ()),
        (" + 1\n", None, ("\n",)),
        ("", True, ("\n",)),
        (" + 1\n", False, ()),
    ],
)
def test_one_line_in_the_middle_of_a_line(suffix: str, asked: bool | None, stop: tuple[str, ...]) -> None:
    """Code after the cursor asks for one line; the line's end, or closers, for as much as comes."""
    client = StandIn("x")
    run(client, None, CompletionQuery("a.py", f"f({suffix}", 2, single_line=asked))
    assert client.request.stop == stop


def test_a_slow_or_broken_index_costs_the_snippets_only(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The completion comes without snippets, rather than late or not at all."""
    monkeypatch.setattr(completion, "_CONTEXT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(Index, "context", lambda *_: time.sleep(0.2))
    assert run(StandIn("x"), index).sources == ()

    def broken(*_: object) -> None:
        raise StoreError("no disk")

    monkeypatch.setattr(Index, "context", broken)
    assert run(StandIn("x"), index).text == "x"
