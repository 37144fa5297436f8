"""Whoever waits for the model server to load a large model sees how far it is."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from codellama.runtime.errors import ServerError
from codellama.runtime.load import load_engine
from codellama.serve import models as serving
from codellama.serve.app import App
from codellama.serve.client import ModelClient
from codellama.serve.models import Loading, Models
from codellama.serve.worker import Worker
from codellama_cli import loading

GB = 10**9


class StandIn(ModelClient):
    """Stands for a server that tells these states in turn, and is gone at the end."""

    def __init__(self, states: list[tuple[int, int] | None]) -> None:
        super().__init__()
        self.states = states

    async def loading(self) -> tuple[int, int] | None:
        if not self.states:
            raise ServerError("The model server is gone.")
        return self.states.pop(0)


@pytest.mark.parametrize(
    ("states", "seen"),
    [
        ([None, (GB, 2 * GB), (2 * GB, 2 * GB), None, (1, GB)], [(GB, 2 * GB), (2 * GB, 2 * GB), (1, 1)]),
        ([(1, GB - 1), None, None], []),
        ([(1, GB)], [(1, GB)]),
    ],
)
def test_a_large_load_is_followed(
    monkeypatch: pytest.MonkeyPatch, states: list[tuple[int, int] | None], seen: list[tuple[int, int]]
) -> None:
    """From 1 GB on, to its end; small loads, and a server that goes, are for others to tell."""
    monkeypatch.setattr(loading, "_EVERY_S", 0.0)
    moves: list[tuple[int, int]] = []
    asyncio.run(loading.watch(StandIn(states), lambda done, of: moves.append((done, of))))
    assert moves == seen


def test_the_server_tells_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """GET /health gives the bytes while a model loads, and none before and after."""
    half, go_on = threading.Event(), threading.Event()

    def halfway(name: str, *, progress: Callable[[int, int], None], **how: Any) -> object:
        progress(GB, 2 * GB)
        half.set()
        assert go_on.wait(60)
        return load_engine(name, progress=progress, **how)

    monkeypatch.setattr(serving, "load_engine", halfway)
    worker = Worker(Models(Loading("cpu", "float32", "none"), {"completion": "pocket"}))

    async def run() -> list[object]:
        transport = httpx.ASGITransport(App(worker).starlette())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            found = [(await http.get("/health")).json()["loading"]]
            load = asyncio.ensure_future(worker.load("pocket"))
            await asyncio.to_thread(half.wait, 60)
            found.append((await http.get("/health")).json()["loading"])
            go_on.set()
            await load
            return [*found, (await http.get("/health")).json()["loading"]]

    try:
        assert asyncio.run(run()) == [None, [GB, 2 * GB], None]
    finally:
        worker.close()
