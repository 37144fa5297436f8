"""What nobody wants any more ends with the pass that the model is in: counted, with the model held in it.

A real client and server in one process, so that a test can hold the model still and open it again.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import uvicorn
from runtime_support import write_classifier

from codellama.runtime.model import Transformer
from codellama.runtime.records import CompletionRequest, InfillRequest
from codellama.serve import daemon
from codellama.serve.admission import OTHER_PLACES, Admission, Ticket
from codellama.serve.app import App
from codellama.serve.client import ModelClient
from codellama.serve.connections import BoundedProtocol
from codellama.serve.daemon import Address
from codellama.serve.keys import Keys
from codellama.serve.models import Loading, Models
from codellama.serve.security import Guard
from codellama.serve.worker import Worker

HUNG = 60.0
LONG = CompletionRequest("def add(a, b):\n", max_tokens=600)


class Gate:
    """Counts the passes of the model; pass number `at` stands still until the gate is opened."""

    def __init__(self) -> None:
        self.at = 0
        self.passes = 0
        self.held = threading.Event()
        self._open = threading.Event()

    def hold(self, at: int) -> None:
        self.at = at

    def open(self) -> None:
        self._open.set()

    def passed(self) -> None:
        self.passes += 1
        if self.passes == self.at:
            self.held.set()
            self._open.wait(HUNG)


class Watched(Admission):
    """Takes a note of whoever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[Ticket] = []

    def turn(self, ticket: Ticket) -> AbstractAsyncContextManager[bool, None]:
        self.came.append(ticket)
        return super().turn(ticket)

    @property
    def left(self) -> bool:
        """Whether the server knows that nobody waits any more."""
        return all(ticket.gone.is_set() for ticket in self.came)

    @property
    def idle(self) -> bool:
        return self.running + self.waiting == 0


@pytest.fixture(scope="module")
def models() -> Models:
    found = Models(Loading(device="cpu", quantize="none"), {"completion": "pocket"})
    with found.using("pocket"):
        return found


