"""Damaged messages of all kinds: the server neither leaves nor goes deaf.

Many more are sent by `python -m benchmarks.lsp_stress frames`.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

A = {"uri": "file:///a.py"}
HERE = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 1}}
PARAMS: dict[str, Any] = {
    "textDocument/didOpen": {"textDocument": {**A, "languageId": "python", "version": 1, "text": "x = 1\n"}},
    "textDocument/didChange": {
        "textDocument": {**A, "version": 2},
        "contentChanges": [{"range": HERE, "text": "é"}],
    },
    "textDocument/inlineCompletion": {
        "textDocument": A,
        "position": {"line": 0, "character": 1},
        "context": {"triggerKind": 2},
    },
    "textDocument/hover": {"textDocument": A, "position": {"line": 0, "character": 1}},
    "textDocument/codeAction": {"textDocument": A, "range": HERE, "context": {"diagnostics": []}},
    "workspace/executeCommand": {"command": "codellama.toggle", "arguments": [{"scope": "language"}]},
    "workspace/didChangeConfiguration": {"settings": {"completion": {"max_tokens": 4}}},
    "$/cancelRequest": {"id": 3},
}
WRONG = [b"null", b"{}", b"[]", b"-1", b"1e999", b'"\\ud800"', b"[" * 200, b"\xff", b"true", b""]


def mutated(chance: random.Random) -> bytes:
    """A message with a few bytes replaced, dropped or doubled, under a header of some kind."""
    method = chance.choice(list(PARAMS))
    message = {"jsonrpc": "2.0", "method": method, "params": PARAMS[method]}
    if chance.random() < 0.6:
        message["id"] = chance.choice([3, "4", None, 2.5, [1], {}])
    body = bytearray(json.dumps(message).encode())
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(body))
        body[at : at + chance.randrange(12)] = chance.choice([*WRONG, body[at : at + 30]])
        body = body or bytearray(b" ")
    name = chance.choice([b"Content-Length", b"content-length"])
    end = chance.choice([b"\r\n", b"\n"])
    junk = chance.randbytes(6).replace(b":", b"") + b"\n" if chance.random() < 0.05 else b""
    length = max(0, len(body) + (chance.randrange(-9, 10) if chance.random() < 0.02 else 0))
    return junk + name + b": %d" % length + end + end + bytes(body)


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_messages_are_survived(start: Callable[..., Any], seed: int) -> None:
    """After each hundred a sound request is answered; the process is the same to the end."""
    client = start()
    client.initialize()
    client._last_id = 1000  # none of the damaged messages' own
    chance = random.Random(seed)
    for _ in range(10):
        client.send_bytes(b"".join(mutated(chance) for _ in range(100)))
        client.send_bytes(b" " * 20 + b"\n")  # the last one may have promised more than it held
        uri = client.open("x = 1\n", "file:///sound.py")
        symbols = client.call("textDocument/documentSymbol", {"textDocument": {"uri": uri}})
        assert [symbol["name"] for symbol in symbols] == ["x"]
    assert client.process.poll() is None


def test_a_cancel_of_no_id_is_survived(client: Any) -> None:
    """It names nothing that runs, and pygls trips over it."""
    client.notify("$/cancelRequest", {"id": ["a"]})
    assert client.suggestion(client.open("x = "), 0, 4)


def test_an_answer_that_cannot_be_read_ends_its_wait(start: Callable[..., Any], home: Path) -> None:
    """A client answers a request of ours with nonsense: the command that waits for it ends."""
    client = start()
    client.reply = lambda message: [1]
    edit = {"workspace": {"applyEdit": True}}
    client.initialize(capabilities=edit, initializationOptions={"chat": {"model": "instruct"}})
    uri = client.open("def f(x):\n    return x\n")
    (home / "says").write_text("```\ndef f(x):\n    return 2 * x\n```\n")
    argument = {"uri": uri, "range": HERE, "instruction": "twice"}
    asked = client.ask("workspace/executeCommand", {"command": "codellama.edit", "arguments": [argument]})
    assert "not what the protocol says" in client.answer(asked)["error"]["message"]
