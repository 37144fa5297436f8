"""Whose turn it is: places, lines by client, limits, and what a newer request supersedes."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any

import pytest
import torch

from codellama.runtime.embedding import EmbeddingModel
from codellama.runtime.errors import ClientBusy, ServerBusy, UnknownModel
from codellama.runtime.records import CompletionRequest, InfillRequest
from codellama.serve.admission import Admission, Ticket
from codellama.serve.models import Loading, Models
from codellama.serve.options import Options
from codellama.serve.worker import Worker


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


class Crowd:
    """Tasks that take their turn, note it, and hold it until they are told to end."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[str] = []
        self.outcomes: dict[str, bool] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(
        self, name: str, client: str, session: str | None = None, interactive: bool = True
    ) -> Ticket:
        ticket = Ticket(client, interactive, session)
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._stay(name, ticket))
        await self._settled()
        return ticket

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await self._settled()

    async def leave(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self._settled()

    async def _settled(self) -> None:
        for _ in range(3):  # what was woken runs, and wakes others
            await asyncio.sleep(0)

    async def _stay(self, name: str, ticket: Ticket) -> None:
        async with self.admission.turn(ticket) as may_run:
            self.outcomes[name] = may_run
            self.order.append(name)
            if may_run:
                await self._ends[name].wait()


class Full(Admission):
    """Takes a note of whoever comes, and nobody in."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[Ticket] = []

    def turn(self, ticket: Ticket) -> AbstractAsyncContextManager[bool, None]:
        self.came.append(ticket)
        raise ServerBusy("full")


def test_a_name_of_ones_own_is_no_other_line() -> None:
    """Whose key it is, not what the body says, gives the line; the name only tells sessions apart."""

    async def scenario() -> None:
        full = Full()
        worker = Worker(Models(Loading(), {"completion": "pocket"}), full)
        for options in (
            Options(client="a", session="x"),
            Options(client="b", session="x"),
            Options(client="b"),
        ):
            with pytest.raises(ServerBusy):
                await anext(worker.run("pocket", CompletionRequest("a"), options, "anna", lambda: None))
        worker.close()
        assert [ticket.client for ticket in full.came] == ["anna"] * 3
        first, second, none = (ticket.session for ticket in full.came)
        assert first != second
        assert none is None

    run(scenario())


def test_what_only_fills_a_cache_overtakes_nobody() -> None:
    """llama.vim puts prompts into the cache that it may want later; completions do not wait for those."""

    async def scenario() -> None:
        full = Full()
        worker = Worker(Models(Loading(), {"completion": "pocket"}), full)
        for options in (Options(), Options(only_prompt=True)):
            with pytest.raises(ServerBusy):
                await anext(worker.run("pocket", InfillRequest("a", ""), options, "anna", lambda: None))
        worker.close()
        assert [ticket.interactive for ticket in full.came] == [True, False]

    run(scenario())


def test_texts_to_embed_or_classify_wait_in_the_same_line() -> None:
    """They are refused where too many wait, and hold their place until their thread is free."""

    async def scenario() -> None:
        full = Full()
        refusing = Worker(Models(Loading(), {}), full)
        for asks in (refusing.embed("m", ["a"], False, "anna"), refusing.classify("m", ["a"], "anna")):
            with pytest.raises(ServerBusy):
                await asks
        refusing.close()
        assert [(ticket.client, ticket.interactive) for ticket in full.came] == [("anna", False)] * 2

        go, at_work = threading.Event(), threading.Event()

        class Slow(Models):
            def encoder(self, name: str) -> AbstractContextManager[EmbeddingModel]:
                at_work.set()
                go.wait(20)
                raise UnknownModel(name)

        worker = Worker(Slow(Loading(), {}), Admission(others=1))
        first = asyncio.create_task(worker.embed("first", ["a"], False, "anna"))
        await asyncio.to_thread(at_work.wait, 20)
        second = asyncio.create_task(worker.embed("second", ["a"], False, "ben"))
        await asyncio.sleep(0)
        first.cancel()  # whoever asked has left, and the thread goes on
        for _ in range(3):
            await asyncio.sleep(0)
        assert (worker.admission.running, worker.admission.waiting) == (1, 1)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(UnknownModel, match="second"):
            await second
        assert (worker.admission.running, worker.admission.waiting) == (0, 0)
        worker.close()

    run(scenario())


@pytest.mark.parametrize(("device", "running"), [("cpu", 8), ("cuda", 32)])
def test_a_gpu_takes_more_at_once(monkeypatch: pytest.MonkeyPatch, device: str, running: int) -> None:
    """It decodes them in one batch; what is more than that waits where it can still leave the line."""
    monkeypatch.setattr("codellama.serve.models.find_device", lambda name: torch.device(device))

    async def scenario() -> None:
        worker = Worker(Models(Loading(), {}))
        crowd = Crowd(worker.admission)
        for number in range(34):
            await crowd.come(f"{number}", f"client {number}")
        assert (worker.admission.running, worker.admission.waiting) == (running, 34 - running)
        for number in range(34):
            await crowd.end(f"{number}")
        worker.close()

    run(scenario())


def test_clients_take_turns() -> None:
    """The client with the fewest running is next, and among equals the one that waits longest."""

    async def scenario() -> None:
        crowd = Crowd(Admission(interactive=2))
        for name in ("a1", "a2", "a3", "a4"):
            await crowd.come(name, "a")
        for name in ("b1", "b2", "c1"):
            await crowd.come(name, name[0])
        assert crowd.order == ["a1", "a2"]
        for ends, follows in [("a1", "b1"), ("a2", "a3"), ("b1", "c1"), ("c1", "b2"), ("a3", "a4")]:
            await crowd.end(ends)
            assert crowd.order[-1] == follows
        await crowd.end("b2")
        await crowd.end("a4")
        assert (crowd.admission.waiting, crowd.admission.running) == (0, 0)

    run(scenario())


def test_long_answers_keep_no_completion_waiting() -> None:
    """Completions have places of their own."""

    async def scenario() -> None:
        crowd = Crowd(Admission(interactive=1, others=1))
        await crowd.come("chat1", "a", interactive=False)
        await crowd.come("chat2", "a", interactive=False)
        await crowd.come("infill", "b")
        assert crowd.order == ["chat1", "infill"]
        assert (crowd.admission.running, crowd.admission.waiting) == (2, 1)
        for name in ("infill", "chat1", "chat2"):
            await crowd.end(name)

    run(scenario())


def test_a_newer_request_of_a_document_supersedes_the_older() -> None:
    """The one that runs is told to stop; one that waits leaves the line at once; others are left alone."""

    async def scenario() -> None:
        crowd = Crowd(Admission(interactive=1))
        running = await crowd.come("running", "a", "doc")
        waiting = await crowd.come("waiting", "a", "doc")
        assert running.gone.is_set()
        other = await crowd.come("other document", "a", "doc2")
        stranger = await crowd.come("other client", "b", "doc")
        newest = await crowd.come("newest", "a", "doc")
        assert waiting.gone.is_set()
        assert crowd.outcomes == {"running": True, "waiting": False}
        assert not any(ticket.gone.is_set() for ticket in (other, stranger, newest))
        for name in ("running", "other document", "other client", "newest"):
            await crowd.end(name)
        assert crowd.outcomes["newest"]
        assert crowd.admission.running == 0

    run(scenario())


def test_too_many_are_told_to_come_again() -> None:
    """A client's own limit first, then the queue's; when to come again grows with what waits."""

    async def scenario() -> None:
        admission = Admission(interactive=1, queue=3, per_client=2)
        crowd = Crowd(admission)
        await crowd.come("a1", "a")
        soon = admission.retry_after_s()
        await crowd.come("a2", "a")
        await crowd.come("a3", "a")
        with pytest.raises(ClientBusy):
            await AsyncExitStack().enter_async_context(admission.turn(Ticket("a", True)))
        await crowd.come("b1", "b")
        with pytest.raises(ServerBusy) as refused:
            await AsyncExitStack().enter_async_context(admission.turn(Ticket("c", True)))
        assert not isinstance(refused.value, ClientBusy)
        assert 1 <= soon <= admission.retry_after_s() <= 30
        for name in ("a1", "a2", "b1", "a3"):
            await crowd.end(name)

    run(scenario())


def test_who_is_refused_supersedes_nobody() -> None:
    """The older request of its document goes on; one that waits leaves its room to the newer."""

    async def scenario() -> None:
        crowd = Crowd(Admission(interactive=1, per_client=1))
        running = await crowd.come("running", "a", "doc")
        waiting = await crowd.come("waiting", "a", "doc2")
        with pytest.raises(ClientBusy):
            await AsyncExitStack().enter_async_context(crowd.admission.turn(Ticket("a", True, "doc")))
        assert not running.gone.is_set()
        await crowd.come("newest", "a", "doc2")
        assert waiting.gone.is_set()
        await crowd.end("running")
        await crowd.end("newest")
        assert crowd.outcomes == {"running": True, "waiting": False, "newest": True}
        assert not crowd.admission._newest

    run(scenario())


def test_who_leaves_takes_nothing_along() -> None:
    """A request that is cancelled, in the line or in its turn, frees its place and changes nobody's order."""

    async def scenario() -> None:
        crowd = Crowd(Admission(interactive=1))
        for name in ("a1", "b1", "c1"):
            await crowd.come(name, name[0], session=name)
        await crowd.leave("b1")
        await crowd.leave("a1")
        assert crowd.order == ["a1", "c1"]
        await crowd.end("c1")
        assert (crowd.admission.waiting, crowd.admission.running) == (0, 0)
        assert not crowd.admission._newest

    run(scenario())
