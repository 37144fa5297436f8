"""What everyone else imports to use a model: asks the server over HTTP, starting it on demand.

Never imports torch. Cancelling a call closes its connection, and the server then stops the work. A
request whose server dies is sent once more, to a fresh one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from codellama.runtime.errors import ServerError
from codellama.runtime.records import (
    CompletionRequest,
    InfillRequest,
    Request,
    Result,
)
from codellama.serve import api, daemon
from codellama.serve.api import ModelInfo
from codellama.serve.daemon import ServeSettings

if TYPE_CHECKING:
    import httpx

__all__ = ["ModelClient", "ModelInfo", "ServeSettings"]


class ModelClient:
    """One connection pool to the model server; create it freely, nothing happens before the first call."""

    def __init__(self, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> "ModelClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def infill(
        self, request: InfillRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        """Fills the gap; raises the runtime's errors, ServerError, or TimeoutError at the deadline."""
        return await self._run(request, model, deadline_s)

    async def complete(
        self, request: CompletionRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        """Continues a prompt; raises as `infill` does."""
        return await self._run(request, model, deadline_s)

    async def stream(self, request: Request, *, model: str | None = None) -> AsyncGenerator[str, None]:
        """Pieces of text as they are generated; closing the iterator cancels the work."""
        path, body = api.request_body(request)
        body |= {"model": model or self.settings.model, "stream": True}
        async with self._connected() as http, http.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                raise api.read_error(_json(response))
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise api.read_error(event)
                    if piece := _piece(event):
                        yield piece

    async def tokenize(self, texts: list[str], *, model: str | None = None) -> list[list[int]]:
        """Ids of each text, without BOS."""
        body = {"texts": texts, "model": model or self.settings.model}
        answer = await self._ask("POST", "/tokenize", body)
        tokens: list[list[int]] = answer["tokens"]
        return tokens

    async def models(self) -> tuple[ModelInfo, ...]:
        """The models in the server's memory."""
        answer = await self._ask("GET", "/v1/models", None)
        names = ModelInfo.__dataclass_fields__
        return tuple(ModelInfo(**{k: v for k, v in m.items() if k in names}) for m in answer["data"])

    async def model(self, name: str | None = None) -> ModelInfo:
        """Facts of one model, which is loaded for it."""
        wanted = name or self.settings.model
        await self.tokenize([""], model=wanted)
        return next(info for info in await self.models() if info.name == wanted)

    async def aclose(self) -> None:
        """Closes the connections; the server stays."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _run(self, request: Request, model: str | None, deadline_s: float | None) -> Result:
        path, body = api.request_body(request)
        body["model"] = model or self.settings.model
        async with asyncio.timeout(deadline_s):
            return api.read_result(await self._ask("POST", path, body))

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request and its JSON answer; sent once more where the server died under it."""
        import httpx

        for attempt in (1, 2):
            try:
                async with self._connected() as http:
                    response = await http.request(method, path, json=body)
            except (httpx.TransportError, OSError) as error:
                await self.aclose()
                if attempt == 2:
                    raise ServerError(
                        f"The model server ended twice while it was asked ({error or type(error).__name__}): "
                        f"see {daemon.log_file()}."
                    ) from error
                continue
            if response.status_code != 200:
                raise api.read_error(_json(response))
            answer = _json(response)
            if isinstance(answer, dict):
                return answer
        raise ServerError("The model server's answer is no JSON object: stop it and try again.")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator["httpx.AsyncClient"]:
        import httpx

        if self._http is None:
            address = await daemon.ensure(self.settings)
            transport = httpx.AsyncHTTPTransport(uds=address.uds or None)
            self._http = httpx.AsyncClient(
                transport=transport,
                base_url=address.url,
                headers={"Authorization": f"Bearer {address.token}"},
                # A model may take long to load or to answer; connecting to a local server may not.
                timeout=httpx.Timeout(None, connect=10.0),
                trust_env=False,
            )
        yield self._http


def _piece(event: dict[str, Any]) -> str:
    if "choices" not in event:
        return str(event.get("content", ""))
    choice = event["choices"][0]
    return str(choice.get("text") or choice.get("delta", {}).get("content") or "")


def _json(response: "httpx.Response") -> object:
    try:
        return response.json()
    except ValueError:
        return None
