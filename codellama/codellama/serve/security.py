"""Who may speak to the server, and how much. Pure ASGI, no models.

A web page that the user visits can send requests to loopback (DNS rebinding: CVE-2024-28224), so Host
must be a name of this machine and Origin must be absent; a token, which a page cannot know, is asked for
on every route but `/health`. Bodies are bounded one by one and together, and in time.
"""

import asyncio
from collections.abc import Iterable

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama.serve.keys import Keys

MAX_BODY = 8 * 1024 * 1024
MAX_BODIES = 64 * 1024 * 1024  # those that are being read or worked on, together
BODY_S = 30.0  # a body must come within
OPEN_ROUTES = frozenset({"/health"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class Refused(Exception):
    """A request that is refused before, or while, its body is read."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self._status, self._kind = status, kind

    def response(self) -> Response:
        """What is answered; the connection ends with it, since the body may never end."""
        headers = {"connection": "close"} | ({"retry-after": "1"} if self._status == 503 else {})
        error = {"message": str(self), "type": self._kind}
        return JSONResponse({"error": error}, self._status, headers)


class Guard:
    """ASGI middleware: what it refuses, the application does not see.

    The application finds who asks in `scope["client_name"]`, None on open routes.
    """

    def __init__(self, app: ASGIApp, keys: Keys, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._hosts = _LOOPBACK | {host.lower() for host in hosts}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        body = _Body(self, receive)

        try:
            scope["client_name"] = self._checked(scope["path"], headers)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.drop()

    def hold(self, size: int) -> None:
        """Counts bytes of a body; raises Refused where all bodies together are too large."""
        if self._held + size > MAX_BODIES:
            raise Refused(503, "ServerBusy", "Too many large requests at once: try again in a moment.")
        self._held += size

    def release(self, size: int) -> None:
        """The body is not needed any more."""
        self._held -= size

    def _checked(self, path: str, headers: dict[bytes, bytes]) -> str | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
        if name not in self._hosts:
            raise Refused(403, "Unauthorized", "The Host header names another machine.")
        if b"origin" in headers:
            raise Refused(403, "Unauthorized", "Web pages may not use the model server.")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        client = self._keys.client(token.strip()) if scheme.lower() == b"bearer" else None
        if client is None and path not in OPEN_ROUTES:
            raise Refused(
                401,
                "Unauthorized",
                "The bearer token is missing or wrong: see `codellama serve --status`.",
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise Refused(400, "InvalidRequest", "The Content-Length header is no number.")
        if len(length) > 20 or int(length) > MAX_BODY:
            raise _too_large()
        return client


class _Body:
    """Reads one request's body within the limits of size and time."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard = guard
        self._receive = receive
        self._size = 0
        self._whole = False
        self._deadline = asyncio.get_running_loop().time() + BODY_S

    async def receive(self) -> Message:
        if self._whole:  # what comes now is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise Refused(408, "InvalidRequest", f"The body took longer than {BODY_S:.0f} s.") from error
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            if self._size + size > MAX_BODY:
                raise _too_large()
            self._guard.hold(size)
            self._size += size
            self._whole = not message.get("more_body", False)
        return message

    def drop(self) -> None:
        self._guard.release(self._size)


def _too_large() -> Refused:
    return Refused(413, "InvalidRequest", f"The request is larger than {MAX_BODY} bytes.")
