"""What a terminal shows while the model server starts in the background, and loads a large model for us."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codellama.serve.client import ModelClient

LARGE = 10**9  # bytes of weights from which somebody waits long enough to want a bar
_EVERY_S = 0.2
_STARTING_S = 0.5  # what a start may take before it is told of


@asynccontextmanager
async def shown(client: "ModelClient | None") -> AsyncIterator[None]:
    """Shows the start and the loads that the block waits for; nothing where stderr is no terminal."""
    if client is None or not sys.stderr.isatty():
        yield
        return
    watching = asyncio.create_task(_shown(client))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _shown(client: "ModelClient") -> None:
    from codellama.serve import daemon
    from codellama.serve.remote import is_remote
    from codellama_cli import output

    if not is_remote(client.settings.model) and daemon.find() is None:
        await asyncio.sleep(_STARTING_S)
        output.note("starting the model server (it stays for the next commands)")
    with output.large_progress("loading the model") as move:
        await watch(client, move)


async def watch(client: "ModelClient", move: Callable[[int, int], None]) -> None:
    """Tells `move` of a large load, until it is over; ends at once where the server is gone."""
    from codellama.runtime.errors import CodellamaError

    told = False
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            state = await client.loading()
        except CodellamaError:  # whoever asked for something hears of it
            return
        if state is not None and state[1] >= LARGE:
            told = True
            move(*state)
        elif told:
            move(1, 1)
            return
