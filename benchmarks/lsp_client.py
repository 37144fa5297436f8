"""A language server in a subprocess, in a home of its own, and a client that times its answers.

It sends what an editor sends and keeps every message with the moment it came.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codellama.runtime.native_build import native_library

WAIT_S = 120.0
_COMPILE_S = 120.0


@contextmanager
def home() -> Iterator[Path]:
    """An empty home, whose model server ends with it; environment variables point there meanwhile.

    The compiled code is there, as it is from a machine's second start on.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        os.environ["HOME"] = folder
        for variable in ("CONFIG_HOME", "CACHE_HOME", "STATE_HOME", "DATA_HOME", "RUNTIME_DIR"):
            os.environ[f"XDG_{variable}"] = str(path / variable[:2].lower())
            (path / variable[:2].lower()).mkdir(mode=0o700, exist_ok=True)
        native_library(patience_s=_COMPILE_S)
        try:
            yield path
        finally:
            from codellama.serve import daemon

            daemon.stop()
            os.environ.clear()
            os.environ.update(before)


class Client:
    """One session; `answer` and `until` take messages in, all kept with their time of arrival."""

    def __init__(self, **params: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codellama_lsp", "--log-level", "error"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.notifications: list[tuple[float, dict[str, Any]]] = []
        self.answers: dict[int, tuple[float, dict[str, Any]]] = {}
        self._inbox: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
        self._last_id = 0
        self._versions: dict[str, int] = {}
        threading.Thread(target=self._read, daemon=True).start()
        capabilities = {"textDocument": {"inlineCompletion": {}}}
        start = {"processId": None, "rootUri": None, "capabilities": capabilities, **params}
        self.answer(self.ask("initialize", start))
        self.notify("initialized", {})

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        while header := stdout.readline():
            length = int(header.split(b":")[1])
            while stdout.readline().strip():
                pass
            body = stdout.read(length)
            self._inbox.put((time.perf_counter(), json.loads(body)))

    def send_bytes(self, data: bytes) -> None:
        """Sends a frame, whatever it is."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message."""
        self.send_bytes(frame(message))

    def notify(self, method: str, params: Any) -> None:
        """Sends a notification."""
        self.send({"method": method, "params": params})

    def ask(self, method: str, params: Any) -> int:
        """Sends a request; its id."""
        self._last_id += 1
        self.send({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    def take(self, timeout_s: float) -> bool:
        """Takes in one message, if one comes in time."""
        try:
            came, message = self._inbox.get(timeout=max(timeout_s, 0.0001))
        except queue.Empty:
            return False
        if "method" not in message:
            self.answers[message.get("id")] = (came, message)
        elif "id" in message:
            self.send({"id": message["id"], "result": None})
        else:
            self.notifications.append((came, message))
        return True

    def answer(self, message_id: int, timeout_s: float = WAIT_S) -> tuple[float, dict[str, Any]]:
        """An answer and when it came; raises TimeoutError."""
        deadline = time.perf_counter() + timeout_s
        while message_id not in self.answers:
            if not self.take(deadline - time.perf_counter()) and time.perf_counter() > deadline:
                raise TimeoutError(f"request {message_id} was not answered")
        return self.answers.pop(message_id)

    def call(self, method: str, params: Any) -> Any:
        """A request's result."""
        return self.answer(self.ask(method, params))[1].get("result")

    def statuses(self) -> list[str]:
        """The states that were told so far."""
        return [m["params"]["state"] for _, m in self.notifications if m["method"] == "codellama/status"]

    def ready(self) -> None:
        """Waits until indexing has ended and the model is loaded."""
        self.open("file:///nowhere/warm.py", "import os\n\n\ndef main():\n    return os.")
        self.answer(self.ask_completion("file:///nowhere/warm.py", 4, 14))
        while "indexing" in self.statuses()[-1:] or not self.statuses():
            self.take(1.0)

    def open(self, uri: str, text: str) -> None:
        """Opens a document."""
        self._versions[uri] = 1
        item = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def close(self, uri: str) -> None:
        """Closes a document."""
        self.notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def replace(self, uri: str, line: int, start: int, end: int, text: str) -> None:
        """Replaces a part of a line, as a key does."""
        self._versions[uri] += 1
        span = {"start": {"line": line, "character": start}, "end": {"line": line, "character": end}}
        document = {"uri": uri, "version": self._versions[uri]}
        changes = [{"range": span, "text": text}]
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    def ask_completion(self, uri: str, line: int, character: int) -> int:
        """Asks for an automatic suggestion."""
        position = {"line": line, "character": character}
        params = {"textDocument": {"uri": uri}, "position": position, "context": {"triggerKind": 2}}
        return self.ask("textDocument/inlineCompletion", params)

    def stop(self) -> None:
        """Ends the session and the process."""
        if self.process.poll() is None:
            self.call("shutdown", None)
            self.notify("exit", None)
            self.process.wait(10)


def frame(message: dict[str, Any]) -> bytes:
    """A message as it goes over the wire."""
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def text_of(answer: dict[str, Any]) -> str:
    """The suggestion in an answer, or ""."""
    items = answer.get("result") or []
    return items[0]["insertText"] if items else ""
