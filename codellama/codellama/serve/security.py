"""Who may speak to the server: bearer token, Host and Origin, size of a body. Pure ASGI, no models.

A web page that the user visits can send requests to loopback (DNS rebinding: CVE-2024-28224), so Host
must be a name of this machine and Origin must be absent; a token, which a page cannot know, is asked for
on every route but `/health`.
"""

import hmac
import json
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 8 * 1024 * 1024
OPEN_ROUTES = frozenset({"/health"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class Guard:
    """ASGI middleware that answers 400, 401, 403 or 413 before the application sees a request."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = _LOOPBACK | frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            await self._app(scope, _limited(receive), send)
            return
        status, kind, message = refusal
        body = json.dumps({"error": {"message": message, "type": kind}}).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", b"application/json"), (b"connection", b"close")],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
        if name not in self._hosts:
            return 403, "Unauthorized", "The Host header names another machine."
        if b"origin" in headers:
            return 403, "Unauthorized", "Web pages may not use the model server."
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        right = scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)
        if path not in OPEN_ROUTES and not right:
            return (
                401,
                "Unauthorized",
                "The bearer token is missing or wrong: see `codellama serve --status`.",
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "InvalidRequest", "The Content-Length header is no number."
        if int(length) > MAX_BODY:
            return 413, "InvalidRequest", f"The request is larger than {MAX_BODY} bytes."
        return None


class BodyTooLarge(Exception):
    """A body without a length went past the limit while it was read."""


def _limited(receive: Receive) -> Receive:
    """Counts a chunked body as it comes."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise BodyTooLarge
        return message

    return counting
