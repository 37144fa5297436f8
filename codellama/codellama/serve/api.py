"""JSON on the wire to the runtime's records and back; what does not fit raises InvalidRequest.

`/infill` takes llama.cpp's field names, so that its editor plugins work unchanged. How an answer looks to
foreign clients stands in `answers`.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from codellama.runtime import errors
from codellama.runtime.errors import CodellamaError, InvalidRequest, ServerError
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Extra,
    InfillRequest,
    Packed,
    Request,
    Result,
    Sampling,
    Stats,
)
from codellama.serve.body import field, number, whole

# Changes when old clients and new servers (or the reverse) would misunderstand each other; it is part of
# the socket's name, so that they never meet.
PROTOCOL = 1

_SEEDS = 2**63
_MODES = ("auto", "psm", "spm", "prefix")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in the server's memory.

    `role` is what the server uses it for unasked: completion, chat, both, or nothing. The rates are measured,
    in tokens per second; None before the first request.
    """

    name: str
    family: str
    max_context: int
    can_infill: bool
    can_chat: bool
    role: str = ""
    prefill_rate: float | None = None
    decode_rate: float | None = None


def read_infill(body: dict[str, Any]) -> InfillRequest:
    """The request of `POST /infill`."""
    mode = field(body, "mode", str, "auto")
    if mode not in _MODES:
        raise InvalidRequest(f"mode is {mode!r}: give one of {', '.join(_MODES)}.")
    prompt = field(body, "prompt", str, "")
    return InfillRequest(
        prefix=field(body, "input_prefix", str, "") + prompt,
        suffix=field(body, "input_suffix", str, ""),
        extras=tuple(
            _extra(item, "input_extra", "filename") for item in field(body, "input_extra", list, [])
        ),
        max_tokens=_max_tokens(body, "n_predict", 64),
        mode=mode,  # type: ignore[arg-type] # checked against the literal's values above
        sampling=_sampling(body, temperature=0.0),
        stop=_stop(body),
    )


def read_completion(body: dict[str, Any]) -> InfillRequest | CompletionRequest:
    """The request of `POST /v1/completions`; with `suffix` it is an infill."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:  # OpenAI's clients may send one text in a list
        body = body | {"prompt": prompt[0]}
    prompt = field(body, "prompt", str, "")
    max_tokens = _max_tokens(body, "max_tokens", 16)
    sampling, stop = _sampling(body, 1.0), _stop(body)
    top = None if body.get("logprobs") is None else whole(body, "logprobs", 0)
    if body.get("suffix"):
        suffix = field(body, "suffix", str, "")
        return InfillRequest(prompt, suffix, (), max_tokens, "auto", sampling, stop, top)
    return CompletionRequest(prompt, max_tokens, sampling, stop, top)


def read_chat(body: dict[str, Any]) -> ChatRequest:
    """The request of `POST /v1/chat/completions`."""
    messages = []
    for item in field(body, "messages", list, []):
        if not isinstance(item, dict):
            raise InvalidRequest("messages holds something other than objects: give role and content.")
        messages.append(ChatMessage(field(item, "role", str, ""), _content(item)))
    if not messages:
        raise InvalidRequest("messages is empty: give at least one.")
    named = next((n for n in ("max_tokens", "max_completion_tokens", "n_predict") if n in body), "max_tokens")
    max_tokens = _max_tokens(body, named, 256)
    documents = tuple(_extra(item, "documents", "path") for item in field(body, "documents", list, []))
    top = whole(body, "top_logprobs", 0) if field(body, "logprobs", bool, False) else None
    return ChatRequest(tuple(messages), max_tokens, _sampling(body, 1.0), _stop(body), documents, top)


def encode(body: dict[str, Any]) -> bytes:
    """The body's bytes; raises InvalidRequest for what JSON or UTF-8 cannot carry (half a surrogate pair)."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidRequest(f"The request cannot be sent ({error}): correct that value.") from error


