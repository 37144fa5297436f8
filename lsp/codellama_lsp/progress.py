"""A progress bar in the editor (`$/progress`) for one long job.

Where the client shows none, or has not answered yet, everything here does nothing: the job itself
never waits for the editor.
"""

import uuid

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer


class Progress:
    """One bar; `open` is awaited beside the job, the rest is called from the event loop."""

    def __init__(self, server: LanguageServer, title: str) -> None:
        self._bars = server.work_done_progress
        window = server.client_capabilities.window
        self._supported = bool(window and window.work_done_progress)
        self._title = title
        self._token = str(uuid.uuid4())
        self._shown = False
        self._closed = False

    async def open(self) -> None:
        """Ask the client for the bar and show it, unless the job has ended meanwhile."""
        if not self._supported:
            return
        try:
            await self._bars.create_async(self._token)
        except JsonRpcException:  # the client would rather not; the job goes on unseen
            return
        if not self._closed:
            begin = types.WorkDoneProgressBegin(title=self._title, cancellable=True, percentage=0)
            self._bars.begin(self._token, begin)
            self._shown = True

    def report(self, percent: int, message: str) -> None:
        """Move the bar."""
        if self._shown and not self._closed:
            report = types.WorkDoneProgressReport(percentage=percent, message=message)
            self._bars.report(self._token, report)

    def close(self, message: str) -> None:
        """Take the bar away, with a last word."""
        if self._shown and not self._closed:
            self._bars.end(self._token, types.WorkDoneProgressEnd(message=message))
        self._closed = True
        self._bars.tokens.pop(self._token, None)

    def cancelled(self) -> bool:
        """Whether the person cancelled the job; may be asked from any thread."""
        token = self._bars.tokens.get(self._token)
        return token is not None and token.cancelled()
