"""A plain JSON-RPC client of a language server in a subprocess, for what pytest-lsp will not send."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SERVER = (sys.executable, "-m", "codellama_lsp")
STAND_IN = (sys.executable, str(HERE / "stand_in.py"))


class RawClient:
    """Sends any bytes; `notifications` and `requests` hold what the server sent by itself."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.notifications: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.reply: Callable[[dict[str, Any]], Any] = lambda message: (
            {"applied": True} if message["method"] == "workspace/applyEdit" else None
        )
        self._answers: dict[Any, dict[str, Any]] = {}
        self._inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._last_id = 0
        self._version = 1
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        while header := stdout.readline():
            length = int(header.split(b":")[1])
            while stdout.readline().strip():
                pass
            self._inbox.put(json.loads(stdout.read(length)))

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.send_bytes(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def notify(self, method: str, params: Any = None) -> None:
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: Any = None) -> int:
        self._last_id += 1
        self.send({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    def answer(self, message_id: Any, timeout_s: float = 20) -> dict[str, Any]:
        """The answer to a request; what comes in between is kept."""
        self.until(lambda: message_id in self._answers, timeout_s)
        return self._answers.pop(message_id)

    def call(self, method: str, params: Any = None, timeout_s: float = 20) -> Any:
        answer = self.answer(self.ask(method, params), timeout_s)
        assert "error" not in answer, answer
        return answer["result"]

    def until(self, holds: Callable[[], bool], timeout_s: float = 20) -> None:
        """Take in messages until something holds."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            try:
                message = self._inbox.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                pytest.fail(f"it did not happen in {timeout_s} s; last: {self.notifications[-3:]}")
            if "method" not in message:
                self._answers[message.get("id")] = message
            elif "id" in message:
                self.requests.append(message)
                self.send({"id": message["id"], "result": self.reply(message)})
            else:
                self.notifications.append(message)

    def params(self, method: str) -> list[Any]:
        """The parameters of the notifications of a method so far."""
        return [each["params"] for each in self.notifications if each["method"] == method]

    def initialize(self, **params: Any) -> dict[str, Any]:
        result = self.call("initialize", {"processId": None, "rootUri": None, "capabilities": {}, **params})
        self.notify("initialized", {})
        assert isinstance(result, dict)
        return result

    def open(self, text: str, uri: str = "file:///nowhere/a.py") -> str:
        item = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})
        return uri

    def change(self, uri: str, text: str) -> None:
        """Replace a document's whole text."""
        self._version += 1
        document = {"uri": uri, "version": self._version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": text}]})

    def type(self, uri: str, line: int, character: int, text: str, removed: int = 0) -> None:
        """Insert text, as a key does, in the place of some characters of that line."""
        self._version += 1
        span = {
            "start": {"line": line, "character": character},
            "end": {"line": line, "character": character + removed},
        }
        changes = [{"range": span, "text": text}]
        document = {"uri": uri, "version": self._version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    def suggestion(self, uri: str, line: int, character: int, kind: int = 2) -> str:
        """What is suggested there, or ""."""
        items = self.answer(self.ask_completion(uri, line, character, kind))["result"]
        return items[0]["insertText"] if items else ""

    def ask_completion(self, uri: str, line: int, character: int, kind: int = 2) -> int:
        params = {
            "textDocument": {"uri": uri},
            "position": {"line": line, "character": character},
            "context": {"triggerKind": kind},
        }
        return self.ask("textDocument/inlineCompletion", params)

    def asked_for(self, uri: str, line: int, character: int) -> dict[str, Any]:
        """What the stand-in was asked for there, or {} where it was not asked."""
        items = self.answer(self.ask_completion(uri, line, character))["result"]
        asked = json.loads(items[0]["insertText"]) if items else {}
        assert isinstance(asked, dict)
        return asked

    def leave(self) -> int:
        """`shutdown` and `exit`; returns the exit code."""
        self.call("shutdown")
        self.notify("exit")
        return self.process.wait(10)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)  # it reads until the pipe's end
        self.process.stdout.close()


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., RawClient]]:
    """Starts a server and a raw client of it; all are ended with the test."""
    clients: list[RawClient] = []

    def begin(command: Sequence[str] = STAND_IN) -> RawClient:
        clients.append(RawClient(command))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def client(start: Callable[..., RawClient]) -> RawClient:
    """A client of the server with the stand-in for the model, initialized."""
    client = start()
    client.initialize()
    return client


@pytest.fixture
def model_server(home: Path) -> Iterator[Path]:
    """A home whose model server, if a test starts one, is ended with the test."""
    yield home
    from codellama.serve import daemon

    daemon.stop()
