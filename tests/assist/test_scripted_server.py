"""`ask` against a scripted server that speaks the OpenAI-compatible part of our protocol over real HTTP.

It cites what is true, what is wrong, what is missing, and hides terminal escapes in what it says.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from codellama.assist.answer import Answer, Turn, answer
from codellama.serve import daemon
from codellama.serve.client import ModelClient, ServeSettings
from codellama.serve.daemon import Address
from codellama_index import Index


class ScriptedServer(ThreadingHTTPServer):
    """Streams `pieces` for every chat; keeps the bodies of the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pieces: list[str] = []
        self.asked: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_GET(self) -> None:
        facts = {"name": "scripted", "family": "llama", "max_context": 8192, "can_infill": False}
        self._json({"data": [facts | {"can_chat": True, "id": "scripted"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._json({"tokens": [[] for _ in body["texts"]]})
            return
        self.server.asked.append(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in self.server.pieces:
            event = {"choices": [{"index": 0, "delta": {"content": piece}}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def _json(self, data: object) -> None:
        content = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """The server on loopback, in the place of the model server that would be started."""
    with ScriptedServer() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = Address("", "127.0.0.1", running.server_address[1], "token", 0, "scripted")

        async def ensure(settings: ServeSettings) -> Address:
            return address

        monkeypatch.setattr(daemon, "ensure", ensure)
        yield running
        running.shutdown()


def ask(
    index: Index,
    question: str = "where is the retry delay decided?",
    history: Sequence[Turn] = (),
    max_context: int = 8192,
) -> tuple[Answer, str]:
    """The answer, and the text as it was shown."""
    shown: list[str] = []

    async def run() -> Answer:
        async with ModelClient(ServeSettings(model="scripted")) as client:
            return await answer(
                question, index, client, max_context=max_context, on_text=shown.append, history=history
            )

    return asyncio.run(run()), "".join(shown)


SCRIPTS = {
    "true": (["The delay doubles, ", "see retry.py:4", "-6."], "The delay doubles, see retry.py:4-6."),
    "wrong": (
        ["It is `sleep_forever`: retry.py:4-6."],
        "It is `sleep_forever`: retry.py:4-6 [not verified: sleep_forever is not in these lines].",
    ),
    "past the end": (
        ["See retry.py:400-600."],
        "See retry.py:400-600 [not verified: these lines do not exist].",
    ),
    "missing": (
        ["As src/gone.py:1", "-3 says"],
        "As src/gone.py:1-3 [not verified: these lines do not exist] says",
    ),
    "outside": (
        ["../secret.py:1 has it"],
        "../secret.py:1 [not verified: these lines do not exist] has it",
    ),
    "escapes": (
        ["\x1b]8;;http://evil/\x07re", "try.py:4-\x1b[31m6\x1b", "[0m\x1b[2J and \x9b5mmore\x1b"],
        "retry.py:4-6 and more",
    ),
    "no citation": (["I do not ", "know."], "I do not know."),
    "nothing": ([], ""),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_model_cites(index: Index, server: ScriptedServer, script: str) -> None:
    """True citations are quoted, failing ones marked where they stand, escapes never pass; shown is told."""
    server.pieces, expected = SCRIPTS[script]
    found, shown = ask(index)
    assert shown == found.answer == expected
    assert [c.verified for c in found.citations] == (
        [] if script in ("no citation", "nothing") else [script in ("true", "escapes")]
    )
    assert all(bool(c.quote) == c.verified for c in found.citations)
    assert found.model == "scripted"


def test_every_cut_of_the_stream_shows_the_same(index: Index, server: ScriptedServer) -> None:
    """How the server cuts its text into pieces changes nothing that is shown."""
    text = "A \x1b[1mb\x1b[0m: `x_y` at client.py:5, retry.py:9. Then retry.py:4-6!"
    server.pieces = [text]
    whole, _ = ask(index)
    for size in (1, 3, 7):
        server.pieces = [text[n : n + size] for n in range(0, len(text), size)]
        found, shown = ask(index)
        assert shown == found.answer == whole.answer


def test_exact_facts_go_to_the_model(index: Index, server: ScriptedServer) -> None:
    """What the index knows for certain is told to the model beside the documents."""
    server.pieces = ["ok"]
    ask(index, "who calls retry_delay?")
    content = server.asked[0]["messages"][-1]["content"]
    assert "The index knows for certain:\nretry_delay is used by:\n- client.py:5  in fetch" in content


def test_a_long_conversation_goes_on(index: Index, server: ScriptedServer) -> None:
    """Its beginning is left out where it would not fit, and exact facts are cut: nothing is refused."""
    server.pieces = ["ok"]
    turns = [Turn(f"question {n}", f"answer {n} " * 100) for n in range(20)]
    ask(index, "who calls retry_delay?", turns, max_context=2048)
    messages = server.asked[0]["messages"]
    said = [message["content"] for message in messages[:-1]]
    assert said[-2] == "question 19"
    assert 0 < sum(map(len, said)) < 2048 * 2.8 / 3
    ask(index, "who calls retry_delay?", max_context=128)
    assert (
        "The index knows for certain:\nretry_delay is used by:\n" in server.asked[1]["messages"][0]["content"]
    )
    assert "is defined here" not in server.asked[1]["messages"][0]["content"]
