"""The threads that run requests on the engines, and the way of their answers to the event loop.

Each request drives its engine from a thread of its own while it waits; whose step runs next is the engine's
to say, and who is admitted at all `admission`'s. Ending a request takes effect within one decode step.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from codellama.runtime.engine import Engine
from codellama.runtime.records import InfillRequest, Piece, Request, Result, Stats
from codellama.serve.admission import GPU_PLACES, INTERACTIVE_PLACES, OTHER_PLACES, Admission, Ticket
from codellama.serve.models import Models
from codellama.serve.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
Put = Callable[[Piece | Result | Exception], None]
Gone = Callable[[], bool]  # whether nobody wants the answer any more


class Worker:
    """Runs requests; for the event loop's thread."""

    def __init__(self, models: Models, admission: Admission | None = None) -> None:
        self.models = models
        places = GPU_PLACES if models.on_gpu else INTERACTIVE_PLACES
        self.admission = admission or Admission(places)
        self._threads = ThreadPoolExecutor(places + OTHER_PLACES, thread_name_prefix="model")
        self._under_way: set[asyncio.Future[Any]] = set()
        self._alone: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by model

    async def load(self, name: str) -> None:
        """Loads the model unless it is loaded; raises as `Models.using` does."""
        if self.models.info(name) is None:
            await asyncio.to_thread(self._loaded, name)

    async def tokenize(self, name: str, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without BOS."""

        def encode() -> list[list[int]]:
            with self.models.using(name) as engine:
                return [engine.tokenizer.encode(text) for text in texts]

        return await asyncio.to_thread(encode)

    async def embed(
        self, name: str, texts: Sequence[str], question: bool, client: str
    ) -> "NDArray[np.float32]":
        """[texts, dimensions]; raises as `Models.encoder` and `Admission.turn` do."""

        def work(gone: Gone) -> "NDArray[np.float32]":
            with self.models.encoder(name) as encoder:
                return encoder.encode(texts, question, gone)

        return await self._in_turn(client, name, work)

    async def classify(
        self, name: str, texts: Sequence[str], client: str
    ) -> tuple[tuple[str, ...], list[list[float]]]:
        """Labels, and [texts, labels] of scores; raises as `Models.classifier` and `Admission.turn` do."""

        def work(gone: Gone) -> tuple[tuple[str, ...], list[list[float]]]:
            with self.models.classifier(name) as classifier:
                return classifier.labels, classifier.scores(texts, gone)

        return await self._in_turn(client, name, work)

    async def _in_turn(self, client: str, name: str, work: Callable[[Gone], T]) -> T:
        """Runs `work` in a thread once it is its turn, one of a model at a time.

        Whoever leaves gives the place up: at once while it waits, within a pass of the model while it runs,
        after the load while the model is loaded.
        """
        ticket = Ticket(client, interactive=False)
        # Here and not in the thread, which could not leave a line.
        alone = self._alone.setdefault(name, asyncio.Lock())
        async with self.admission.turn(ticket), alone:
            done = asyncio.get_running_loop().run_in_executor(self._threads, work, ticket.gone.is_set)
            self._keep(done)
            try:
                return await asyncio.shield(done)
            finally:
                ticket.gone.set()
                # The place is free once the thread is, whoever has left meanwhile.
                await asyncio.wait({done})

    async def run(
        self, name: str, request: Request, options: Options, client: str, began: Callable[[], None]
    ) -> AsyncGenerator[Piece | Result, None]:
        """Yields pieces where the answer is streamed, then the Result; closing the iterator cancels the work.

        `began` is called when it is the request's turn. Raises as `Admission.turn` and `Models.using` do.
        """
        # Lines are by key: the name that a request gives itself only tells sessions apart.
        session = (options.client, options.session) if options.session else None
        waited_for = not options.only_prompt
        ticket = Ticket(client, waited_for and isinstance(request, InfillRequest), session)
        limits = Limits(options, ticket.gone)
        pieces: asyncio.Queue[Piece | Result | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(item: Piece | Result | Exception) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, item)

        async def place() -> None:
            try:
                async with self.admission.turn(ticket) as may_run:
                    began()
                    if not may_run or limits.reached():
                        pieces.put_nowait(Result("", (), "cancelled", Stats()))
                        return
                    arguments = (name, request, limits, options, put)
                    await loop.run_in_executor(self._threads, self._run, *arguments)
            except Exception as error:  # noqa: BLE001 - it goes to the one who waits for it
                pieces.put_nowait(error)

        # A task of its own: whoever leaves may be cancelled again and again, and the place is free no sooner
        # than the engine is, a step later at most.
        held = asyncio.ensure_future(place())
        self._keep(held)
        try:
            while True:
                item = await pieces.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Result):
                    return
        finally:
            ticket.gone.set()
            if ticket.began is None:  # it only waits for its turn
                held.cancel()

    def close(self) -> None:
        """Ends the threads, each once its running step is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ended(self, within_s: float) -> bool:
        """Whether all that is under way ends within so many seconds."""
        if not self._under_way:
            return True
        _, left = await asyncio.wait(self._under_way, timeout=within_s)
        return not left

    def _keep(self, work: asyncio.Future[Any]) -> None:
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)

    def _loaded(self, name: str) -> None:
        with self.models.using(name):
            pass

    def _run(self, name: str, request: Request, limits: "Limits", options: Options, put: Put) -> None:
        in_pieces = options.stream and not options.only_prompt
        try:
            with self.models.using(name) as engine:
                if in_pieces or limits.read_text:
                    result = _streamed(engine, request, limits, put if in_pieces else None)
                else:
                    result = engine.run(request, limits.reached, waited_for=not options.only_prompt)
            self.models.measured(name, result)
            put(result)
        except Exception as error:  # noqa: BLE001 - it goes to the one who waits for it
            put(error)


