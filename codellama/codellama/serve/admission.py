"""Whose request runs next: bounded queues, fairness between clients, and what supersedes what.

Completions at the cursor and everything else have places of their own, so that long answers never keep a
completion waiting here; once admitted, the engine's scheduler puts completions first at every step. All of it
runs in the event loop's thread.
"""

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from codellama.runtime.errors import ClientBusy, ServerBusy

# In the engine at once. On a CPU more of them would only wait there; a GPU decodes them in one batch.
INTERACTIVE_PLACES, GPU_PLACES, OTHER_PLACES = 8, 32, 4
QUEUE, PER_CLIENT = 64, 32
_LONGEST_RETRY_S = 30


@dataclass(eq=False, slots=True)
class Ticket:
    """One request on its way; `gone` is set once nobody wants its answer any more, `turn` once it may run."""

    client: str
    interactive: bool
    session: Hashable = None  # what a newer request of the same client supersedes
    gone: threading.Event = field(default_factory=threading.Event)
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    began: float | None = None


class Admission:
    """Tickets in, turns out."""

    def __init__(
        self,
        interactive: int = INTERACTIVE_PLACES,
        others: int = OTHER_PLACES,
        queue: int = QUEUE,
        per_client: int = PER_CLIENT,
    ) -> None:
        self._lines = {True: _Line(interactive), False: _Line(others)}
        self._queue, self._per_client = queue, per_client
        self._newest: dict[tuple[str, Hashable], Ticket] = {}

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(line.waiting() for line in self._lines.values())

    @property
    def running(self) -> int:
        """How many have it."""
        return sum(line.running.total() for line in self._lines.values())

    @asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncGenerator[bool, None]:
        """Enters the block, with True, when it is the ticket's turn.

        A ticket that a newer one of its session supersedes is `gone`; one that still waits enters at once,
        with False. Raises ServerBusy where too many wait, ClientBusy where too many of this client's do.
        """
        line = self._lines[ticket.interactive]
        self._check(ticket, line)
        self._supersede(ticket)
        line.add(ticket)
        try:
            await ticket.turn.wait()
            yield ticket.began is not None
        finally:
            line.remove(ticket)
            if self._newest.get((ticket.client, ticket.session)) is ticket:
                del self._newest[ticket.client, ticket.session]

    def retry_after_s(self) -> int:
        """In about how many seconds the queues of now will have been served."""
        expected = max(line.expected_s() for line in self._lines.values())
        return min(max(1, math.ceil(expected)), _LONGEST_RETRY_S)

    def _check(self, ticket: Ticket, line: "_Line") -> None:
        """Refuses a ticket that is one too many; an older one of its session leaves its room to it."""
        older = self._newest.get((ticket.client, ticket.session)) if ticket.session is not None else None
        leaves = older is not None and older.began is None and older.interactive == ticket.interactive
        if (others := line.waiting() - leaves) >= self._queue:
            raise ServerBusy(f"The model server has {others} requests waiting: try again in a moment.")
        if (own := line.waiting(ticket.client) - leaves) >= self._per_client:
            raise ClientBusy(f"{own} requests of yours wait: let them end first.")

    def _supersede(self, ticket: Ticket) -> None:
        if ticket.session is None:
            return
        older = self._newest.get((ticket.client, ticket.session))
        self._newest[ticket.client, ticket.session] = ticket
        if older is not None:
            older.gone.set()
            if older.began is None:
                self._lines[older.interactive].remove(older)
                older.turn.set()


class _Line:
    """The requests of one kind: at most `places` run, the others wait, each client in a line of its own."""

    def __init__(self, places: int) -> None:
        self._places = places
        self.running: Counter[str] = Counter()
        self._waiting: dict[str, deque[Ticket]] = {}  # the client that was served longest ago first
        self._usual_s = 0.1

    def waiting(self, client: str | None = None) -> int:
        if client is not None:
            return len(self._waiting.get(client, ()))
        return sum(map(len, self._waiting.values()))

    def expected_s(self) -> float:
        return self._usual_s * (self.waiting() + 1) / self._places

    def add(self, ticket: Ticket) -> None:
        self._waiting.setdefault(ticket.client, deque()).append(ticket)
        self._call()

    def remove(self, ticket: Ticket) -> None:
        """It has run, or need not any more."""
        if ticket.began is not None:
            self._usual_s += 0.1 * (time.monotonic() - ticket.began - self._usual_s)
            ticket.began = None
            self.running -= Counter({ticket.client: 1})  # drops clients at 0
        elif ticket in self._waiting.get(ticket.client, ()):
            line = self._waiting[ticket.client]
            line.remove(ticket)
            if not line:
                del self._waiting[ticket.client]
        self._call()

    def _call(self) -> None:
        """While there are places: the client with the fewest running, the longest unserved among equals."""
        while self._waiting and self.running.total() < self._places:
            client = min(self._waiting, key=lambda name: self.running[name])
            line = self._waiting.pop(client)
            ticket = line.popleft()
            if line:
                self._waiting[client] = line  # behind the others
            self.running[client] += 1
            ticket.began = time.monotonic()
            ticket.turn.set()
