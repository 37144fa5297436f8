"""Completions over LSP with the pocket model: `python -m benchmarks.lsp PART`.

`latency`: random places in packages that the model never saw, indexed as workspace folders, the rest of the
line taken away; then typing along, and cancelling. `stress`: mutated frames, a model server that is killed,
a document of 10 MB, a parent that is killed. Parts are measured apart and written together.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
from benchmarks import report
from benchmarks.lsp_client import Client, frame, home, text_of
from benchmarks.report import Figure

# None of these is in codellama/training/corpus-python.txt.
UNSEEN = (
    "pygls",
    "importlinter",
    "cattrs",
    "filelock",
    "httpcore",
    "huggingface_hub",
    "markdown_it",
    "openai",
)
_SIZES = (1500, 60_000)


def main() -> None:
    """Measures a part and writes `results/lsp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("latency", "stress"))
    parser.add_argument("--places", type=int, default=500)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    with home() as folder:
        if given.part == "latency":
            figures = latency(folder, given.places)
        else:
            figures = [
                *frames(given.frames),
                *large_document(),
                *killed_parent(),
                *killed_server(given.kills),
            ]
    print(merged("lsp", figures))


def merged(name: str, figures: list[Figure]) -> str:
    """Writes figures beside those of the other parts, whose values of before they replace."""
    file = report.RESULTS / f"{name}.json"
    old = json.loads(file.read_text())["figures"] if file.is_file() else []
    new = {figure.name for figure in figures}
    kept = [Figure(**row) for row in old if row["name"] not in new]
    return report.write(name, [*kept, *figures], ("codellama", "pygls", "torch"))


def latency(folder: Path, count: int) -> list[Figure]:
    """Random places, typing along what was suggested there, cancelling."""
    roots = []
    for name in UNSEEN:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        roots.append(Path(shutil.copytree(Path(spec.origin).parent, folder / "unseen" / name)))
    client = Client(workspaceFolders=[{"uri": root.as_uri(), "name": root.name} for root in roots])
    client.ready()
    times, along, cancelled, after = [], [], [], []
    texts = []
    for number, (uri, before, rest) in enumerate(_places(roots, count)):
        line, character = before.count("\n"), len(before) - before.rfind("\n") - 1
        client.open(uri, before + rest)
        began = time.perf_counter()
        came, answer = client.answer(client.ask_completion(uri, line, character))
        times.append(1000 * (came - began))
        texts.append(text_of(answer))
        if texts[-1] and len(along) < 1000:
            along += _typed_along(client, uri, line, character, texts[-1])
        if number % 10 == 0:
            one, two = _cancelled(client, uri, before + rest)
            cancelled.append(one)
            after.append(two)
        client.close(uri)
    client.stop()
    return [
        _at_most("request to answer, p50", times, 0.5, 250, f"{len(times)} places in {len(UNSEEN)} packages"),
        _at_most("request to answer, p95", times, 0.95, 500),
        _share("answers that are not empty", sum(map(bool, texts)) / len(texts), 0.6),
        _at_most("typing along a suggestion, p95", along, 0.95, 5, f"{len(along)} keys"),
        _at_most("cancel to error -32800, the longest", cancelled, 1.0, 100, f"{len(cancelled)} times"),
        Figure("the next answer after a cancel, p50", _quantile(after, 0.5), "ms"),
    ]


def _places(roots: list[Path], count: int) -> Iterator[tuple[str, str, str]]:
    """A file's URI, the text before the cursor, and the text from the cursor's line end on."""
    chance = random.Random(20)
    files = [
        file
        for root in roots
        for file in sorted(root.rglob("*.py"))
        if _SIZES[0] < file.stat().st_size < _SIZES[1]
    ]
    done = 0
    while done < count:
        file = chance.choice(files)
        text = file.read_text(encoding="utf-8")
        place = chance.randrange(len(text))
        end = text.find("\n", place)
        if end > 0 and len(text[place:end].strip()) >= 3 and text.isascii():
            done += 1
            yield file.as_uri(), text[:place], text[end:]


def _typed_along(client: Client, uri: str, line: int, character: int, text: str) -> list[float]:
    times = []
    for n, key in enumerate(text.split("\n", 1)[0][:8]):
        client.replace(uri, line, character + n, character + n, key)
        began = time.perf_counter()
        came, answer = client.answer(client.ask_completion(uri, line, character + n + 1))
        if text_of(answer) == text[n + 1 :]:
            times.append(1000 * (came - began))
    return times


def _cancelled(client: Client, uri: str, text: str) -> tuple[float, float]:
    """Milliseconds from a cancel to its error, and of the request after it."""
    line = text.count("\n") // 2
    asked = client.ask_completion(uri, line, 0)
    time.sleep(0.02)
    began = time.perf_counter()
    client.notify("$/cancelRequest", {"id": asked})
    came, _ = client.answer(asked)
    again = time.perf_counter()
    late, _ = client.answer(client.ask_completion(uri, max(line - 1, 0), 0))
    return 1000 * (came - began), 1000 * (late - again)


def frames(count: int) -> list[Figure]:
    """Mutated messages of all kinds; now and then a sound one that must be answered."""
    client = Client(initializationOptions={"completion": {"enabled": False}})
    chance = random.Random(4)
    began, deaf, sent = time.monotonic(), 0, 0
    for _ in range(count // 500):
        client.send_bytes(b"".join(mutated(chance) for _ in range(500)))
        sent += 500
        try:
            _heard(client)
        except (TimeoutError, BrokenPipeError):
            deaf += 1
            break
    alive = client.process.poll() is None
    used = psutil.Process(client.process.pid).memory_info().rss / 1e6 if alive else 0.0
    client.process.kill()
    note = f"{sent} frames in {time.monotonic() - began:.0f} s, {used:.0f} MB at the end"
    return [
        Figure(
            "mutated frames: exits and deafness", float(deaf + (not alive)), "", "0 of 1,000,000", None, note
        )
    ]


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


def mutated(chance: random.Random) -> bytes:
    """A sound message with some bytes changed, dropped, doubled, or its header written oddly."""
    body = bytearray(frame(chance.choice(_SOUND)).partition(b"\r\n\r\n")[2])
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


def _heard(client: Client) -> None:
    """A sound request is answered, though the frames before may have taken the first for their own end."""
    for _ in range(20):
        asked = client.ask("textDocument/documentSymbol", {"textDocument": {"uri": "file:///b.py"}})
        try:
            client.answer(asked, 5.0)
        except TimeoutError:
            continue
        return
    raise TimeoutError("it hears nothing any more")


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
    return [_at_most("other requests beside 10 MB typed into, p99", times, 0.99, 200, "100 keys")]


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


def killed_server(count: int) -> list[Figure]:
    """The model server killed while it works; every request must end."""
    from codellama.serve import daemon

    client = Client(initializationOptions={"completion": {"deadline_ms": 0, "latency_ms": 100_000}})
    client.ready()
    ended = answered = 0
    for n in range(count):
        uri = f"file:///nowhere/{n}.py"
        client.open(uri, f"import os\n\n\ndef main_{n}():\n    for name in os.listdir(")
        asked = client.ask_completion(uri, 4, 27)
        time.sleep(0.01)
        status = daemon.status()
        if status is not None:
            os.kill(status.pid, signal.SIGKILL)
        try:
            _, answer = client.answer(asked)
        except TimeoutError:
            continue
        ended += 1
        answered += "result" in answer
    client.stop()
    note = f"{answered} with an answer, the others with an error"
    name = "requests that ended though the model server was killed"
    return [Figure(name, float(ended), f"of {count}", "all of 100", ended == count, note)]


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _at_most(name: str, values: list[float], share: float, goal: float, note: str = "") -> Figure:
    value = _quantile(values, share)
    return Figure(name, value, "ms", f"at most {goal:g} ms", value <= goal, note)


def _share(name: str, value: float, goal: float, note: str = "") -> Figure:
    return Figure(name, 100 * value, "%", f"at least {100 * goal:g} %", value >= goal, note)


if __name__ == "__main__":
    main()