def _streamed(engine: Engine, request: Request, limits: "Limits", put: Put | None) -> Result:
    """The result; each piece is looked at, and handed over where somebody wants it."""
    stream = engine.stream(request, limits.reached)
    while True:
        try:
            piece = next(stream)
        except StopIteration as end:
            result: Result = limits.applied(end.value)
            return result
        limits.saw(piece.text)
        if put is not None:
            put(piece)


class Limits:
    """When an answer ends that the model would go on with, where it stands.

    Nobody wants it any more, its time is up, or it has left the block that was to be completed.
    """

    def __init__(self, options: Options, gone: threading.Event) -> None:
        self._gone = gone
        self._indent, self._predict_s = options.indent, options.predict_s
        self._deadline = time.monotonic() + options.deadline_s if options.deadline_s else None
        self._first: float | None = None
        self._text = ""

    @property
    def read_text(self) -> bool:
        """Whether what was generated decides when to end."""
        return bool(self._indent) or self._predict_s is not None

    def reached(self) -> bool:
        """Asked by the engine at every step, from any thread."""
        if self._gone.is_set():
            return True
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            return True
        return (
            self._first is not None
            and "\n" in self._text
            and (
                (self._predict_s is not None and now - self._first > self._predict_s)
                or self._left() is not None
            )
        )

    def saw(self, text: str) -> None:
        """More of the answer."""
        if self._first is None:
            self._first = time.monotonic()
        self._text += text

    def applied(self, result: Result) -> Result:
        """The result without the line that left the block."""
        self._text = result.text
        place = self._left()
        return result if place is None else replace(result, text=result.text[:place])

    def _left(self) -> int | None:
        """Where the first line after the first begins whose indentation is less than asked for."""
        if not self._indent:
            return None
        place = self._text.find("\n") + 1
        while place:
            end = self._text.find("\n", place)
            line = self._text[place : end if end >= 0 else None]
            bare = line.lstrip(" \t")
            if bare and len(line) - len(bare) < self._indent:
                return place
            place = end + 1
        return None
