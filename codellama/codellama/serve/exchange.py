"""A pool of connections to a model server: started on demand where it is ours, let go where it is gone.

One request and its response at a time; what they mean is the client's to say.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.runtime.errors import InvalidRequest, ServerError
from codellama.serve import daemon
from codellama.serve.daemon import Address, ServeSettings
from codellama.serve.remote import Refusal, Remote

if TYPE_CHECKING:
    import httpx

_JSON = {"Content-Type": "application/json"}
# Seconds: to connect; and without a byte of another server's list of models, of its answer or its next piece.
_CONNECT_S, _LIST_S, _SILENCE_S = 10.0, 15.0, 300.0


class Gone(Exception):
    """The server went away under a request; where it can be sent again, a fresh server gets it."""


class Exchange:
    """Connections to our own server, or to `remote`; nothing happens before the first request."""

    def __init__(self, settings: ServeSettings, remote: Remote | None) -> None:
        self._settings, self._remote = settings, remote
        self._http: httpx.AsyncClient | None = None
        self._connecting = asyncio.Lock()

    @property
    def begun(self) -> bool:
        """Whether anything was asked."""
        return self._http is not None

    async def ask(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        """One request and its JSON answer; sent once more where the server died under it.

        Raises Refusal where the server does not do what is asked, ServerError where it is gone.
        """
        for attempt in (1, 2):
            try:
                async with self.open(method, path, content) as response:
                    answer = _json(await response.aread())
            except Gone as error:
                if attempt == 2:
                    raise self.final(error) from error
                continue
            if isinstance(answer, dict):
                return answer
            break
        raise ServerError("The model server's answer is no JSON object: stop it and try again.")

    def final(self, gone: "Gone") -> ServerError:
        """What is told of a server that is gone for good."""
        if self._remote is None:
            return ServerError(
                f"The model server ended while it was asked ({gone}): see {daemon.log_file()}."
            )
        return ServerError(f"The server at {self._remote.url} cannot be reached ({gone}): see that it runs.")

    async def aclose(self) -> None:
        """Closes the connections; the server stays."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, content: bytes | None
    ) -> AsyncGenerator["httpx.Response", None]:
        """A response of status 200, to be read; raises Refusal for others, Gone where the server is gone."""
        import httpx

        known = self._http is not None
        http: httpx.AsyncClient | None = None
        try:
            http = await self.connected()
            timeout = self._timeout(method)
            async with http.stream(method, path, content=content, headers=_JSON, timeout=timeout) as response:
                if response.status_code != 200:
                    refusal = Refusal(response.status_code, _json(await response.aread()))
                    if self._remote is None and known and refusal.status == 401:
                        raise Gone("another one has taken its place")  # with a token of its own
                    if self._remote is None and refusal.body is None:
                        raise Gone("it was ending")  # only then it speaks no JSON
                    raise refusal
                yield response
        except Gone:
            await self._let_go(http)
            raise
        except httpx.ReadTimeout as error:
            assert self._remote is not None, "our own may take as long as it wants"
            raise ServerError(
                f"The server at {self._remote.url} keeps silent: see that it is well."
            ) from error
        except (httpx.TransportError, OSError) as error:
            await self._let_go(http)
            raise Gone(str(error) or type(error).__name__) from error
        except RuntimeError as error:
            if http is None or not http.is_closed:
                raise
            await self._let_go(http)
            raise Gone("another call has closed the connections") from error

    async def _let_go(self, failed: "httpx.AsyncClient | None") -> None:
        """Forgets connections to a server that is gone; not those that another call has made since.

        Of another server's only the one broke that failed: the rest may be in use.
        """
        if failed is None or self._remote is not None:
            return
        if self._http is failed:
            self._http = None
        await failed.aclose()

    def _timeout(self, method: str) -> "httpx.Timeout":
        """A model here may take long to load or to answer, connecting may not; elsewhere nobody sees why."""
        import httpx

        if self._remote is None:
            return httpx.Timeout(None, connect=_CONNECT_S)
        return httpx.Timeout(_LIST_S if method == "GET" else _SILENCE_S, connect=_CONNECT_S)

    async def connected(self) -> "httpx.AsyncClient":
        """The connections, to a server that is started for them where none runs."""
        async with self._connecting:
            if self._http is None and self._remote is not None:
                self._http = _to_remote(self._remote.url, self._settings.key_file)
            elif self._http is None:
                await _retire_outdated()
                self._http = _http(await daemon.ensure(self._settings), _CONNECT_S)
            return self._http


async def _retire_outdated() -> None:
    """Ends servers of older releases that nobody uses; one that is at work goes on until it is idle."""
    import httpx

    for address in await asyncio.to_thread(daemon.outdated):
        try:
            async with _http(address, 2.0) as http:
                busy = (await http.get("/health")).json()["busy"]
        except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError):
            busy = None  # it speaks otherwise, or not at all: when idle it leaves by itself
        if busy == 0:
            await asyncio.to_thread(daemon.end, address)


def _http(address: Address, timeout: float) -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=address.uds or None),
        base_url=address.url,
        headers={"Authorization": f"Bearer {address.token}"},
        timeout=timeout,
        trust_env=False,
    )


def _to_remote(url: str, key_file: str) -> "httpx.AsyncClient":
    """A client of the server that the user named, and of no other: redirects are not followed."""
    import httpx

    key = os.environ.get("CODELLAMA_REMOTE_KEY", "")  # CODELLAMA_TOKEN is our own server's alone
    if not key and key_file:
        try:
            key = Path(key_file).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"The key file {key_file} cannot be read ({error}): set engine.key_file."
            ) from error
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, trust_env=False)


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return None
