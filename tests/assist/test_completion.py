"""Completions: what is sent, what is done to the answer, what is told about it.

The server is a stand-in that answers what the test tells it to; the tests of the command line and of the
language server drive the real one.
"""

import asyncio
import math
import time
from dataclasses import replace

import pytest

from codellama.assist import completion
from codellama.assist.completion import Completion, CompletionQuery, complete
from codellama.runtime.records import InfillRequest, Packed, Result, Stats
from codellama.serve.client import ModelClient, ServeSettings
from codellama_index import Index
from codellama_index.errors import StoreError
from codellama_index.records import OpenDocument, Snippet

TEXT = "from retry import retry_delay\n\n\ndef pause(n):\n    return \n"
CURSOR = TEXT.index("return ") + len("return ")
QUERY = CompletionQuery("new.py", TEXT, CURSOR)


class StandIn(ModelClient):
    """Answers `text`; keeps the last request; packs every extra."""

    def __init__(self, text: str) -> None:
        super().__init__(ServeSettings(model="some"))
        self.text = text
        self.request = InfillRequest("", "")
        self.mean_logprob: float | None = None
        self.steps: tuple[tuple[int, float], ...] = ()

    async def infill(
        self, request: InfillRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        self.request = request
        packed = tuple(Packed(extra.filename, 5, kept=True) for extra in request.extras)
        stats = Stats(tokens=3, mean_logprob=self.mean_logprob)
        return Result(self.text, (), "stop", stats, packed, self.steps)


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
        (")\n", None, ("\n",)),
        (" + 1\n", None, ("\n",)),
        ("", True, ("\n",)),
        (" + 1\n", False, ()),
    ],
)
def test_one_line_or_a_block(suffix: str, asked: bool | None, stop: tuple[str, ...]) -> None:
    """The syntax decides where nobody says; one line stops at its end."""
    client = StandIn("x")
    run(client, None, CompletionQuery("a.py", f"f({suffix}", 2, single_line=asked))
    assert client.request.stop == stop


def test_nothing_is_sent_of_a_secret() -> None:
    """Neither the file itself, nor an open buffer beside it."""
    client = StandIn("x" * 8)
    done = run(client, None, CompletionQuery(".env", "TOKEN=", 6))
    assert (done.text, done.filters) == ("", ("secret by its name",))
    assert client.request == InfillRequest("", "")


def test_a_buffer_that_holds_a_secret_is_left_out(index: Index) -> None:
    """Though an editor has it open, and it defines what the cursor's surroundings name."""
    client = StandIn("retry_delay(n)")
    key = f"def retry_delay(): ...\n# -----BEGIN PRIVATE KEY-----\n{'A' * 64}\n"
    for text, sent in (("def retry_delay(): ...\n", True), (key, False)):
        documents = (OpenDocument("open.py", text),)
        run(client, index, replace(QUERY, open_documents=documents))
        assert ("open.py" in [extra.filename for extra in client.request.extras]) == sent


def test_recent_edits_go_along() -> None:
    """Passages that were just edited are sent with their paths."""
    client = StandIn("x")
    run(client, None, replace(QUERY, recent=(Snippet("other.py", 3, 4, "edited()", 1.0, "edited"),)))
    assert [(extra.filename, extra.text) for extra in client.request.extras] == [("other.py", "edited()")]


def test_recent_edits_of_secrets_stay_here() -> None:
    """By the file's name, or by what the passage holds."""
    client = StandIn("x")
    key = f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n"
    recent = tuple(
        Snippet(path, 1, 2, text, 1.0, "edited") for path, text in ((".env", "T=1"), ("a.py", key))
    )
    run(client, None, replace(QUERY, recent=recent))
    assert client.request.extras == ()


def test_a_prompt_is_bounded() -> None:
    """`prompt_bytes` holds for file and snippets together."""
    client = StandIn("x")
    snippets = tuple(Snippet(f"{n}.py", 1, 9, "y" * 90, 1.0, "edited") for n in range(9))
    text = "x = 1\n" * 2000
    query = CompletionQuery("a.py", text, 6000, recent=snippets, prompt_bytes=1000)
    run(client, None, query)
    request = client.request
    size = len(request.prefix + request.suffix) + sum(len(extra.text) for extra in request.extras)
    assert 500 < size <= 1000


def test_unsure_answers_are_shown_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate on the mean log-probability holds for what comes unasked; why is told."""
    client = StandIn("compute(first)")
    client.mean_logprob = -3.0
    done = run(client, None)
    assert (done.text, done.filters) == ("", ("confidence",))
    assert run(client, None, replace(QUERY, invoked=True)).text == "compute(first)"
    client.mean_logprob = -0.001
    assert run(client, None).text == "compute(first)"


def test_unknown_names_demote(index: Index) -> None:
    """The same answer at the same probability is shown where its name exists, and not where it does not."""
    client = StandIn("retry_delay(first)")
    client.mean_logprob = -1.2
    assert run(client, index).text == "retry_delay(first)"
    client.text = "retry_dalay(first)"
    done = run(client, index)
    assert (done.text, done.unknown) == ("", ("retry_dalay",))


def test_a_name_that_was_begun_demotes(index: Index) -> None:
    """What the answer makes of a name's beginning exists nowhere, though the answer alone is no name."""
    query = replace(QUERY, text="value = fet\n", offset=11)
    client = StandIn("ch(zz)")
    client.mean_logprob = -1.2
    assert run(client, index, query).text == "ch(zz)"
    client.text = "hc(zz)"
    done = run(client, index, query)
    assert (done.text, done.unknown) == ("", ("fethc",))


def test_an_unknown_name_is_no_part_of_another(index: Index) -> None:
    """It demotes what holds it as a word: not the beginning before it, whose word only ends alike."""
    client = StandIn("prefetch_it + n.fetch_it(1)")
    client.mean_logprob = -3.0
    client.steps = ((11, math.log(0.4)), (13, 0.0), (15, 0.0), (24, -3.0), (27, 0.0))
    done = run(client, index)
    assert (done.text, done.unknown) == ("prefetch_it + n", ("fetch_it",))


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
    assert run(StandIn("value"), index).text == "value"
