"""How long an editor waits for the answer to `initialize`, against a server that does nothing."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BARE = """
from pygls.lsp.server import LanguageServer
LanguageServer("bare", "1").start_io()
"""
ROUNDS = 5


def answer_s(command: Sequence[str]) -> float:
    """Seconds from the start of the process to its answer."""
    params = {"processId": None, "rootUri": None, "capabilities": {}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    process.stdin.flush()
    header = process.stdout.readline()
    elapsed = time.perf_counter() - began
    assert header.startswith(b"Content-Length")
    process.stdin.close()
    process.stdout.read()
    process.stdout.close()
    process.wait(10)
    return elapsed


def test_it_starts_nearly_as_fast_as_bare_pygls(
    home: Path, record_property: Callable[[str, object], None]
) -> None:
    """The quickest of several starts in turn is within 1.3 times the bare server's."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(answer_s([sys.executable, "-c", BARE]))
        ours.append(answer_s([sys.executable, "-m", "codellama_lsp", "--stdio"]))
    ratio = min(ours) / min(bare)
    record_property("ratio", round(ratio, 3))
    print(f"initialize: {min(ours):.3f} s, bare pygls {min(bare):.3f} s, ratio {ratio:.2f}")
    assert ratio < 1.3
