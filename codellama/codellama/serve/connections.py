"""Connections under a limit of number and of idle time; uvicorn's own protocol else.

uvicorn waits without end for a head that never comes. Here one that does not come within `HEAD_S` ends
the connection, as does one who takes nothing of an answer for `SEND_S`. Where too many are open the one
that has been idle, or took nothing, for longest makes room, so that whoever holds connections open keeps
nobody out. They are aborted, since closing waits until what was written is taken.
"""

import asyncio
import time
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S, SEND_S = 5.0, 60.0
MAX_HEAD = 32 * 1024  # bytes of request line and headers
MAX_CONNECTIONS = 400


class BoundedProtocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._idle_since: float | None = time.monotonic()
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled_since: float | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._aborted = False
        super().connection_made(cast(asyncio.Transport, transport))
        self._expect_head()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self._forget_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._stalled_since = time.monotonic()
        self._stall_timer = self.loop.call_later(SEND_S, self._abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._forget_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._between_requests() and self._head_timer is None:
            self._expect_head()
        super().data_received(data)
        if not self._between_requests():
            self._idle_since = None
            self._forget_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # a request that came meanwhile begins here
        self._idle_since = time.monotonic() if self._between_requests() else None

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._head_is_late)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._between_requests() and not self.transport.is_closing():
            self._abort()

    def _forget_stall(self) -> None:
        self._stalled_since = None
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _abort(self) -> None:
        self._aborted = True
        self.transport.abort()

    def _waits_since(self) -> float | None:
        """Since when nothing moves on this connection; None where we are at work for it."""
        return self._stalled_since if self._stalled_since is not None else self._idle_since

    def _make_room(self) -> None:
        others = [c for c in self.connections if isinstance(c, BoundedProtocol) and c is not self]
        waiting = [c for c in others if c._waits_since() is not None and not c._aborted]
        min(waiting, key=lambda c: c._waits_since() or 0.0, default=self)._abort()
