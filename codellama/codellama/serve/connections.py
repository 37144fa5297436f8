"""Connections under a limit of number and of idle time; uvicorn's own protocol else.

uvicorn waits without end for a head that never comes. Here one that does not come within `HEAD_S` ends
the connection, and where too many are open the one that has been idle longest makes room, so that
whoever holds connections open keeps nobody out.
"""

import asyncio
import time
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 5.0
MAX_HEAD = 32 * 1024  # bytes of request line and headers
MAX_CONNECTIONS = 400


class BoundedProtocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._idle_since: float | None = time.monotonic()
        self._head_timer: asyncio.TimerHandle | None = None
        super().connection_made(cast(asyncio.Transport, transport))
        self._expect_head()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._between_requests() and self._head_timer is None:
            self._expect_head()
        super().data_received(data)
        if not self._between_requests():
            self._idle_since = None
            self._forget_head()

    def on_response_complete(self) -> None:
        self._idle_since = time.monotonic()
        super().on_response_complete()

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
            self.transport.abort()

    def _make_room(self) -> None:
        others = [c for c in self.connections if isinstance(c, BoundedProtocol) and c is not self]
        idle = [c for c in others if c._idle_since is not None and not c.transport.is_closing()]
        victim = min(idle, key=lambda c: c._idle_since or 0.0, default=self)
        victim.transport.abort()
