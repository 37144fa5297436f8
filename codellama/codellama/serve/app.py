"""The HTTP routes: OpenAI's completions and chat, llama.cpp's `/infill`, and what clients ask besides.

A handler reads the body, hands a request to the worker and shapes the answer. While the model works,
the connection is watched: once it closes, the work is cancelled.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import codellama
from codellama.runtime import errors
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.records import InfillRequest, Piece, Request, Result
from codellama.serve import api
from codellama.serve.security import MAX_BODY, BodyTooLarge
from codellama.serve.worker import Worker

_STATUS: dict[type[Exception], int] = {
    errors.UnknownModel: 404,
    errors.InvalidRequest: 400,
    errors.ServerBusy: 503,
    errors.CheckpointError: 500,
}

T = TypeVar("T")
Shape = Callable[[str, Result | None], dict[str, Any]]


class App:
    """The routes over one worker; `last_used` and `busy` tell the idle watch when to end the process."""

    def __init__(self, worker: Worker, default_model: str) -> None:
        self.worker = worker
        self.default_model = default_model
        self.last_used = time.monotonic()
        self.busy = 0

    def routes(self) -> list[Route]:
        """All routes; every one but /health asks for the token (see security)."""
        return [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.models),
            Route("/infill", self.infill, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
        ]

    def starlette(self) -> Starlette:
        """The application, with our errors as JSON."""
        handlers = {
            Exception: _internal_error,
            errors.CodellamaError: _known_error,
            BodyTooLarge: _too_large,
        }
        return Starlette(routes=self.routes(), exception_handlers=handlers)

    async def health(self, _: HttpRequest) -> Response:
        return JSONResponse({"status": "ok", "version": codellama.__version__, "protocol": api.PROTOCOL})

    async def models(self, _: HttpRequest) -> Response:
        data = [{"id": m.name, "object": "model", **asdict(m)} for m in self.worker.models()]
        return JSONResponse({"object": "list", "data": data})

    async def metrics(self, _: HttpRequest) -> Response:
        counters = {
            "codellama_requests_total": self.worker.served,
            "codellama_tokens_generated_total": self.worker.tokens,
            "codellama_tokens_prompt_total": self.worker.prompt_tokens,
            "codellama_tokens_reused_total": self.worker.reused_tokens,
            "codellama_requests_waiting": self.worker.waiting,
        }
        lines = [
            f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n{name} {value}\n"
            for name, value in counters.items()
        ]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    async def tokenize(self, http: HttpRequest) -> Response:
        body = await _body(http)
        texts = body.get("content", body.get("texts"))
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("texts is no list of texts.")
        ids = await self.worker.tokenize(self._model(body), texts)
        return JSONResponse({"tokens": ids})

    async def infill(self, http: HttpRequest) -> Response:
        body = await _body(http)

        def shape(piece: str, result: Result | None) -> dict[str, Any]:
            if result is None:
                return {"content": piece, "stop": False}
            return {"content": piece, "stop": True} | api.result_body(result)

        return await self._answer(http, body, api.read_infill(body), shape)

    async def completions(self, http: HttpRequest) -> Response:
        body = await _body(http)
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        head["model"] = self._model(body)

        def shape(piece: str, result: Result | None) -> dict[str, Any]:
            reason = result.finish_reason if result else None
            choice = {"index": 0, "text": piece, "finish_reason": reason, "logprobs": None}
            return head | {"choices": [choice]} | _usage(result)

        return await self._answer(http, body, api.read_completion(body), shape)

    async def chat(self, http: HttpRequest) -> Response:
        body = await _body(http)
        streamed = bool(body.get("stream"))
        kind = "chat.completion.chunk" if streamed else "chat.completion"
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
        head["model"] = self._model(body)

        def shape(piece: str, result: Result | None) -> dict[str, Any]:
            message = {"role": "assistant", "content": piece}
            reason = result.finish_reason if result else None
            choice = {"index": 0, "delta" if streamed else "message": message, "finish_reason": reason}
            return head | {"choices": [choice]} | _usage(result)

        return await self._answer(http, body, api.read_chat(body), shape)

    async def _answer(
        self, http: HttpRequest, body: dict[str, Any], request: Request, shape: Shape
    ) -> Response:
        """Runs `request`; streamed as server-sent events if `stream` is set, else whole."""
        if body.get("n", 1) != 1:
            raise InvalidRequest("n is not 1: ask several times instead.")
        name = self._model(body)
        await self.worker.load(name)  # so that errors of loading come before a stream begins
        if body.get("stream"):
            done = "" if isinstance(request, InfillRequest) else "data: [DONE]\n\n"
            events = self._events(name, request, shape, done)
            # The first event is awaited here, so that a refused request has a status that says so.
            first = await _unless_gone(http, anext(events))
            if first is None:
                return Response(status_code=499)  # nobody reads it
            return StreamingResponse(_after(first, events), media_type="text/event-stream")
        result = await _unless_gone(http, self._whole(name, request))
        if result is None:
            return Response(status_code=499)
        return JSONResponse(shape(result.text, result))

    async def _whole(self, name: str, request: Request) -> Result:
        async with aclosing(self._counted(name, request)) as stream:
            async for item in stream:
                if isinstance(item, Result):
                    return item
        raise AssertionError("a stream ends with its result")

    async def _events(
        self, name: str, request: Request, shape: Shape, done: str
    ) -> AsyncGenerator[str, None]:
        """Server-sent events; an error after the first one becomes the last one."""
        begun = False
        try:
            async with aclosing(self._counted(name, request)) as stream:
                async for item in stream:
                    last = isinstance(item, Result)
                    data = shape("", item) if isinstance(item, Result) else shape(item.text, None)
                    begun = True
                    yield f"data: {json.dumps(data)}\n\n" + (done if last else "")
        except errors.CodellamaError as error:
            if not begun:
                raise
            yield f"data: {json.dumps(api.error_body(error))}\n\n"

    async def _counted(self, name: str, request: Request) -> AsyncGenerator[Piece | Result, None]:
        self.busy += 1
        try:
            async with aclosing(self.worker.run(name, request)) as stream:
                async for item in stream:
                    yield item
        finally:
            self.busy -= 1
            self.last_used = time.monotonic()

    def _model(self, body: dict[str, Any]) -> str:
        name = body.get("model") or self.default_model
        if not isinstance(name, str):
            raise InvalidRequest("model is no text.")
        return name


async def _body(http: HttpRequest) -> dict[str, Any]:
    try:
        return api.decode(await http.body())
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


def _usage(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {}
    prompt, answer = result.stats.prompt_tokens, result.stats.tokens
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {"usage": usage} | api.result_body(result)


async def _known_error(_: HttpRequest, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse(api.error_body(error), status_code=status)


async def _too_large(_: HttpRequest, error: Exception) -> Response:
    refusal = InvalidRequest(f"The request is larger than {MAX_BODY} bytes.")
    return JSONResponse(api.error_body(refusal), status_code=413, headers={"connection": "close"})


async def _internal_error(_: HttpRequest, error: Exception) -> Response:
    logging.error("request failed", exc_info=error)
    return JSONResponse(api.error_body(error), status_code=500)
