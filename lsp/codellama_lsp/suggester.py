"""Suggestions that keep up with typing: the cache first, then a wait, then the model, then what comes next.

One request of a document at a time; a newer one cancels the older, down to the engine. Whatever is asked
ahead gives way to what is asked now. Nothing here knows the protocol.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from codellama.assist.pace import Pace, Room
from codellama.runtime.errors import CodellamaError
from codellama_index.errors import CodeIndexError
from codellama_lsp import completion
from codellama_lsp.cache import AFTER, Cursor, Suggestions
from codellama_lsp.completion import Place
from codellama_lsp.engine import Engine
from codellama_lsp.jobs import Jobs
from codellama_lsp.provenance import Origin, Provenance
from codellama_lsp.settings import Settings
from codellama_lsp.status import StatusBoard
from codellama_lsp.timing import Debounce

if TYPE_CHECKING:
    from codellama.assist.completion import Completion
    from codellama_index import Index

_LOOK_S = 0.3  # a suggestion that stands so long is looked at, and what follows it may be wanted


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What is to be asked ahead; `begun` once it is."""

    cursor: Cursor
    begun: asyncio.Event
    task: asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request: the place, with its cursor as the cache knows it and as the editor counts it."""

    cursor: Cursor
    place: Place
    line: int
    character: int
    invoked: bool = False


class Suggester:
    """Keeps the last suggestions, what was learned of speed, and the history of what was shown last."""

    def __init__(self, engine: Engine, status: StatusBoard) -> None:
        self.debounce = Debounce()
        self.last: Provenance | None = None
        self._engine = engine
        self._status = status
        self._pace = Pace()
        self._jobs = Jobs()
        self._kept: Suggestions[tuple[Origin, Completion]] = Suggestions()
        self._ahead: _Ahead | None = None
        self._reading: asyncio.Task[None] | None = None

    def prepare(self, index: "Index | None", path: str) -> None:
        """Read the repository's own lines that may be wanted in a file, while nobody waits."""
        if index is not None and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(completion.read_on(index, path))

    def at_once(self, wanted: Wanted, settings: Settings) -> str | None:
        """What needs no model: the suggestion that is typed along, or stood here before; None otherwise."""
        began = time.monotonic()
        found = self._kept.find(wanted.cursor)
        if found is None or (wanted.invoked and not found.text):
            return None
        first, done = found.origin
        origin: Origin = "ahead" if first == "ahead" and not found.typed else "cache"
        self._tell(wanted, found.text, origin, done, 0.0, began)
        if found.text:
            self._look_ahead(wanted, found.text, settings)
        return found.text

    async def ask(self, wanted: Wanted, settings: Settings) -> str:
        """A suggestion of the model; raises SupersededError where a newer request takes this one's place."""
        return await self._jobs.run(wanted.cursor.uri, self._ask(wanted, settings))

    def forget(self, uri: str) -> None:
        """A document was closed."""
        self._kept.forget(uri)

    def forget_all(self) -> None:
        """The repository has changed: what was said before may be out of date."""
        self._stop_ahead()
        self._kept = Suggestions()

    def reset(self) -> None:
        """Other settings: what another model said is not shown any more, and its pace says nothing."""
        self.forget_all()
        self._pace = Pace()

    def cancel_all(self) -> None:
        """Give up whatever runs."""
        if self._reading is not None:
            self._reading.cancel()
        self._stop_ahead()
        self._jobs.cancel_all()

    async def _ask(self, wanted: Wanted, settings: Settings) -> str:
        began = time.monotonic()
        if self._ahead is not None and self._ahead.cursor == wanted.cursor and self._ahead.begun.is_set():
            await asyncio.shield(self._ahead.task)
            if (text := self.at_once(wanted, settings)) is not None:
                return text
        self._stop_ahead()
        waited = 0.0
        if settings.completion.debounce and not wanted.invoked:
            waited = self.debounce.wait_s(began, wanted.cursor.uri)
            await asyncio.sleep(waited)
        asked = time.monotonic()
        with self._status.busy():
            done = await self._complete(wanted, settings)
        self.debounce.answered(time.monotonic() - asked)
        origin: Origin = "repository" if done.guess else "model"
        self._keep(wanted, origin, done)
        self._tell(wanted, done.text, origin, done, waited, began)
        self.prepare(wanted.place.index, wanted.place.path)
        if done.text:
            self._look_ahead(wanted, done.text, settings)
        elif self._is_cold(wanted, settings):
            self._start_ahead(replace(wanted, invoked=False), settings)
        return done.text

    async def _complete(self, wanted: Wanted, settings: Settings, *, ahead: bool = False) -> "Completion":
        """The model's answer in time, or nothing; `ahead`: nobody waits, and the prompt may be long."""
        from codellama.assist.completion import NOTHING

        client = await self._engine.client(settings)
        if self._engine.info is not None:
            self._pace.told(self._engine.info.prefill_rate, self._engine.info.decode_rate)
        warm = ahead or not self._is_cold(wanted, settings)
        room = self._room(settings, warm=warm)
        began = time.monotonic()
        try:
            async with asyncio.timeout(settings.completion.deadline_ms / 1000 or None):
                done = await completion.suggest(
                    client, wanted.place, settings.completion, room, invoked=wanted.invoked
                )
        except TimeoutError:
            return replace(NOTHING, filters=("deadline",))
        took = time.monotonic() - began
        # Of an answer that was cut off the figures say nothing, and its prompt may not have been computed.
        if done.finish_reason != "cancelled":
            self._pace.learn(done.stats, None if ahead else took)
            if warm:
                self._pace.warmed(*_spot(wanted))
        self._status.answered(round(1000 * took), done.stats.reused_tokens)
        return done

    def _room(self, settings: Settings, *, warm: bool) -> Room:
        most = settings.completion
        return self._pace.room(most.latency_ms / 1000, most.max_tokens, completion.MOST_BYTES, warm=warm)

    def _is_cold(self, wanted: Wanted, settings: Settings) -> bool:
        """Whether the server knows nothing of this place's prompt, so that it must be short.

        Where nothing is asked ahead, a place would stay cold for ever: there the first prompt is long.
        """
        return settings.completion.speculate and not self._pace.is_warm(*_spot(wanted))

    def _look_ahead(self, wanted: Wanted, text: str, settings: Settings) -> None:
        """Ask for what follows a suggestion once it was accepted, after it was looked at for a while."""
        cursor = wanted.cursor.behind(text)
        if not settings.completion.speculate or self._kept.find(cursor) is not None:
            return
        if self._ahead is not None and self._ahead.cursor == cursor:
            return
        self._stop_ahead()
        raw = wanted.place.text.encode("utf-8", "replace")
        before, after = raw[: wanted.place.offset], raw[wanted.place.offset :]
        accepted = before + text.encode("utf-8", "replace")
        place = replace(wanted.place, text=(accepted + after).decode(), offset=len(accepted))
        self._start_ahead(replace(wanted, cursor=cursor, place=place, invoked=False), settings)

    def _start_ahead(self, later: Wanted, settings: Settings) -> None:
        self._stop_ahead()
        begun = asyncio.Event()
        task = asyncio.create_task(self._ask_ahead(later, settings, begun))
        self._ahead = _Ahead(later.cursor, begun, task)

    async def _ask_ahead(self, wanted: Wanted, settings: Settings, begun: asyncio.Event) -> None:
        await asyncio.sleep(_LOOK_S)
        begun.set()
        # It may fail: when it is wanted, it is asked again, and its error told then.
        with suppress(CodellamaError, CodeIndexError):
            done = await self._complete(wanted, settings, ahead=True)
            self._keep(wanted, "ahead", done)

    def _keep(self, wanted: Wanted, origin: Origin, done: "Completion") -> None:
        """Remember an answer; one that did not come in time says nothing of the place."""
        if "deadline" not in done.filters and done.finish_reason != "cancelled":
            self._kept.put(wanted.cursor, done.text, (origin, done))

    def _stop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.task.cancel()
            self._ahead = None

    def _tell(
        self, wanted: Wanted, text: str, origin: Origin, done: "Completion", waited: float, began: float
    ) -> None:
        total = time.monotonic() - began
        where = (wanted.place.path, wanted.line, wanted.character)
        self.last = Provenance(*where, text, origin, done, waited, total)


def _spot(wanted: Wanted) -> tuple[str, int]:
    """What must be the same for most of a prompt to be: the document and what follows the cursor, and where.

    Typing leaves what follows as it is; a suffix that stands first in the prompt changes all behind it.
    """
    return wanted.cursor.uri + wanted.cursor.after[:AFTER], wanted.cursor.index
