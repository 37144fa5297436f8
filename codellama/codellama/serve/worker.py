"""The models in memory, and the one thread that runs them.

A model is loaded when it is first named. Requests queue, at most `QUEUE` of them; the asyncio side gets
their pieces as they come and can cancel one at any time, which takes effect within one decode step.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from codellama.runtime.engine import Engine, load_engine
from codellama.runtime.errors import ServerBusy
from codellama.runtime.records import Piece, Request, Result
from codellama.serve.api import ModelInfo

QUEUE = 32
LARGE = 10**9  # bytes of weights from which a load is told step by step

T = TypeVar("T")


class Worker:
    """Runs requests one after the other in a thread of its own."""

    def __init__(self, device: str, dtype: str, max_context: int | None) -> None:
        self._device, self._dtype, self._max_context = device, dtype, max_context
        self._engines: dict[str, Engine] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.waiting = 0
        self.served = 0
        self.tokens = 0
        self.reused_tokens = 0
        self.prompt_tokens = 0

    def models(self) -> tuple[ModelInfo, ...]:
        """What is loaded now."""
        return tuple(
            ModelInfo(name, c.family, c.max_context, c.can_infill, c.can_chat)
            for name, c in ((name, engine.config) for name, engine in self._engines.items())
        )

    async def load(self, name: str) -> None:
        """Loads the model unless it is loaded; raises as `load_engine` does."""
        if name not in self._engines:  # else it would wait for the running request, uncounted
            await self._in_thread(lambda: self._engine(name))

    async def tokenize(self, name: str, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without BOS."""
        return await self._in_thread(lambda: [self._engine(name).tokenizer.encode(t) for t in texts])

    async def run(self, name: str, request: Request) -> AsyncGenerator[Piece | Result, None]:
        """Yields pieces, then the Result; closing the iterator cancels the work."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | Result | Exception] = asyncio.Queue()
        gone = threading.Event()

        def put(item: Piece | Result | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, item)

        if self.waiting >= QUEUE:
            raise ServerBusy(f"The model server has {QUEUE} requests waiting: try again in a moment.")
        self.waiting += 1
        work = self._thread.submit(self._run, name, request, gone.is_set, put)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count_down))
        try:
            while True:
                item = await pieces.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Result):
                    return
        finally:
            gone.set()
            work.cancel()  # where it still waits in the queue

    def close(self) -> None:
        """Ends the thread once the running step is done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(
        self,
        name: str,
        request: Request,
        gone: Callable[[], bool],
        put: Callable[[Piece | Result | Exception], None],
    ) -> None:
        try:
            stream = self._engine(name).stream(request, gone)
            while True:
                try:
                    put(next(stream))
                except StopIteration as end:
                    self._record(end.value)
                    put(end.value)
                    return
        except Exception as error:  # noqa: BLE001 - it goes to the one who waits for it
            if not gone():
                put(error)

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            logging.info("loading the model %s", name)
            report = _progress_log(name)
            self._engines[name] = load_engine(name, self._device, self._dtype, self._max_context, report)
        return self._engines[name]

    def _record(self, result: Result) -> None:
        self.served += 1
        self.tokens += result.stats.tokens
        self.prompt_tokens += result.stats.prompt_tokens
        self.reused_tokens += result.stats.reused_tokens

    def _count_down(self) -> None:
        self.waiting -= 1

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _progress_log(name: str) -> Callable[[int, int], None]:
    """Tells the log of every tenth of a load that takes a while."""
    told = 0

    def report(done: int, of: int) -> None:
        nonlocal told
        tenths = 10 * done // of
        if of >= LARGE and tenths > told:
            told = tenths
            logging.info("loading the model %s: %d %% of %.1f GB", name, 10 * tenths, of / 1e9)

    return report
