"""`ModelClient` against the real server: answers and errors of the same class."""

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
        assert client._exchange._http is not None
        await client._exchange._http.aclose()
        assert await client.models()
        newer = client._exchange._http
        asked, told = asyncio.Event(), asyncio.Event()

        async def fails(_: httpx.Request) -> httpx.Response:
            asked.set()
            await told.wait()
            raise httpx.ReadError("gone")

        client._exchange._http = httpx.AsyncClient(
            transport=httpx.MockTransport(fails), base_url="http://localhost"
        )
        late = asyncio.ensure_future(client.models())
        await asked.wait()
        client._exchange._http = newer
        told.set()
        assert await late
        assert client._exchange._http is newer

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


def test_the_client_is_free_of_torch() -> None:
    """The command line and the language server import it, and must start at once."""
    heavy = "{'torch', 'transformers', 'numpy', 'uvicorn', 'starlette', 'httpx'}"
    script = f"import sys, codellama.serve.client; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
