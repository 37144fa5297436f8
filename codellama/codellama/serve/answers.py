"""How an answer looks to foreign clients: OpenAI's shapes and llama.cpp's. Free of I/O.

Our own fields (`api.result_body`) stand beside theirs.
"""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from codellama.runtime.records import Piece, Request, Result, Token
from codellama.serve import api
from codellama.serve.logprobs import chat_logprobs, completion_logprobs
from codellama.serve.options import Options


class Shape(Protocol):
    """How the answers to one request are written: whole, or event by event."""

    def whole(self, results: Sequence[Result]) -> Any:
        """The JSON of all answers."""
        ...

    def events(self, item: Piece | Result) -> list[str]:
        """The data of server-sent events for a piece of text; for the result those that end the stream."""
        ...


class InfillShape:
    """llama.cpp's answer, as llama.vim and llama.vscode read it; `context` is the model's."""

    def __init__(self, request: Request, model: str, context: int, options: Options) -> None:
        self._request, self._model, self._context, self._options = request, model, context, options

    def whole(self, results: Sequence[Result]) -> Any:
        """One answer, or a list where several were asked for."""
        shaped = [self._answer(number, result.text, result) for number, result in enumerate(results)]
        return shaped if self._options.count > 1 else shaped[0]

    def events(self, item: Piece | Result) -> list[str]:
        """A piece's event has the new text alone."""
        if isinstance(item, Piece):
            return [json.dumps({"index": 0, "content": item.text, "tokens": [], "stop": False})]
        return [json.dumps(self._answer(0, "", item))]

    def _answer(self, number: int, content: str, result: Result) -> dict[str, Any]:
        request, stats = self._request, result.stats
        answer = api.result_body(result) | {
            "index": number,
            "content": content,
            "tokens": list(result.ids),
            "stop": True,
            "stop_type": "eos" if result.finish_reason == "stop" else "limit",
            "model": self._model,
            "truncated": False,
            "tokens_predicted": stats.tokens,
            "tokens_evaluated": stats.prompt_tokens,
            "tokens_cached": stats.prompt_tokens + stats.tokens,  # what the cache holds, as llama.cpp counts
            "generation_settings": {
                "n_ctx": self._context,
                "n_predict": request.max_tokens,
                "stop": list(request.stop),
                **asdict(request.sampling),
            },
            "timings": _timings(result),
        }
        return _selected(answer, self._options.fields)


class OpenAIShape:
    """The answers of `/v1/completions`, or of `/v1/chat/completions`."""

    def __init__(self, request: Request, model: str, options: Options, chat: bool) -> None:
        self._options, self._chat = options, chat
        self._tells = request.top_logprobs is not None
        self._told = b""  # in a stream, by the events before
        kind = "text_completion"
        if chat:
            kind = "chat.completion.chunk" if options.stream else "chat.completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, results: Sequence[Result]) -> Any:
        """A choice for each answer."""
        choices = [
            self._choice(number, result.text, result.tokens, result) for number, result in enumerate(results)
        ]
        return self._head | {"choices": choices, "usage": _usage(results)} | api.result_body(results[0])

    def events(self, item: Piece | Result) -> list[str]:
        """The last one says that it is; before it, where asked for, one with the count of tokens alone."""
        if isinstance(item, Piece):
            choice = self._choice(0, item.text, item.tokens, None)
            self._told += b"".join(token.content for token in item.tokens)
            return [json.dumps(self._head | {"choices": [choice]})]
        chunk = self._head | {"choices": [self._choice(0, "", (), item)]}
        events = [chunk | api.result_body(item)]
        if self._options.usage:
            events.append(self._head | {"choices": [], "usage": _usage([item])})
        return [*map(json.dumps, events), "[DONE]"]

    def _choice(
        self, number: int, text: str, tokens: Sequence[Token], result: Result | None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": number, "finish_reason": _reason(result), "logprobs": None}
        if self._tells and (tokens or not self._options.stream):
            choice["logprobs"] = (
                chat_logprobs(tokens) if self._chat else completion_logprobs(tokens, self._told)
            )
        if not self._chat:
            return choice | {"text": text}
        return choice | {
            "delta" if self._options.stream else "message": {"role": "assistant", "content": text}
        }


def _selected(answer: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
    """The fields asked for, those of nested objects by their path ("timings/prompt_n"); None asks for all."""
    if fields is None:
        return answer
    found: dict[str, Any] = {}
    for field in fields:
        value: Any = answer
        for key in field.split("/"):
            value = value.get(key, found) if isinstance(value, dict) else found
        if value is not found:  # what is not there is left out
            found[field] = value
    return found


def _usage(results: Sequence[Result]) -> dict[str, Any]:
    """OpenAI's count of tokens."""
    prompt = results[0].stats.prompt_tokens
    answer = sum(result.stats.tokens for result in results)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _reason(result: Result | None) -> str | None:
    """OpenAI knows no answer that was cut short by its own limits of time."""
    if result is None:
        return None
    return "length" if result.finish_reason == "cancelled" else result.finish_reason


def _timings(result: Result) -> dict[str, float]:
    stats = result.stats
    computed = stats.prompt_tokens - stats.reused_tokens
    return {
        "cache_n": stats.reused_tokens,
        "prompt_n": computed,
        "prompt_ms": 1000 * stats.prefill_s,
        "prompt_per_token_ms": 1000 * stats.prefill_s / max(computed, 1),
        "prompt_per_second": computed / max(stats.prefill_s, 1e-6),
        "predicted_n": stats.tokens,
        "predicted_ms": 1000 * stats.decode_s,
        "predicted_per_token_ms": 1000 * stats.decode_s / max(stats.tokens, 1),
        "predicted_per_second": stats.tokens / max(stats.decode_s, 1e-6),
    }
