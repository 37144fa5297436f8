"""What everyone else imports to use a model: asks the server over HTTP, starting it on demand.

Never imports torch. Cancelling a call closes its connection, and the server then stops the work. A
request whose server dies is sent once more, to a fresh one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from codellama.runtime.errors import ServerError, Unauthorized
from codellama.runtime.records import (
    CompletionRequest,
    InfillRequest,
    Request,
    Result,
)
from codellama.serve import api, daemon, embeddings
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
        content = api.encode(body | {"model": model or self.settings.model, "stream": True})
        for attempt in (1, 2):
            begun = False
            try:
                async with aclosing(self._pieces(path, content)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except _Gone as error:
                await self.aclose()
                if begun or attempt == 2:  # what was given cannot be taken back
                    raise error.final() from error

    async def tokenize(self, texts: list[str], *, model: str | None = None) -> list[list[int]]:
        """Ids of each text, without BOS."""
        body = {"texts": texts, "model": model or self.settings.model}
        answer = await self._ask("POST", "/tokenize", body)
        tokens: list[list[int]] = answer["tokens"]
        return tokens

    async def embed(self, texts: Sequence[str], *, model: str, question: bool = False) -> list[list[float]]:
        """A vector of each text; `model` is a folder or hub id of sentence-transformers."""
        asked = embeddings.EmbeddingRequest(model, tuple(texts), question, "base64")
        body = embeddings.request_body(asked)
        return embeddings.read_answer(await self._ask("POST", "/v1/embeddings", body))

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
        content = None if body is None else api.encode(body)
        for attempt in (1, 2):
            try:
                async with self._exchange(method, path, content) as response:
                    answer = _json(await response.aread())
            except _Gone as error:
                await self.aclose()
                if attempt == 2:
                    raise error.final() from error
                continue
            if isinstance(answer, dict):
                return answer
            break
        raise ServerError("The model server's answer is no JSON object: stop it and try again.")

    async def _pieces(self, path: str, content: bytes) -> AsyncGenerator[str, None]:
        async with self._exchange("POST", path, content) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise api.read_error(event)
                    if piece := _piece(event):
                        yield piece

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, content: bytes | None
    ) -> AsyncGenerator["httpx.Response", None]:
        """A response of status 200, to be read; raises the server's error, or _Gone where it is gone."""
        import httpx

        known = self._http is not None
        try:
            http = await self._connected()
            async with http.stream(method, path, content=content) as response:
                if response.status_code != 200:
                    error = api.read_error(_json(await response.aread()))
                    if known and isinstance(error, Unauthorized):
                        raise _Gone("another one has taken its place")  # with a token of its own
                    raise error
                yield response
        except (httpx.TransportError, OSError) as error:
            raise _Gone(str(error) or type(error).__name__) from error

    async def _connected(self) -> "httpx.AsyncClient":
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
        return self._http


class _Gone(Exception):
    """The server went away under a request; where it can be sent again, a fresh server gets it."""

    def final(self) -> ServerError:
        return ServerError(f"The model server ended while it was asked ({self}): see {daemon.log_file()}.")


def _piece(event: dict[str, Any]) -> str:
    if "choices" not in event:
        return str(event.get("content", ""))
    choice = event["choices"][0]
    return str(choice.get("text") or choice.get("delta", {}).get("content") or "")


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return None
