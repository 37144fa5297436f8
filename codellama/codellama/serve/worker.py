"""The models in memory, and the threads that wait for their answers.

A model is loaded when it is first named. At most `QUEUE` requests are in flight; whose step runs next is
the engine's to say. The asyncio side gets pieces as they come and can cancel a request at any time, which
takes effect within one decode step.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from codellama.runtime.engine import Engine, load_engine
from codellama.runtime.errors import ServerBusy
from codellama.runtime.records import Piece, Request, Result
from codellama.serve.api import ModelInfo

QUEUE = 32
LARGE = 10**9  # bytes of weights from which a load is told step by step

T = TypeVar("T")


class Worker:
    """Runs requests, each in a thread of its own that drives the engine while it waits."""

    def __init__(self, device: str, dtype: str, quantize: str, max_context: int | None) -> None:
        self._load = partial(
            load_engine, device=device, dtype=dtype, quantize=quantize, max_context=max_context
        )
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=QUEUE, thread_name_prefix="model")
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
        if name not in self._engines:
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
        work = self._threads.submit(self._run, name, request, gone.is_set, put)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count_down))
        try:
            while True:
                item = await pieces.get()
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Result):
                    self._record(item)
                yield item
                if isinstance(item, Result):
                    return
        finally:
            gone.set()
            work.cancel()  # where it still waits in the queue

    def close(self) -> None:
        """Ends the threads, each once its running step is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
                    put(end.value)
                    return
        except Exception as error:  # noqa: BLE001 - it goes to the one who waits for it
            if not gone():
                put(error)

    def _engine(self, name: str) -> Engine:
        with self._loading:
            if name not in self._engines:
                logging.info("loading the model %s", name)
                self._engines[name] = self._load(name, progress=_load_progress(name))
            return self._engines[name]

    def _record(self, result: Result) -> None:
        self.served += 1
        self.tokens += result.stats.tokens
        self.prompt_tokens += result.stats.prompt_tokens
        self.reused_tokens += result.stats.reused_tokens

    def _count_down(self) -> None:
        self.waiting -= 1

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _load_progress(name: str) -> Callable[[int, int], None]:
    """Shows a load that takes a while: a bar on a terminal, else every tenth in the log."""
    return _bar(name) if sys.stderr.isatty() else _tenths(name)


def _bar(name: str) -> Callable[[int, int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (f"loading {name}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("")

    def report(done: int, of: int) -> None:
        if of < LARGE:
            return
        if not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=of)
        if done >= of:
            bar.stop()

    return report


def _tenths(name: str) -> Callable[[int, int], None]:
    told = 0

    def report(done: int, of: int) -> None:
        nonlocal told
        tenths = 10 * done // of
        if of >= LARGE and tenths > told:
            told = tenths
            logging.info("loading the model %s: %d %% of %.1f GB", name, 10 * tenths, of / 1e9)

    return report
