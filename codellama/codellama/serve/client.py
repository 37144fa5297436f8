"""What everyone else imports to use a model: asks the server over HTTP, starting it on demand.

Never imports torch. Cancelling a call closes its connection, and the server then stops the work. A
request whose server dies is sent once more, to a fresh one. Where the model's name is a URL, the server
there is asked instead, in whichever way it understands (see `remote`).
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any

from codellama.runtime.errors import InfillUnsupported, InvalidRequest, ServerError
from codellama.runtime.records import (
    CompletionRequest,
    InfillRequest,
    Request,
    Result,
)
from codellama.serve import api, embeddings
from codellama.serve.api import ModelInfo
from codellama.serve.daemon import ServeSettings
from codellama.serve.exchange import Exchange, Gone
from codellama.serve.remote import Refusal, Remote, Way, is_remote

__all__ = ["ModelClient", "ModelInfo", "ServeSettings"]


class ModelClient:
    """One connection pool to the model server; create it freely, nothing happens before the first call."""

    def __init__(self, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        named = self.settings.model
        self._remote = Remote(named, self.settings.tokenizer) if is_remote(named) else None
        self._exchange = Exchange(self.settings, self._remote)
        self._name = secrets.token_hex(8)  # sets it apart from this user's other clients, nothing more

    async def __aenter__(self) -> "ModelClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def infill(
        self,
        request: InfillRequest,
        *,
        model: str | None = None,
        deadline_s: float | None = None,
        session: str = "",
        within_s: float | None = None,
    ) -> Result:
        """Fills the gap; raises the runtime's errors, ServerError, or TimeoutError at the deadline.

        `session` names the document: a newer request of this client for the same one supersedes the older,
        whose result is `cancelled`. After `within_s` the server answers with what it has, `cancelled` too.
        """
        options: dict[str, Any] = {"session": session} if session else {}
        if within_s is not None:
            options["deadline_ms"] = 1000 * within_s
        return await self._run(request, model, deadline_s, options)

    async def complete(
        self, request: CompletionRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        """Continues a prompt; raises as `infill` does."""
        return await self._run(request, model, deadline_s, {})

    async def stream(self, request: Request, *, model: str | None = None) -> AsyncGenerator[str, None]:
        """Pieces of text as they are generated; closing the iterator cancels the work."""
        for way in await self._ways(request):
            path, body = self._sent(way, request, model)
            content = api.encode(body | {"stream": True})
            for attempt in (1, 2):
                begun = False
                try:
                    async with aclosing(self._pieces(path, content)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    if self._remote is not None:
                        self._remote.took(way)
                    return
                except Refusal as refusal:
                    self._check(way, refusal)
                    break
                except Gone as error:
                    if begun or attempt == 2:  # what was given cannot be taken back
                        raise self._exchange.final(error) from error
        raise self._no_way()

    async def tokenize(self, texts: list[str], *, model: str | None = None) -> list[list[int]]:
        """Ids of each text, without BOS; raises InvalidRequest where the server is not ours."""
        if self._remote is not None:
            raise InvalidRequest(f"{self._remote.url} is not asked for tokens: they are for our own server.")
        tokens: list[list[int]] = (await self._tokenized(texts, model))["tokens"]
        return tokens

    async def embed(self, texts: Sequence[str], *, model: str, question: bool = False) -> list[list[float]]:
        """A vector of each text; `model` is a folder or hub id of sentence-transformers.

        Raises InvalidRequest where the server is not ours: whole repositories are not for it to read.
        """
        if self._remote is not None:
            raise InvalidRequest(
                f"{self._remote.url} is not asked for embeddings: name a model that is here."
            )
        asked = embeddings.EmbeddingRequest(model, tuple(texts), question, "base64")
        body = embeddings.request_body(asked)
        return embeddings.read_answer(await self._asked("POST", "/v1/embeddings", api.encode(body)))

    async def models(self) -> tuple[ModelInfo, ...]:
        """The models in the server's memory; of another server, the one that is asked."""
        answer = await self._asked("GET", "/v1/models", None)
        if self._remote is not None:
            return (self._remote.read_models(answer),)
        names = ModelInfo.__dataclass_fields__
        loaded = [model for model in answer["data"] if "max_context" in model]
        return tuple(ModelInfo(**{k: v for k, v in model.items() if k in names}) for model in loaded)

    async def model(self, name: str | None = None) -> ModelInfo:
        """Facts of one model, which is loaded for it."""
        if self._remote is not None:
            return (await self.models())[0]
        wanted = (await self._tokenized([""], name))["model"]
        for info in await self.models():
            if info.name == wanted:
                return info
        raise ServerError(f"The model {wanted} made room for another as soon as it was loaded: try again.")

    async def loading(self) -> tuple[int, int] | None:
        """Bytes loaded and to load of the model that our server is loading.

        None where it loads none, and before anything was asked of it. Raises ServerError where it is gone.
        """
        if self._remote is not None or not self._exchange.begun:
            return None
        found = (await self._asked("GET", "/health", None)).get("loading")
        return (int(found[0]), int(found[1])) if found else None

    async def aclose(self) -> None:
        """Closes the connections; the server stays."""
        await self._exchange.aclose()

    async def _tokenized(self, texts: list[str], model: str | None) -> dict[str, Any]:
        """The answer to `/tokenize`: ids, and the name that the server knows the model by."""
        wanted = model or self.settings.model
        body = {"texts": texts, "model": wanted}
        return {"model": wanted} | await self._asked("POST", "/tokenize", api.encode(body))

    async def _run(
        self, request: Request, model: str | None, deadline_s: float | None, options: dict[str, Any]
    ) -> Result:
        async with asyncio.timeout(deadline_s):
            for way in await self._ways(request):
                path, body = self._sent(way, request, model)
                try:
                    ours = options if way in ("infill", "ours") else {}
                    answer = await self._exchange.ask("POST", path, api.encode(body | ours))
                except Refusal as refusal:
                    self._check(way, refusal)
                    continue
                if self._remote is None:
                    return api.read_result(answer)
                self._remote.took(way)
                return self._remote.result(answer)
        raise self._no_way()

    async def _ways(self, request: Request) -> list[Way]:
        """How to ask, in the order to try."""
        if self._remote is None:
            return ["ours"]
        if not self._remote.asked:
            await self.models()
        return self._remote.ways(request)

    def _sent(self, way: Way, request: Request, model: str | None) -> tuple[str, dict[str, Any]]:
        """Route and body."""
        if self._remote is not None:
            return self._remote.sent(way, request)
        path, body = api.request_body(request)
        return path, body | {"model": model or self.settings.model, "user": self._name}

    def _check(self, way: Way, refusal: Refusal) -> None:
        """Returns where another way may work; else raises the error that it means."""
        if self._remote is None:
            raise api.read_error(refusal.body) from refusal
        if not self._remote.lacks(way, refusal):
            raise self._remote.error(refusal) from refusal

    def _no_way(self) -> InfillUnsupported:
        assert self._remote is not None, "our own server knows the one way there is"
        return self._remote.no_way()

    async def _asked(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        """As `Exchange.ask`; a refusal is raised as the error that it means."""
        try:
            return await self._exchange.ask(method, path, content)
        except Refusal as refusal:
            self._check("plain", refusal)
            raise

    async def _pieces(self, path: str, content: bytes) -> AsyncGenerator[str, None]:
        async with self._exchange.open("POST", path, content) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise (
                            api.read_error(event)
                            if self._remote is None
                            else self._remote.error(Refusal(response.status_code, event))
                        )
                    if piece := _piece(event):
                        yield piece


def _piece(event: dict[str, Any]) -> str:
    if "choices" not in event:
        return str(event.get("content", ""))
    choice = event["choices"][0] if event["choices"] else {}
    return str(choice.get("text") or choice.get("delta", {}).get("content") or "")