def request_body(request: Request) -> tuple[str, dict[str, Any]]:
    """The route and the JSON body that carry a request."""
    common = {"stop": list(request.stop), **asdict(request.sampling)}
    if isinstance(request, InfillRequest):
        extras = [asdict(extra) for extra in request.extras]
        return "/infill", common | {
            "input_prefix": request.prefix,
            "input_suffix": request.suffix,
            "input_extra": extras,
            "n_predict": request.max_tokens,
            "mode": request.mode,
        }
    if isinstance(request, CompletionRequest):
        return "/v1/completions", common | {"prompt": request.prompt, "max_tokens": request.max_tokens}
    return "/v1/chat/completions", common | {
        "messages": [asdict(message) for message in request.messages],
        "max_tokens": request.max_tokens,
        "documents": [
            {"path": d.filename, "text": d.text, "priority": d.priority} for d in request.documents
        ],
    }


def result_body(result: Result) -> dict[str, Any]:
    """Our own fields of an answer; they stand beside those of OpenAI's and llama.cpp's shapes."""
    return {
        "text": result.text,
        "ids": list(result.ids),
        "finish_reason": result.finish_reason,
        "stats": asdict(result.stats),
        "packed": [asdict(packed) for packed in result.packed],
        "steps": [list(step) for step in result.steps],
    }


def read_result(body: dict[str, Any]) -> Result:
    """The answer that `result_body` wrote; raises ServerError where it is something else."""
    try:
        return Result(
            text=body["text"],
            ids=tuple(body["ids"]),
            finish_reason=body["finish_reason"],
            stats=Stats(**body["stats"]),
            packed=tuple(Packed(**packed) for packed in body["packed"]),
            steps=tuple((end, logprob) for end, logprob in body["steps"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            "The model server's answer has an unknown shape: stop it with `codellama serve --stop` "
            "and try again."
        ) from error


def error_body(error: Exception) -> dict[str, Any]:
    """OpenAI's shape of an error, with the class's name, from which `read_error` makes it again."""
    if isinstance(error, CodellamaError):
        return {"error": {"message": str(error), "type": type(error).__name__}}
    message = "The model server met an error of its own: see its log (`codellama serve --status`)."
    return {"error": {"message": message, "type": "ServerError"}}


def read_error(body: object) -> CodellamaError:
    """The error that a server sent."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ServerError("The model server failed without saying why: see `codellama serve --status`.")
    kind = getattr(errors, str(error.get("type")), None)
    known = isinstance(kind, type) and issubclass(kind, CodellamaError)
    return (kind if known else ServerError)(str(error.get("message")))  # type: ignore[misc] # checked


def _content(message: dict[str, Any]) -> str:
    """A message's text, whole or in OpenAI's parts."""
    parts = message.get("content")
    if not isinstance(parts, list):
        return field(message, "content", str, "")
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise InvalidRequest("content has parts that are no text: this model reads text alone.")
    return "".join(field(part, "text", str, "") for part in parts)


def _extra(item: object, where: str, name: str) -> Extra:
    if not isinstance(item, dict):
        raise InvalidRequest(f"{where} holds something other than objects: give {name} and text.")
    priority = number(item, "priority", 0.0)
    return Extra(field(item, name, str, "extra"), field(item, "text", str, ""), priority)


def _sampling(body: dict[str, Any], temperature: float) -> Sampling:
    seed = body.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise InvalidRequest("seed is no whole number.")
    if seed is not None and not -_SEEDS <= seed < _SEEDS:
        raise InvalidRequest("seed does not fit 64 bits.")
    return Sampling(
        temperature=number(body, "temperature", temperature),
        top_p=number(body, "top_p", 1.0),
        seed=seed,
        min_p=number(body, "min_p", 0.0),
    )


def _stop(body: dict[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop) or len(stop) > 16:
        raise InvalidRequest("stop is no text and no list of at most 16 texts.")
    return tuple(stop)


def _max_tokens(body: dict[str, Any], name: str, default: int) -> int:
    value = whole(body, name, default)
    if value == -1:  # llama.cpp's "as many as you like"
        return default
    # A prompt that only goes into the cache: its end's logits are computed anyway, one id costs nothing more.
    return 1 if value == 0 and name == "n_predict" else value
