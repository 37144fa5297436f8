"""The whole chain through pytest-lsp: server process, index, model server, pocket model.

Nothing is replaced here. The model server is started on demand, once, in a home of this module's.
What the model writes is its own business, so the tests ask at several places of real code.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from lsprotocol import types
from pygls.exceptions import JsonRpcRequestCancelled
from pytest_lsp import LanguageClient, client_capabilities, make_test_lsp_client
from runtime_support import write_llama

from codellama.serve import daemon

# Code whose next characters are not in doubt: (before the cursor, after it).
PLACES = (
    # The pocket model is seldom sure enough; how a line went on before is.
    (
        "def first(path):\n    lines = read_lines(path)\n    return lines\n\n\n"
        "def last(path):\n    lines = read_lines(path)\n    return lines\n\n\n"
        "def all(path):\n    lines = read",
        "\n",
    ),
    ("import os\nimport sys\n\n\ndef main():\n    for name in os.listdir(", "\n"),
    ("class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self", "\n"),
    ("def total(values):\n    result = 0\n    for value in values:\n        result ", "\n"),
    ("import json\n\n\ndef load(path):\n    with open(path) as file:\n        return ", "\n"),
)


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home for all tests of this module; its model server ends with them."""
    folder = tmp_path_factory.mktemp("h")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CODELLAMA_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(folder))
        for kind in ("CONFIG_HOME", "CACHE_HOME", "STATE_HOME", "DATA_HOME", "RUNTIME_DIR"):
            patch.setenv(f"XDG_{kind}", str(folder / kind[:2].lower()))
            (folder / kind[:2].lower()).mkdir(mode=0o700, exist_ok=True)
        yield folder
        daemon.stop()


class Session:
    """A client, its server process, and the statuses that the server has told."""

    def __init__(self, client: LanguageClient) -> None:
        self.client = client
        self.statuses: list[dict[str, Any]] = []
        client.feature("codellama/status")(lambda params: self.statuses.append(params._asdict()))

    async def begin(self, max_tokens: int = 12, folders: Sequence[Path] = (), **options: Any) -> None:
        capabilities = client_capabilities("neovim@v0.11")
        await self.client.initialize_session(
            types.InitializeParams(
                capabilities=capabilities,
                initialization_options={"completion": {"max_tokens": max_tokens, **options}},
                workspace_folders=[types.WorkspaceFolder(f.as_uri(), f.name) for f in folders],
            )
        )

    def configure(self, **completion: Any) -> None:
        settings = {"codellama": {"completion": completion}}
        self.client.workspace_did_change_configuration(types.DidChangeConfigurationParams(settings))

    def open(self, text: str, uri: str) -> None:
        item = types.TextDocumentItem(uri, "python", 1, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))

    async def complete(self, uri: str, before: str) -> list[types.InlineCompletionItem]:
        lines = before.split("\n")
        answer = await self.client.text_document_inline_completion_async(
            types.InlineCompletionParams(
                types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
                types.TextDocumentIdentifier(uri),
                types.Position(len(lines) - 1, len(lines[-1])),
            )
        )
        assert isinstance(answer, list)
        return answer

    async def state(self, wanted: str, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until the last status is `wanted`."""
        async with asyncio.timeout(timeout_s):
            while not self.statuses or self.statuses[-1]["state"] != wanted:
                await asyncio.sleep(0.01)
        return self.statuses[-1]


@pytest_asyncio.fixture
async def session(world: Path) -> AsyncIterator[Session]:
    client = make_test_lsp_client()
    await client.start_io(sys.executable, "-m", "codellama_lsp", "--stdio")
    yield Session(client)
    await client.shutdown_session()
    process = client._server
    await client.stop()
    assert process is not None
    assert process.returncode == 0


@pytest.mark.asyncio
async def test_real_suggestions_arrive(session: Session) -> None:
    """At most places there is one, it fits the cursor, and asking again gives the same."""
    await session.begin()
    texts = []
    for number, (before, after) in enumerate(PLACES):
        uri = f"file:///nowhere/{number}.py"
        session.open(before + after, uri)
        items = await session.complete(uri, before)
        assert [i.insert_text for i in await session.complete(uri, before)] == [i.insert_text for i in items]
        for item in items:
            assert item.range is not None
            assert item.range.start == item.range.end
            texts.append(item.insert_text)
    print(f"suggestions {texts}, {session.statuses[-1]['latency_ms']} ms")
    assert texts
    assert all(texts)
    assert daemon.status() is not None


@pytest.mark.asyncio
async def test_a_workspace_is_indexed_and_used(session: Session, tmp_path: Path, world: Path) -> None:
    """The index is built beside the editor's work, its context goes along, and it can be reused."""
    project = tmp_path / "project"
    project.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / "shapes.py").write_text("def area_of_circle(radius):\n    return 3 * radius * radius\n")
    before = "from shapes import area_of_circle\n\n\ndef main():\n    print(area_of"
    uri = (project / "main.py").as_uri()
    session.open(before + "\n", uri)
    await session.begin(folders=[project])
    session.open(before + "\n", uri)
    async with asyncio.timeout(30):
        while not any(
            isinstance(value, types.WorkDoneProgressEnd)
            for values in session.client.progress_reports.values()
            for value in values
        ):
            await asyncio.sleep(0.01)
    assert isinstance(await session.complete(uri, before), list)
    assert list((world / "ca").rglob("project-*/*.sqlite"))
    assert (await session.state("ready"))["latency_ms"] > 0


