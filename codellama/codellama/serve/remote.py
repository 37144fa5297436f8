"""What other servers are asked, and what they answer: vLLM, llama.cpp's, Ollama, any with OpenAI's interface.

A gap can be filled in four ways, tried in this order until the server takes one: llama.cpp's `/infill` (which
our own server has, too), a prompt of ids, OpenAI's `suffix`, and a prompt of text with the control pieces in
it. Ids and text need the model's tokenizer here. Nothing is sent from this module; `client` does.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from codellama.runtime.errors import (
    CodellamaError,
    InfillUnsupported,
    InvalidRequest,
    ServerBusy,
    ServerError,
    Unauthorized,
    UnknownModel,
)
from codellama.runtime.prompts import extra_text
from codellama.runtime.records import (
    ChatRequest,
    CompletionRequest,
    FinishReason,
    InfillRequest,
    Request,
    Result,
    Stats,
)
from codellama.serve import api
from codellama.serve.api import ModelInfo

if TYPE_CHECKING:
    from codellama.runtime.prompt_builder import Prompt, PromptBuilder
    from codellama.runtime.tokenizer import Tokenizer

Way = Literal["ours", "infill", "ids", "suffix", "text", "plain"]
_UNKNOWN_CONTEXT = 4096
# What a server says that does not know a way (llama.cpp's, vLLM, Ollama, whatever FastAPI validates).
_LACKING: dict[Way, re.Pattern[str]] = {
    "infill": re.compile(r"infill|support", re.I),
    "ids": re.compile(r"prompt|string|unmarshal", re.I),
    "suffix": re.compile(r"suffix|insert", re.I),
}


def is_remote(model: str) -> bool:
    """Whether a model's name is the URL of a server."""
    return model.startswith(("http://", "https://"))


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a server's list says of the model: its name, its context, and whether it is llama-cpp-python's."""

    model: str
    context: int
    is_llama_cpp_python: bool


class Remote:
    """One model of one server.

    `name` is `URL` or `URL#MODEL`; `tokenizer` names a model on this machine that has the same tokenizer.
    """

    def __init__(self, name: str, tokenizer: str = "") -> None:
        self.url, _, self._model = name.partition("#")
        self.url = self.url.rstrip("/").removesuffix("/v1")
        self._tokenizer = tokenizer
        self._known: Way | None = None
        self._facts: _Facts | None = None

    @property
    def asked(self) -> bool:
        """Whether the server's list of models was read."""
        return self._facts is not None

    def read_models(self, body: Mapping[str, Any]) -> ModelInfo:
        """Takes what `GET /v1/models` says; raises UnknownModel where the model is not among them."""
        # Our own server lists the models of its roles, loaded or not.
        listed = [model for model in body.get("data") or () if isinstance(model, dict)]
        found = next((model for model in listed if self._model in ("", model.get("id"))), None)
        if found is None:
            names = ", ".join(str(model.get("id")) for model in listed) or "none"
            raise UnknownModel(
                f"{self.url} has no model {self._model!r}: name one of those it has ({names})."
            )
        meta = found.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        context = found.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
        theirs = found.get("owned_by") == "me"
        self._facts = _Facts(str(found.get("id", "")), int(context or _UNKNOWN_CONTEXT), theirs)
        named = ModelInfo.__dataclass_fields__
        ours = {key: value for key, value in found.items() if key in named}
        if set(ours) >= {"name", "family", "max_context", "can_infill", "can_chat"}:  # our own server
            return ModelInfo(**ours)
        return ModelInfo(self._facts.model, "remote", self._facts.context, True, True)

    def ways(self, request: Request) -> list[Way]:
        """How to ask, in the order to try: the way that worked before, or all that might."""
        if not isinstance(request, InfillRequest) or request.mode == "prefix":
            return ["plain"]
        if self._known:
            return [self._known]
        ways: list[Way] = ["infill", "ids", "suffix", "text"] if self._tokenizer else ["infill", "suffix"]
        if self._facts and self._facts.is_llama_cpp_python:
            ways.remove("suffix")  # it takes one, and frames it with ids that are none of the model's
        return ways

    def took(self, way: Way) -> None:
        """The server took it."""
        if way != "plain":
            self._known = way

    def lacks(self, way: Way, refusal: Refusal) -> bool:
        """Whether a refusal means that the server does not know this way, so that another may work."""
        if self._known or way not in _LACKING:
            return False
        if way == "infill" and refusal.status in (404, 405, 501):
            return True  # on any other route 404 is about the model
        return refusal.status in (400, 422, 500, 501) and bool(_LACKING[way].search(_message(refusal.body)))

    def no_way(self) -> InfillUnsupported:
        """Every way was refused."""
        return InfillUnsupported(
            f"{self.url} has neither /infill nor a suffix that it fills: set engine.tokenizer to the model's "
            "own files (config.json and its tokenizer, or a .gguf file), so that prompts can be built here."
        )

    def sent(self, way: Way, request: Request) -> tuple[str, dict[str, Any]]:
        """The route and the body; raises InvalidRequest for text that this way cannot carry."""
        assert self._facts is not None
        model: dict[str, Any] = {"model": self._facts.model}
        if self._facts.is_llama_cpp_python:
            model["repeat_penalty"] = 1.0  # else it holds what code repeats against it
        if isinstance(request, ChatRequest):
            return "/v1/chat/completions", _sampling(request) | model | {"messages": _messages(request)}
        if way == "infill":
            path, body = api.request_body(request)
            return path, body | model
        body = _sampling(request) | model
        if isinstance(request, CompletionRequest):
            return "/v1/completions", body | {"prompt": request.prompt}
        head = "".join(extra_text(extra.filename, extra.text) for extra in request.extras)
        if way == "suffix":
            return "/v1/completions", body | {"prompt": head + request.prefix, "suffix": request.suffix}
        if way == "plain":
            return "/v1/completions", body | {"prompt": head + request.prefix}
        prompt = self._builder.build(request)
        if prompt.healing and request.mode == "auto":
            # Nobody there spells a token again that the prefix ends in; this layout needs nobody to.
            prompt = self._builder.build(replace(request, mode="psm"))
        ends = {"stop_token_ids": sorted(prompt.stop_ids)}  # vLLM's; others end at their model's own
        written = prompt.ids if way == "ids" else self._text(prompt)
        return "/v1/completions", body | ends | {"prompt": written}

    def result(self, body: Mapping[str, Any]) -> Result:
        """The answer, in whichever of the three shapes; raises ServerError for another."""
        if "packed" in body and "stats" in body:  # our own server's
            return api.read_result(dict(body))
        try:
            if "content" in body:
                return _from_llama_cpp(body)
            choice = body["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            usage = body.get("usage") or {}
            stats = Stats(
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                tokens=int(usage.get("completion_tokens") or 0),
            )
            return Result(str(text or ""), (), _reason(choice.get("finish_reason") == "length"), stats)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ServerError(f"{self.url} answered in an unknown shape: is it a model server?") from error

    def error(self, refusal: Refusal) -> CodellamaError:
        """A refusal as an error of ours."""
        if isinstance(refusal.body, dict) and isinstance(refusal.body.get("error"), dict):
            known = api.read_error(refusal.body)
            if type(known) is not ServerError:  # our own server's, by its class
                return known
        kinds: dict[int, type[CodellamaError]] = {
            400: InvalidRequest,
            401: Unauthorized,
            403: Unauthorized,
            404: UnknownModel,
            422: InvalidRequest,
            429: ServerBusy,
            503: ServerBusy,
        }
        message = _message(refusal.body) or "no reason given"
        return kinds.get(refusal.status, ServerError)(
            f"{self.url} answered {refusal.status}: {message[:500]}"
        )

    @cached_property
    def _builder(self) -> "PromptBuilder":
        from codellama.runtime.locate import locate
        from codellama.runtime.prompt_builder import PromptBuilder
        from codellama.runtime.weights.checkpoint import open_checkpoint

        assert self._facts is not None
        config = open_checkpoint(locate(self._tokenizer)).config
        config = replace(config, max_context=min(config.max_context, self._facts.context))
        return PromptBuilder(self._facts.model, self._pieces, config, None)

    @cached_property
    def _pieces(self) -> "Tokenizer":
        from codellama.runtime.locate import locate
        from codellama.runtime.tokenizer_files import load_tokenizer

        return load_tokenizer(locate(self._tokenizer))

    def _text(self, prompt: "Prompt") -> str:
        """The prompt with control pieces as text, without BOS, which the server puts in front.

        Raises InvalidRequest where the user's own text holds a control piece: it would become one.
        """
        names = {i: name for name, i in self._pieces.control.names.items()}
        parts: list[str] = []
        run: list[int] = []
        for i in [*prompt.ids[1:], -1]:
            if i >= 0 and i not in names:
                run.append(i)
                continue
            text = self._pieces.decode(run)
            if any(name in text for name in names.values()):
                raise InvalidRequest(
                    "The text holds a control piece of the model, which this server would take for one: "
                    "complete elsewhere, or use a server with /infill."
                )
            parts += [text, names.get(i, "")]
            run = []
        return "".join(parts)


def _sampling(request: Request) -> dict[str, Any]:
    sampling = {key: value for key, value in asdict(request.sampling).items() if value is not None}
    if not sampling["min_p"]:
        del sampling["min_p"]  # not of OpenAI's own fields
    stop = {"stop": list(request.stop)} if request.stop else {}
    return sampling | stop | {"max_tokens": request.max_tokens}


def _messages(request: ChatRequest) -> list[dict[str, str]]:
    """The conversation, with the documents at the head of its last message."""
    head = "".join(extra_text(document.filename, document.text) for document in request.documents)
    *earlier, last = (asdict(message) for message in request.messages)
    return [*earlier, last | {"content": head + last["content"]}]


def _from_llama_cpp(body: Mapping[str, Any]) -> Result:
    timings = body.get("timings") or {}
    cached = int(timings.get("cache_n") or 0)
    stats = Stats(
        prompt_tokens=int(timings.get("prompt_n") or 0) + cached,
        reused_tokens=cached,
        prefill_s=float(timings.get("prompt_ms") or 0) / 1000,
        decode_s=float(timings.get("predicted_ms") or 0) / 1000,
        tokens=int(timings.get("predicted_n") or body.get("tokens_predicted") or 0),
    )
    limited = body.get("stop_type") == "limit" or bool(body.get("stopped_limit"))
    return Result(str(body["content"]), (), _reason(limited), stats)


def _reason(limited: bool) -> FinishReason:
    return "length" if limited else "stop"


def _message(body: object) -> str:
    """What a server says went wrong: OpenAI's shape, vLLM's, FastAPI's, or bare."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    if isinstance(error, dict):
        error = error.get("message")
    return str(error or body.get("message") or body.get("detail") or "")
