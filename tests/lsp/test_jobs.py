"""`codellama_lsp.jobs`: the newest request of a document wins, and cancelling reaches the work."""

import asyncio

import pytest

from codellama_lsp.jobs import Background, Jobs, SupersededError


class Work:
    """A coroutine that waits until it is told to end, and tells how it ended."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.end = asyncio.Event()
        self.cancelled = False

    async def run(self) -> str:
        self.started.set()
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


@pytest.mark.asyncio
async def test_a_newer_job_cancels_the_older() -> None:
    """The older one's work is cancelled and its caller told why; the newer one's result arrives."""
    jobs, old, new = Jobs(), Work(), Work()
    first = asyncio.create_task(jobs.run("a", old.run()))
    await old.started.wait()
    second = asyncio.create_task(jobs.run("a", new.run()))
    with pytest.raises(SupersededError):
        await first
    assert old.cancelled
    new.end.set()
    assert await second == "done"


@pytest.mark.asyncio
async def test_other_documents_are_left_alone() -> None:
    """Jobs of different keys run side by side."""
    jobs, one, other = Jobs(), Work(), Work()
    tasks = [asyncio.create_task(jobs.run(key, work.run())) for key, work in (("a", one), ("b", other))]
    await one.started.wait()
    await other.started.wait()
    one.end.set()
    other.end.set()
    assert await asyncio.gather(*tasks) == ["done", "done"]


@pytest.mark.asyncio
async def test_cancelling_the_caller_cancels_the_work() -> None:
    """`$/cancelRequest` cancels the handler; the work ends and CancelledError goes on."""
    jobs, work = Jobs(), Work()
    task = asyncio.create_task(jobs.run("a", work.run()))
    await work.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cancelled


@pytest.mark.asyncio
async def test_an_error_reaches_its_caller() -> None:
    """What the work raises is raised, and the key is free again."""

    async def fails() -> None:
        raise ValueError("no")

    jobs, work = Jobs(), Work()
    with pytest.raises(ValueError, match="no"):
        await jobs.run("a", fails())
    work.end.set()
    assert await jobs.run("a", work.run()) == "done"


@pytest.mark.asyncio
async def test_background_work_ends_with_its_owner() -> None:
    """Closing cancels what runs, and waits for it."""
    background, work = Background(), Work()

    async def run() -> None:
        await work.run()

    background.start(run())
    await work.started.wait()
    await background.aclose()
    assert work.cancelled
