"""The HTTP routes: OpenAI's completions and chat, llama.cpp's `/infill`, and what clients ask besides.

A handler reads the body, hands a request to the worker and shapes the answer. While the model works,
the connection is watched: once it closes, the work is cancelled.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import codellama
from codellama.runtime import errors
from codellama.runtime.errors import InvalidRequest, ServerBusy
from codellama.runtime.records import Piece, Request, Result
from codellama.serve import api, classification, embeddings
from codellama.serve.answers import InfillShape, OpenAIShape, Shape
from codellama.serve.api import ModelInfo
from codellama.serve.body import decode
from codellama.serve.metrics import CONTENT_TYPE, Metrics
from codellama.serve.options import Options, read_options, varied
from codellama.serve.security import Refused
from codellama.serve.worker import Worker

_STATUS: dict[type[Exception], int] = {
    errors.UnknownModel: 404,
    errors.InvalidRequest: 400,
    errors.ClientBusy: 429,
    errors.ServerBusy: 503,
    errors.CheckpointError: 500,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to generate."""

    route: str
    client: str
    model: str
    options: Options
    requests: tuple[Request, ...]  # as many as answers are wanted
    shape: Shape


class App:
    """The routes over one worker; `last_used` and `busy` tell the idle watch when to end the process."""

    def __init__(self, worker: Worker, log_requests: bool = False) -> None:
        self.worker = worker
        self.last_used = time.monotonic()
        self.busy = 0
        self._log_requests = log_requests
        admission = worker.admission
        self.metrics = Metrics(lambda: admission.waiting, lambda: admission.running)

    def starlette(self) -> Starlette:
        """The application, with our errors as JSON."""
        handlers = {
            Exception: _internal_error,
            errors.CodellamaError: self._known_error,
            Refused: _refused,
        }
        return Starlette(routes=self.routes(), exception_handlers=handlers)

    def routes(self) -> list[Route]:
        """All routes; every one but /health asks for the token (see security)."""
        return [
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            Route("/v1/models", self.models),
            Route("/infill", self.infill, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/classify", self.classify, methods=["POST"]),
        ]

    async def health(self, _: HttpRequest) -> Response:
        """Open to all on this machine: nothing here tells what is asked or where models lie."""
        models = self.worker.models
        info = models.info(models.name("", "completion"))
        facts = {
            "status": "ok" if info else "loading",
            "loading": models.loading,
            "version": codellama.__version__,
            "protocol": api.PROTOCOL,
            "busy": self.busy,
            "waiting": self.worker.admission.waiting,
            "max_context": info.max_context if info else None,
            "prefill_rate": info.prefill_rate if info else None,
            "decode_rate": info.decode_rate if info else None,
        }
        return JSONResponse(facts)

    async def models(self, _: HttpRequest) -> Response:
        """Those in memory with all that is known of them; those of a role that are not, by name."""
        loaded = {info.name: info for info in self.worker.models.infos()}
        names = dict.fromkeys([*loaded, *self.worker.models.roles.values()])
        data = [_listed(name, loaded.get(name)) for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def show_metrics(self, _: HttpRequest) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def tokenize(self, http: HttpRequest) -> Response:
        body = await _body(http)
        texts = body.get("content", body.get("texts"))
        single = isinstance(texts, str)
        texts = [texts] if single else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("texts is no list of texts.")
        model = self.worker.models.name(read_options(body).model, "completion")
        with self._at_work():
            ids = await self.worker.tokenize(model, texts)
        if body.get("counts"):
            return JSONResponse({"counts": [len(each) for each in ids]})
        # The name that it goes by in the list of models, since a path can be spelled in several ways.
        info = self.worker.models.info(model)
        tokens = ids[0] if "content" in body and single else ids
        return JSONResponse({"tokens": tokens, "model": info.name if info else model})

    async def embeddings(self, http: HttpRequest) -> Response:
        request = embeddings.read_request(await _body(http))
        with self._at_work():
            embed = self.worker.embed(request.model, request.input, request.question, _client(http))
            vectors = await _unless_gone(http, embed)
        if vectors is None:
            return _nobody()
        return JSONResponse(embeddings.answer_body(request, vectors.tolist()))

    async def classify(self, http: HttpRequest) -> Response:
        request = classification.read_request(await _body(http))
        with self._at_work():
            classify = self.worker.classify(request.model, request.input, _client(http))
            found = await _unless_gone(http, classify)
        if found is None:
            return _nobody()
        return JSONResponse(classification.answer_body(request, *found))

    async def infill(self, http: HttpRequest) -> Response:
        body = await _body(http)
        return await self._answer(http, body, api.read_infill(body), "completion")

    async def completions(self, http: HttpRequest) -> Response:
        body = await _body(http)
        return await self._answer(http, body, api.read_completion(body), "completion")

    async def chat(self, http: HttpRequest) -> Response:
        body = await _body(http)
        return await self._answer(http, body, api.read_chat(body), "chat")

    async def _answer(self, http: HttpRequest, body: dict[str, Any], request: Request, role: str) -> Response:
        """Runs `request`; streamed as server-sent events if that is asked for, else whole."""
        options = read_options(body)
        model = self.worker.models.name(options.model, role)
        with self._at_work():
            await self.worker.load(model)  # so that errors of loading come before a stream begins
        info = self.worker.models.info(model)
        shape: Shape
        if http.url.path == "/infill":
            shape = InfillShape(request, model, info.max_context if info else 0, options)
        else:
            shape = OpenAIShape(request, model, options, chat=role == "chat")
        requests = tuple(varied(request, body, number) for number in range(options.count))
        call = Call(http.url.path, _client(http), model, options, requests, shape)
        if options.stream:
            events = self._events(call)
            # The first event is awaited here, so that a refused request has a status that says so.
            first = await _unless_gone(http, anext(events))
            if first is None:
                return _nobody()
            return StreamingResponse(_after(first, events), media_type="text/event-stream")
        results = await _unless_gone(http, self._whole(call))
        return _nobody() if results is None else JSONResponse(shape.whole(results))

    async def _whole(self, call: Call) -> list[Result]:
        results = []
        for request in call.requests:
            async with aclosing(self._observed(call, request)) as stream:
                results += [item async for item in stream if isinstance(item, Result)]
        return results

    async def _events(self, call: Call) -> AsyncGenerator[str, None]:
        """Server-sent events; an error after the first one becomes the last one."""
        begun = False
        try:
            async with aclosing(self._observed(call, call.requests[0])) as stream:
                async for item in stream:
                    begun = True
                    yield "".join(f"data: {event}\n\n" for event in call.shape.events(item))
        except errors.CodellamaError as error:
            if not begun:
                raise
            yield f"data: {json.dumps(api.error_body(error))}\n\n"

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The process is in use while the block lasts."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            self.last_used = time.monotonic()

    async def _observed(self, call: Call, request: Request) -> AsyncGenerator[Piece | Result, None]:
        """What the worker yields; everything that the metrics and the log tell is seen here."""
        arrived = time.monotonic()
        outcome, spoke = "gone", False

        def since() -> float:
            return time.monotonic() - arrived

        try:
            run = self.worker.run(
                call.model,
                request,
                call.options,
                call.client,
                lambda: self.metrics.began(call.route, since()),
            )
            with self._at_work():
                async with aclosing(run) as stream:
                    async for item in stream:
                        if isinstance(item, Result):
                            outcome = item.finish_reason
                            self.metrics.computed(call.client, item)
                            yield _without_answer(item) if call.options.only_prompt else item
                        elif not call.options.only_prompt:
                            if not spoke:
                                spoke = True
                                self.metrics.spoke(call.route, since())
                            yield item
        except errors.CodellamaError as error:
            outcome = type(error).__name__
            raise
        finally:
            self.metrics.ended(call.route, call.client, outcome, since())
            if self._log_requests:
                logging.info("%s %s %s %.0f ms", call.client, call.route, outcome, 1000 * since())

    async def _known_error(self, _: HttpRequest, error: Exception) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        retry = self.worker.admission.retry_after_s()
        headers = {"retry-after": str(retry)} if isinstance(error, ServerBusy) else None
        return JSONResponse(api.error_body(error), status, headers)


def _listed(name: str, info: ModelInfo | None) -> dict[str, Any]:
    entry = {"id": name, "object": "model", "owned_by": "codellama"}
    # vLLM's name for the context beside ours.
    return entry | asdict(info) | {"max_model_len": info.max_context} if info else entry


def _client(http: HttpRequest) -> str:
    """Whose key it is (see security)."""
    name: str = http.scope["client_name"]
    return name


def _nobody() -> Response:
    """Nobody reads it: the client has left."""
    return Response(status_code=499)


async def _body(http: HttpRequest) -> dict[str, Any]:
    try:
        return decode(await http.body())
    except ClientDisconnect as error:
        raise InvalidRequest("The body ended early.") from error


async def _unless_gone(http: HttpRequest, coroutine: Awaitable[T]) -> T | None:
    """The coroutine's value; None, and the coroutine is cancelled, where the client leaves first."""
    work = asyncio.ensure_future(coroutine)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        gone.cancel()


async def _after(first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    async with aclosing(rest):
        yield first
        async for item in rest:
            yield item


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _without_answer(result: Result) -> Result:
    """A prompt was put into the cache; the id that its end gave is nobody's answer."""
    stats = replace(result.stats, tokens=0, mean_logprob=None)
    return replace(result, text="", ids=(), finish_reason="length", stats=stats, steps=())


async def _refused(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _internal_error(_: HttpRequest, error: Exception) -> Response:
    logging.error("request failed", exc_info=error)
    return JSONResponse(api.error_body(error), status_code=500)