@pytest.mark.asyncio
async def test_cancelling_frees_the_engine(session: Session, world: Path) -> None:
    """A cancelled request is answered with -32800 at once, and the next does not wait for it.

    The model is one that goes on for long: random weights, a deep stack, and no way to end.
    """
    endless = write_llama(world / "endless", layers=12, positions=8192)
    endless.lm_head.weight.data[-6:] = 0  # control tokens, the two that end an answer among them
    endless.save_pretrained(world / "endless")
    # Prompt and answer are sized to a latency: here they are wanted whole.
    endlessly = {
        "model": str(world / "endless"),
        "latency_ms": 10_000_000,
        "deadline_ms": 0,
        "speculate": False,
    }
    await session.begin(max_tokens=8000, **endlessly)
    before, after = PLACES[0]
    session.open(before + after, "file:///nowhere/a.py")
    await session.state("ready")
    session.configure(max_tokens=4, **endlessly)
    await session.complete("file:///nowhere/a.py", before)
    began = time.monotonic()
    await session.complete("file:///nowhere/a.py", before)
    short = time.monotonic() - began

    session.configure(max_tokens=8000, **endlessly)
    session.open("x = [\n", "file:///nowhere/b.py")
    asked = asyncio.create_task(session.complete("file:///nowhere/b.py", "x = [\n"))
    await session.state("busy")
    await asyncio.sleep(0.3)
    assert not asked.done()
    futures = session.client.protocol._request_futures
    (message_id,) = futures
    began = time.monotonic()
    session.client.protocol.notify(types.CANCEL_REQUEST, types.CancelParams(message_id))
    with pytest.raises(JsonRpcRequestCancelled):
        await asked
    cancelled = time.monotonic() - began
    session.configure(max_tokens=4, **endlessly)
    began = time.monotonic()
    await session.complete("file:///nowhere/a.py", before)
    again = time.monotonic() - began
    print(f"cancelled in {cancelled:.3f} s; 4 tokens in {short:.3f} s, after it in {again:.3f} s")
    assert cancelled < 5
    assert again < short + 20


@pytest.mark.asyncio
async def test_a_killed_model_server_comes_back(session: Session) -> None:
    """The request after its death is answered by a fresh one."""
    await session.begin(deadline_ms=0)
    before, after = PLACES[0]
    uri = "file:///nowhere/a.py"
    session.open(before + after, uri)
    expected = [item.insert_text for item in await session.complete(uri, before)]
    status = daemon.status()
    assert status is not None
    os.kill(status.pid, signal.SIGKILL)
    session.open(before + after, "file:///nowhere/b.py")  # what was said of the first is remembered
    again = await session.complete("file:///nowhere/b.py", before)
    assert [item.insert_text for item in again] == expected
    fresh = daemon.status()
    assert fresh is not None
    assert fresh.pid != status.pid
    assert not session.client.messages


@pytest.mark.asyncio
async def test_an_unknown_model_is_one_message_and_can_be_mended(session: Session) -> None:
    """[] for each request, the sentence once and in the status; a right setting makes it work."""
    await session.begin(model="no-such-model")
    before, after = PLACES[0]
    uri = "file:///nowhere/a.py"
    session.open(before + after, uri)
    for _ in range(2):
        assert await session.complete(uri, before) == []
    status = await session.state("error")
    assert "no-such-model" in status["message"]
    (message,) = session.client.messages
    assert message.message == status["message"]
    session.configure(model="pocket")
    await session.complete(uri, before)
    assert (await session.state("ready"))["message"] == ""
