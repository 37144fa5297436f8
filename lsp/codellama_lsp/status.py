"""What an editor's status line shows: one state, told by a `codellama/status` notification.

Only changes are published. What an error means for a request is the server's business.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

METHOD = "codellama/status"

State = Literal["ready", "indexing", "busy", "off", "error"]


@dataclass(frozen=True, slots=True)
class Status:
    """`percent` is of the indexing; latency and reuse are of the last suggestion."""

    state: State
    model: str
    message: str = ""
    percent: int | None = None
    latency_ms: int | None = None
    reused_tokens: int | None = None

    def payload(self) -> dict[str, Any]:
        """The notification's parameters; what is unknown is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class StatusBoard:
    """Facts from all sides, and the one state that follows from them.

    The most pressing wins: off, then error, busy, indexing, ready.
    """

    def __init__(self, publish: Callable[[Status], None]) -> None:
        self._publish = publish
        self._published: Status | None = None
        self._enabled = True
        self._model = ""
        self._error = ""
        self._running = 0
        self._indexing: dict[str, int] = {}
        self._latency_ms: int | None = None
        self._reused: int | None = None

    def configured(self, enabled: bool, model: str) -> None:
        """Completions are on or off, and which model writes them."""
        self._enabled, self._model = enabled, model
        self._update()

    def indexing(self, root: str, percent: int | None) -> None:
        """How far a folder's indexing is; None once it has ended."""
        if percent is None:
            self._indexing.pop(root, None)
        else:
            self._indexing[root] = percent
        self._update()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While a completion is being written."""
        self._running += 1
        self._update()
        try:
            yield
        finally:
            self._running -= 1
            self._update()

    def answered(self, latency_ms: int | None = None, reused_tokens: int | None = None) -> None:
        """The model server answered: whatever was wrong before is mended."""
        self._error = ""
        if latency_ms is not None:
            self._latency_ms, self._reused = latency_ms, reused_tokens
        self._update()

    def failed(self, message: str) -> bool:
        """Something is wrong, in one sentence; returns whether this is news."""
        news = message != self._error
        self._error = message
        self._update()
        return news

    def _update(self) -> None:
        status = self._status()
        if status != self._published:
            self._published = status
            self._publish(status)

    def _status(self) -> Status:
        percent = min(self._indexing.values()) if self._indexing else None
        state: State = "ready"
        if not self._enabled:
            state = "off"
        elif self._error:
            state = "error"
        elif self._running:
            state = "busy"
        elif self._indexing:
            state = "indexing"
        return Status(state, self._model, self._error, percent, self._latency_ms, self._reused)