@pytest.fixture
def gate(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made, run = Gate(), Transformer.run

    def gated(self: Transformer, *args: Any, **more: Any) -> Any:
        made.passed()
        return run(self, *args, **more)

    monkeypatch.setattr(Transformer, "run", gated)
    yield made
    made.open()


@asynccontextmanager
async def serving(
    models: Models, patch: pytest.MonkeyPatch, gate: Gate
) -> AsyncGenerator[tuple[Watched, int], None]:
    """A server that this test's `ModelClient`s find, who comes to it, and its port."""
    admission = Watched()
    worker = Worker(models, admission)
    config = uvicorn.Config(
        Guard(App(worker).starlette(), Keys("secret")),
        http=BoundedProtocol,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def ensure(_: object) -> Address:
            return Address("", "127.0.0.1", port, "secret", 0, "pocket")

        patch.setattr(daemon, "ensure", ensure)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield admission, port
        finally:
            gate.open()
            server.should_exit = True
            await task
            worker.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HUNG):
        while not condition():
            await asyncio.sleep(0.005)


def posted(path: str, body: dict[str, Any]) -> bytes:
    """A request as it goes over a socket."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


async def crowd_that_leaves(admission: Watched, port: int, request: bytes, gate: Gate) -> None:
    """Two more ask than there are places for; once the model is held, all connections close."""
    writers = []
    for _ in range(OTHER_PLACES + 2):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writers.append(writer)
    await until(lambda: (admission.running, admission.waiting) == (OTHER_PLACES, 2))
    await asyncio.to_thread(gate.held.wait, HUNG)
    for writer in writers:
        writer.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 2 * HUNG))


@pytest.mark.parametrize("way", ["call", "deadline", "stream", "stream before its first piece"])
def test_leaving_ends_the_work_within_a_pass(
    home: Path, models: Models, gate: Gate, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Cancelling a call, its deadline and closing a stream: the step that runs is the last."""

    async def leave(client: ModelClient) -> None:
        if way == "stream":
            pieces = client.stream(LONG)
            assert await anext(pieces)
            await asyncio.to_thread(gate.held.wait, HUNG)
            await pieces.aclose()
            return
        if way == "deadline":
            with pytest.raises(TimeoutError):
                await client.complete(LONG, deadline_s=0.5)
            return
        call = asyncio.ensure_future(client.complete(LONG) if way == "call" else anext(client.stream(LONG)))
        await asyncio.to_thread(gate.held.wait, HUNG)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    async def scenario() -> None:
        gate.hold(at=1 if way.endswith("first piece") else 12)
        async with serving(models, monkeypatch, gate) as (admission, _), ModelClient() as client:
            await leave(client)
            await until(lambda: admission.left)
            gate.open()
            await until(lambda: admission.idle)
            assert gate.passes <= gate.at
            assert way == "deadline" or gate.held.is_set()

    run(scenario())


def test_leaving_ends_a_prompt_within_a_block(
    home: Path, models: Models, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long prompt no block is begun any more."""

    async def scenario() -> None:
        gate.hold(at=3)
        async with serving(models, monkeypatch, gate) as (admission, _), ModelClient() as client:
            call = asyncio.ensure_future(client.infill(InfillRequest("x = 1\n" * 300, "", max_tokens=2)))
            await asyncio.to_thread(gate.held.wait, HUNG)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await until(lambda: admission.left)
            gate.open()
            await until(lambda: admission.idle)
            assert gate.passes == gate.at

    run(scenario())


def test_a_closed_connection_takes_its_request_along(
    home: Path, models: Models, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor that is killed, also while its request still waits for its turn."""
    request = posted("/v1/completions", {"prompt": "a", "max_tokens": 600, "temperature": 0})

    async def scenario() -> None:
        gate.hold(at=2)
        async with serving(models, monkeypatch, gate) as (admission, port):
            await crowd_that_leaves(admission, port, request, gate)
            await until(lambda: admission.left)
            gate.open()
            await until(lambda: admission.idle)
            assert gate.passes == gate.at

    run(scenario())


def test_leaving_takes_texts_out_of_the_line(
    home: Path, models: Models, gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever waits to classify leaves the line at once; whoever is read, within a window of the model."""
    model, _ = write_classifier(tmp_path, "deberta")
    read = type(model).forward

    def gated(self: torch.nn.Module, *args: Any, **more: Any) -> Any:
        gate.passed()
        return read(self, *args, **more)

    monkeypatch.setattr(type(model), "forward", gated)
    texts = ["word " * 2000, "def f(): ...", "return 1"]
    request = posted("/classify", {"model": str(tmp_path), "input": texts})

    async def scenario() -> None:
        gate.hold(at=2)
        async with serving(models, monkeypatch, gate) as (admission, port):
            await crowd_that_leaves(admission, port, request, gate)
            await until(
                lambda: (admission.running, admission.waiting) == (1, 0)
            )  # while the model stands still
            gate.open()
            await until(lambda: admission.idle)
            assert gate.passes == gate.at

            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            assert b" 200 " in await reader.readline()  # nobody stands in the way of who comes after
            writer.close()

    run(scenario())


def test_a_newer_request_of_a_document_supersedes_the_older(
    home: Path, models: Models, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older ends with the step it is in; another document's, and another client's, goes on."""
    long = InfillRequest("def f(x):\n", "", max_tokens=500, mode="prefix")
    short = InfillRequest("import os\n", "", max_tokens=1)

    async def scenario() -> None:
        gate.hold(at=12)
        async with (
            serving(models, monkeypatch, gate) as (admission, _),
            ModelClient() as client,
            ModelClient() as other,
        ):
            older = asyncio.ensure_future(client.infill(long, session="a.py"))
            await asyncio.to_thread(gate.held.wait, HUNG)
            kept = [
                asyncio.ensure_future(client.infill(short, session="b.py")),
                asyncio.ensure_future(other.infill(short, session="a.py")),
            ]
            await until(lambda: len(admission.came) == 3)
            newer = asyncio.ensure_future(client.infill(short, session="a.py"))
            await until(admission.came[0].gone.is_set)
            gate.open()
            assert (await older).finish_reason == "cancelled"
            for call in (newer, *kept):
                assert (await call).finish_reason != "cancelled"

    run(scenario())


def test_within_its_time_the_server_answers_what_it_has(
    home: Path, models: Models, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`within_s` brings the beginning of the answer instead of a TimeoutError; it counts from the arrival."""
    ahead = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    monkeypatch.setattr("codellama.serve.worker.time", clock)
    request = InfillRequest("def f(x):\n", "", max_tokens=40, mode="prefix")

    async def scenario() -> None:
        nonlocal ahead
        gate.hold(at=12)
        async with serving(models, monkeypatch, gate), ModelClient() as client:
            call = asyncio.ensure_future(client.infill(request, within_s=4 * HUNG))
            await asyncio.to_thread(gate.held.wait, HUNG)
            ahead = 4 * HUNG
            gate.open()
            part = await call
            assert part.finish_reason == "cancelled"
            assert gate.passes == gate.at
            whole = await client.infill(request)
            assert len(part.ids) < len(whole.ids)
            assert whole.text.startswith(part.text)

    run(scenario())
