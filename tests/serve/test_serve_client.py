"""`ModelClient` against the real server: answers, errors of the same class, cancelling."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from codellama.runtime.errors import (
    CheckpointError,
    ContextTooLong,
    InvalidRequest,
    Unauthorized,
    UnknownModel,
)
from codellama.runtime.locate import locate
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extra,
    InfillRequest,
    Request,
    Sampling,
)
from codellama.serve.client import ModelClient

T = TypeVar("T")

LONG = CompletionRequest("def add(a, b):\n", max_tokens=600)
SHORT = CompletionRequest("import os\n", max_tokens=2)
CONTEXT = json.loads((locate("pocket") / "config.json").read_text())["max_position_embeddings"]
HUNG = 60.0


def ask(call: Callable[[ModelClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with ModelClient() as client, asyncio.timeout(HUNG):
            return await call(client)

    return asyncio.run(run())


async def joined(client: ModelClient, request: Request) -> str:
    return "".join([piece async for piece in client.stream(request)])


@pytest.mark.parametrize(
    "request_",
    [
        CompletionRequest("def f(x):\n", max_tokens=6),
        CompletionRequest("def f(x):\n", max_tokens=6, sampling=Sampling(0.8, 0.9, seed=7)),
        InfillRequest("def f(x):\n    return ", "\n\nf(1)\n", (Extra("b.py", "x = 1\n"),), max_tokens=6),
        InfillRequest('s = "äöü 漢字 🦙', '"\n', max_tokens=6),
    ],
    ids=["greedy", "seeded", "infill", "unicode"],
)
def test_pieces_join_to_the_whole(served: Any, request_: CompletionRequest | InfillRequest) -> None:
    """Streaming and waiting for the whole give the same text."""

    async def both(client: ModelClient) -> tuple[str, str]:
        whole = client.infill if isinstance(request_, InfillRequest) else client.complete
        return await joined(client, request_), (await whole(request_)).text  # type: ignore[arg-type, operator] # the method fits the request

    streamed, whole = ask(both)
    assert streamed == whole


def test_a_result_travels_whole(served: Any) -> None:
    """Ids, statistics and what became of the extras arrive as the engine gave them."""
    request = InfillRequest("x = ", "\n", (Extra("b.py", "y = 1\n"),), max_tokens=3)
    result = ask(lambda client: client.infill(request))
    assert len(result.ids) == result.stats.tokens
    assert result.stats.prompt_tokens > 0
    assert [(packed.filename, packed.kept) for packed in result.packed] == [("b.py", True)]


def test_models_and_tokens(served: Any) -> None:
    async def both(client: ModelClient) -> tuple[Any, Any]:
        return await client.model(), await client.tokenize(["def f():", ""])

    info, tokens = ask(both)
    assert (info.name, info.max_context, info.can_infill, info.can_chat) == ("pocket", CONTEXT, True, False)
    assert tokens[0]
    assert tokens[1] == []
    # Its path is another name of the same model, which is in memory once.
    assert ask(lambda client: client.model(str(locate("pocket")))).name == "pocket"


def test_calls_share_connections_that_end(served: Any) -> None:
    """Connections that one call closed are made anew for another; a late failure takes no newer along."""

    async def scenario(client: ModelClient) -> None:
        await client.models()
        assert client._http is not None
        await client._http.aclose()
        assert await client.models()
        newer = client._http
        asked, told = asyncio.Event(), asyncio.Event()

        async def fails(_: httpx.Request) -> httpx.Response:
            asked.set()
            await told.wait()
            raise httpx.ReadError("gone")

        client._http = httpx.AsyncClient(transport=httpx.MockTransport(fails), base_url="http://localhost")
        late = asyncio.ensure_future(client.models())
        await asked.wait()
        client._http = newer
        told.set()
        assert await late
        assert client._http is newer

    ask(scenario)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (CompletionRequest("a", max_tokens=0), InvalidRequest),
        (CompletionRequest("a", max_tokens=True), InvalidRequest),
        (CompletionRequest("a", max_tokens=4000), ContextTooLong),
        (CompletionRequest("x = 1\n" * 2000, max_tokens=4), ContextTooLong),
        (CompletionRequest("half a pair: \ud800"), InvalidRequest),
        (CompletionRequest("a", sampling=Sampling(temperature=float("nan"))), InvalidRequest),
        (InfillRequest("a", "b", (Extra("caf\udce9.py", "x"),)), InvalidRequest),
        (InfillRequest("a", "b", mode="up"), InvalidRequest),  # type: ignore[arg-type] # on purpose
        (ChatRequest((ChatMessage("user", "hello"),)), InvalidRequest),
    ],
)
def test_errors_keep_their_class(served: Any, request_: Request, kind: type[Exception]) -> None:
    """The class that the runtime raised is the class that the caller catches, streamed or whole."""

    async def both(client: ModelClient) -> tuple[Exception, Exception]:
        with pytest.raises(kind) as whole:
            await client._run(request_, None, None, {})
        with pytest.raises(kind) as streamed:
            await joined(client, request_)
        return whole.value, streamed.value

    for error in ask(both):
        assert type(error) is kind
        assert str(error)


def test_an_unknown_model_is_named(served: Any) -> None:
    async def call(client: ModelClient) -> None:
        with pytest.raises(UnknownModel, match="no-such-model"):
            await client.complete(SHORT, model="no-such-model")
        await client.complete(SHORT)

    ask(call)


def test_a_damaged_model_leaves_the_server_alive(served: Any, tmp_path: Path) -> None:
    """A truncated checkpoint is a CheckpointError for who asked for it and nothing to the others."""
    folder = tmp_path / "damaged"
    shutil.copytree(locate("pocket"), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])

    async def call(client: ModelClient) -> None:
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            await client.complete(SHORT, model=str(folder))
        await client.complete(SHORT)

    ask(call)


def test_a_wrong_token_is_told(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELLAMA_TOKEN", "wrong")
    with pytest.raises(Unauthorized):
        ask(lambda client: client.complete(SHORT))


@pytest.mark.parametrize("way", ["call", "deadline", "stream", "stream before its first piece"])
def test_leaving_cancels_the_work(served: Any, wait_until: Callable[..., None], way: str) -> None:
    """Cancelling a call, its deadline and closing a stream end a long generation on the server."""

    async def leave(client: ModelClient) -> None:
        if way == "stream":
            pieces = client.stream(LONG)
            assert await anext(pieces)
            await pieces.aclose()
            return
        if way == "deadline":
            with pytest.raises(TimeoutError):
                await client.complete(LONG, deadline_s=0.02)
            return
        call = asyncio.ensure_future(client.complete(LONG) if way == "call" else joined(client, LONG))
        while not await asyncio.to_thread(served.metric, "requests_in_flight"):
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    async def leave_then_ask(client: ModelClient) -> None:
        await leave(client)
        await client.complete(SHORT)

    before = served.metric("tokens_generated_total")
    ask(leave_then_ask)
    wait_until(lambda: served.metric("requests_in_flight") == 0)
    assert served.metric("tokens_generated_total") - before < LONG.max_tokens / 2


def test_a_newer_request_of_a_document_supersedes_the_older(served: Any) -> None:
    """The older ends at once with what it had; another document's, and another client's, goes on."""

    async def call(client: ModelClient) -> None:
        long = InfillRequest("def f(x):\n", "", max_tokens=500, mode="prefix")
        short = InfillRequest("import os\n", "", max_tokens=1)
        async with ModelClient() as other:
            older = asyncio.ensure_future(client.infill(long, session="a.py"))
            kept = [
                asyncio.ensure_future(client.infill(long, session="b.py")),
                asyncio.ensure_future(other.infill(long, session="a.py")),
            ]
            while await asyncio.to_thread(served.metric, "requests_running") < 3:
                await asyncio.sleep(0.01)
            newer = await client.infill(short, session="a.py")
            assert newer.finish_reason != "cancelled"
            assert (await older).finish_reason == "cancelled"
            assert [(await each).finish_reason for each in kept] == ["length", "length"]

    ask(call)


def test_within_its_time_the_server_answers_what_it_has(served: Any) -> None:
    """`within_s` brings the beginning of the answer instead of a TimeoutError."""

    async def call(client: ModelClient) -> None:
        whole = await client.infill(InfillRequest("def f(x):\n", "", max_tokens=500, mode="prefix"))
        part = await client.infill(
            InfillRequest("def f(x):\n", "", max_tokens=500, mode="prefix"), within_s=0.02
        )
        assert part.finish_reason == "cancelled"
        assert len(part.ids) < len(whole.ids)
        assert whole.text.startswith(part.text)

    ask(call)


def test_closing_a_raw_connection_cancels_the_work(served: Any, wait_until: Callable[..., None]) -> None:
    """An editor that is killed takes its request with it, also while the request still waits its turn."""
    before = served.metric("tokens_generated_total")
    request = b'{"prompt": "a", "max_tokens": 600, "temperature": 0}'
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {served.token}\r\n"
        f"Content-Length: {len(request)}\r\n\r\n"
    ).encode()

    async def call(client: ModelClient) -> None:
        writers = []
        for _ in range(3):
            _, writer = await asyncio.open_unix_connection(served.uds)
            writer.write(head + request)
            writers.append(writer)
        while await asyncio.to_thread(served.metric, "requests_in_flight") < 3:
            await asyncio.sleep(0.01)
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        await client.complete(SHORT)

    ask(call)
    wait_until(lambda: served.metric("requests_in_flight") == 0)
    assert served.metric("tokens_generated_total") - before < LONG.max_tokens / 2


def test_the_client_is_free_of_torch() -> None:
    """The command line and the language server import it, and must start at once."""
    heavy = "{'torch', 'transformers', 'numpy', 'uvicorn', 'starlette', 'httpx'}"
    script = f"import sys, codellama.serve.client; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
