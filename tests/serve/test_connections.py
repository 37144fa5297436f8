"""Connections on which nothing moves: they give way, by number and by time, whatever was written to them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from codellama.serve import connections
from codellama.serve.connections import BoundedProtocol

LARGE = b" " * 16_000_000  # more than the sockets of both ends hold


async def small(_: Request) -> Response:
    return PlainTextResponse("ok")


async def whole(_: Request) -> Response:
    return PlainTextResponse(LARGE, headers={"connection": "close"})


async def pieces(_: Request) -> Response:
    async def body() -> AsyncGenerator[bytes, None]:
        yield LARGE
        yield LARGE

    return StreamingResponse(body())


@asynccontextmanager
async def serving() -> AsyncGenerator[tuple[uvicorn.Server, int], None]:
    routes = [Route(f"/{route.__name__}", route) for route in (small, whole, pieces)]
    config = uvicorn.Config(
        Starlette(routes=routes),
        http=BoundedProtocol,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def asks(port: int, path: str) -> socket.socket:
    """Asks, and never reads."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def stalled(server: uvicorn.Server) -> int:
    open_now = [c for c in server.server_state.connections if isinstance(c, BoundedProtocol)]
    return sum(c.transport.get_write_buffer_size() > 0 for c in open_now)


@pytest.mark.parametrize("path", ["/whole", "/pieces"])
def test_who_takes_no_answer_keeps_nobody_out(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while an answer is written nor once the connection is closing, which waits for the reader."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)

    async def scenario() -> None:
        async with serving() as (server, port):
            with ExitStack() as held:
                for _ in range(3):
                    held.enter_context(asks(port, path))
                await until(lambda: stalled(server) == 3)
                async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
                    assert (await http.get(f"http://127.0.0.1:{port}/small")).text == "ok"
                assert stalled(server) == 2

    asyncio.run(scenario())


def test_an_answer_that_nobody_takes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_S", 0.1)

    async def scenario() -> None:
        async with serving() as (server, port):
            with asks(port, "/whole"), asks(port, "/pieces"):
                await until(lambda: len(server.server_state.connections) == 2)
                await until(lambda: not server.server_state.connections)

    asyncio.run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET /small HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_does_not_come_ends_the_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all, or the beginning of one; the next on the same connection likewise."""
    monkeypatch.setattr(connections, "HEAD_S", 0.1)

    async def scenario() -> None:
        async with serving() as (server, port):
            firsts = [b"", b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"] if sent else [b""]
            for first in firsts:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(first)
                if first:
                    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
                writer.write(sent)
                async with asyncio.timeout(20):
                    with contextlib.suppress(ConnectionResetError):
                        assert await reader.read() == b""
                await until(lambda: not server.server_state.connections)
                writer.close()

    asyncio.run(scenario())
