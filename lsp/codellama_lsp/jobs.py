"""Who waits for which task: requests that a newer one makes pointless, and work in the background.

Cancelling is asyncio's: the task that waits for the model is cancelled, its connection closes, and
that frees the engine. Nothing here knows what the work is.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


class SupersededError(Exception):
    """A newer job of the same key has taken this one's place."""


class Jobs:
    """At most one running job for each key: the newest wins."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, after cancelling the job that ran under `key` before.

        Raises SupersededError once a newer job of this key has cancelled it; when the caller itself
        is cancelled the work is cancelled with it, and CancelledError goes on as usual.
        """
        task = asyncio.ensure_future(work)
        older = self._running.get(key)
        if older is not None:
            older.cancel()
        self._running[key] = task
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise SupersededError from None
        finally:
            if self._running.get(key) is task:
                del self._running[key]

    def cancel_all(self) -> None:
        """Cancel whatever runs; each caller sees SupersededError."""
        for task in self._running.values():
            task.cancel()


async def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine that blocks now and then in a thread, with an event loop of its own.

    When the caller is cancelled the coroutine is cancelled too, and waited for.
    """
    here = asyncio.get_running_loop()
    cancelling: asyncio.Future[Callable[[], object]] = here.create_future()

    async def run() -> T:
        there, task = asyncio.get_running_loop(), asyncio.ensure_future(work())
        here.call_soon_threadsafe(cancelling.set_result, lambda: there.call_soon_threadsafe(task.cancel))
        return await task

    thread = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(run())))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        (await cancelling)()
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # it was told to end; how it did is nobody's business
        raise


class Background:
    """Tasks that nobody waits for, until the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has let go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Background work failed", exc_info=error)
