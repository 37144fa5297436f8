"""The language server under stress: `python -m benchmarks.lsp_stress PART`.

`frames`: mutated messages of all kinds. `row`: thousands of completions, and what they leave behind.
`kills`: the model server is killed in the middle of requests. `large`: a document of 10 MB, and a parent that
is killed. Parts are measured apart and written beside those of `benchmarks.lsp`.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
from benchmarks.lsp import at_most, merged
from benchmarks.lsp_client import Client, frame, home
from benchmarks.report import Figure

_BATCH = 1000  # frames between two sound requests
_HEARD_S, _TRIES = 5.0, 20
_START = {"processId": None, "rootUri": None, "capabilities": {"textDocument": {"inlineCompletion": {}}}}


def main() -> None:
    """Measures a part and writes it into `results/lsp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("frames", "row", "kills", "large"))
    parser.add_argument("--count", type=int, default=0, help="default: the goal's")
    given = parser.parse_args()
    with home():
        match given.part:
            case "frames":
                figures = frames(given.count or 1_000_000)
            case "row":
                figures = long_row(given.count or 10_000)
            case "kills":
                figures = killed_server(given.count or 100)
            case _:
                figures = [*large_document(), *killed_parent()]
    print(merged("lsp", figures))


class Pipe:
    """A server's bytes in and out; what it answers is not read but for the marks that are waited for."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codellama_lsp", "--log-level", "error"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._seen = threading.Condition()
        self._tail = b""
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        while chunk := os.read(stdout.fileno(), 1 << 20):
            with self._seen:
                self._tail = (self._tail + chunk)[-(1 << 20) :]
                self._seen.notify_all()

    def send(self, data: bytes) -> None:
        """Sends bytes, whatever they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hears(self, mark: str) -> bool:
        """Whether a sound request is answered, though the frames before may have taken the first for their
        own end."""
        document = {"textDocument": {"uri": "file:///b.py"}}
        for n in range(_TRIES):
            name = f"{mark}-{n}."
            self.send(frame({"id": name, "method": "textDocument/documentSymbol", "params": document}))
            with self._seen:
                if self._seen.wait_for(lambda: name.encode() in self._tail, _HEARD_S):  # noqa: B023
                    return True
        return False


def frames(count: int) -> list[Figure]:
    """Mutated messages of all kinds; now and then a sound one that must be answered."""
    pipe = Pipe()
    options = {"completion": {"enabled": False}}
    pipe.send(
        frame({"id": 1, "method": "initialize", "params": {**_START, "initializationOptions": options}})
    )
    pipe.send(frame({"method": "initialized", "params": {}}))
    chance = random.Random(4)
    began, deaf, sent = time.monotonic(), 0, 0
    while sent < count and not deaf:
        try:
            pipe.send(b"".join(mutated(chance) for _ in range(_BATCH)))
            sent += _BATCH
            deaf += not pipe.hears(f"sound-{sent}")
        except BrokenPipeError:
            deaf += 1
    alive = pipe.process.poll() is None
    used = psutil.Process(pipe.process.pid).memory_info().rss / 1e6 if alive else 0.0
    pipe.process.kill()
    note = f"{sent} frames in {time.monotonic() - began:.0f} s, {used:.0f} MB at the end"
    bad = float(deaf + (not alive))
    reached = not bad if sent >= 1_000_000 else None
    return [Figure("mutated frames: exits and deafness", bad, "", "0 of 1,000,000", reached, note)]


_A = {"uri": "file:///a.py"}
_SPAN = {"start": {"line": 1, "character": 0}, "end": {"line": 1, "character": 1}}
_OFF = {"enabled": False, "max_tokens": 9}
_PARAMS: dict[str, dict[str, object]] = {
    "textDocument/didOpen": {
        "textDocument": _A | {"languageId": "python", "version": 1, "text": "x = 1\n" * 9}
    },
    "textDocument/didChange": {
        "textDocument": _A | {"version": 2},
        "contentChanges": [{"range": _SPAN, "text": "y"}],
    },
    "textDocument/inlineCompletion": {
        "textDocument": _A,
        "position": {"line": 1, "character": 2},
        "context": {"triggerKind": 2},
    },
    "textDocument/documentSymbol": {"textDocument": _A},
    "workspace/executeCommand": {
        "command": "codellama.toggle",
        "arguments": [{"scope": "language", "language": "go"}],
    },
    "workspace/didChangeConfiguration": {"settings": {"codellama": {"completion": _OFF}}},
    "$/cancelRequest": {"id": 7},
}
_SOUND: list[dict[str, object]] = [
    *({"method": method, "params": params} for method, params in _PARAMS.items()),
    *({"id": 7, "method": method, "params": params} for method, params in _PARAMS.items()),
    {"id": "11", "result": None},
]

_BODIES = [json.dumps({"jsonrpc": "2.0", **message}).encode() for message in _SOUND]


def mutated(chance: random.Random) -> bytes:
    """A sound message with some bytes changed, dropped, doubled, or its header written oddly."""
    body = bytearray(chance.choice(_BODIES))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(body))
        match chance.randrange(4):
            case 0:
                body[at] = chance.randrange(256)
            case 1:
                del body[at : at + chance.randrange(1, 9)]
            case 2:
                body[at:at] = body[at : at + chance.randrange(1, 40)]
            case _:
                body[at : at + 1] = chance.choice(
                    [b"null", b"{}", b"[]", b"-1", b"1e999", b'"\\ud800"', b"[" * 99]
                )
        body = body or bytearray(b"x")
    length = len(body) + (chance.randrange(-3, 4) if chance.random() < 0.03 else 0)
    name = chance.choice([b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
    end = chance.choice([b"\r\n", b"\r\n", b"\n"])
    junk = chance.randbytes(5) + b"\n" if chance.random() < 0.02 else b""
    return junk + name + b": %d" % max(length, 0) + end + end + bytes(body)


def long_row(count: int) -> list[Figure]:
    """Completions one after another, each at a place of its own, and what they leave in both processes."""
    from codellama.serve import daemon

    options = {"completion": {"latency_ms": 60, "debounce": False, "speculate": False}}
    client = Client(initializationOptions=options)
    client.ready()
    status = daemon.status()
    assert status is not None
    processes = [psutil.Process(client.process.pid), psutil.Process(status.pid)]
    memory, descriptors = [0, 0], [0, 0]
    began, answered = time.monotonic(), 0
    for n in range(count):
        if n == count // 5:  # caches fill before
            memory = [process.memory_info().rss for process in processes]
            descriptors = [process.num_fds() for process in processes]
        uri = f"file:///nowhere/{n % 50}.py"
        text = (
            f"import os\n\n\ndef part_{n}(first, second_{n}):\n    total = first + second_{n}\n    return tot"
        )
        client.open(uri, text)
        _, answer = client.answer(client.ask_completion(uri, 5, 14))
        answered += "result" in answer
        client.close(uri)
    elapsed = time.monotonic() - began
    names = ("language server", "model server")
    note = f"over the last four fifths of {count} completions in {elapsed:.0f} s, {answered} answered"
    figures = []
    for name, process, before, opened in zip(names, processes, memory, descriptors, strict=True):
        growth = process.memory_info().rss / before - 1
        leaked = process.num_fds() - opened
        figures += [
            Figure(f"{name}'s memory, growth", 100 * growth, "%", "under 5 %", growth < 0.05, note),
            Figure(f"{name}'s descriptors, more than before", leaked, "", "0", leaked <= 0),
        ]
    client.stop()
    return figures


def killed_server(count: int) -> list[Figure]:
    """The model server killed at a random moment of a request, again and again; every request must end."""
    from codellama.serve import daemon

    chance = random.Random(6)
    client = Client(initializationOptions={"completion": {"deadline_ms": 0, "latency_ms": 100_000}})
    client.ready()
    ended = answered = 0
    times = []
    for n in range(count):
        uri = f"file:///nowhere/{n}.py"
        head = "".join(f"import part_{n}_{k}\n" for k in range(60))
        client.open(uri, f"{head}\n\ndef main_{n}():\n    for name in os.listdir(")
        asked = client.ask_completion(uri, 63, 27)
        began = time.perf_counter()
        time.sleep(chance.uniform(0.005, 0.06))
        status = daemon.status()
        if status is not None:
            os.kill(status.pid, signal.SIGKILL)
        try:
            came, answer = client.answer(asked)
        except TimeoutError:
            continue
        times.append(came - began)
        ended += 1
        answered += "result" in answer
        client.close(uri)
    client.stop()
    note = (
        f"{answered} with an answer, the others with an error; the longest took {max(times, default=0):.1f} s"
    )
    name = "requests that ended though the model server was killed"
    return [Figure(name, float(ended), f"of {count}", "all of 100", ended == count, note)]


def large_document() -> list[Figure]:
    """Keys typed into 10 MB, with a suggestion asked for at each, and what other requests take meanwhile."""
    client = Client()
    client.ready()
    small, big = "file:///nowhere/small.py", "file:///nowhere/big.py"
    client.open(small, "def f():\n    return 1\n" * 50)
    client.open(big, "value = compute(first, second)\n" * 330_000)
    client.call("textDocument/documentSymbol", {"textDocument": {"uri": small}})
    times = []
    for n in range(100):
        client.replace(big, 200_000, n, n, "x")
        asked = client.ask_completion(big, 200_000, n + 1)
        began = time.perf_counter()
        other = client.ask("textDocument/documentSymbol", {"textDocument": {"uri": small}})
        came, _ = client.answer(other)
        times.append(1000 * (came - began))
        client.answer(asked)
    client.stop()
    return [at_most("other requests beside 10 MB typed into, p99", times, 0.99, 200, "100 keys")]


def killed_parent() -> list[Figure]:
    """Seconds until the server is gone after its parent was killed, its standard input still open."""
    here, there = os.pipe()
    code = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'codellama_lsp']\n"
        f"s = subprocess.Popen(command, stdin={here}, stdout=subprocess.PIPE)\n"
        "print(s.pid, flush=True); s.stdout.readline(); print('ready', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=(here,), text=True
    )
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    params = {"processId": parent.pid, "rootUri": None, "capabilities": {}}
    os.write(there, frame({"id": 1, "method": "initialize", "params": params}))
    parent.stdout.readline()
    parent.kill()
    parent.wait()
    began = time.perf_counter()
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
    elapsed = time.perf_counter() - began
    return [Figure("gone after its parent was killed", elapsed, "s", "at most 5 s", elapsed <= 5)]


if __name__ == "__main__":
    main()
