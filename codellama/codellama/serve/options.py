"""What a request says beside what is to be generated: for whom, how often, until when.

llama.cpp's `t_max_prompt_ms`, `cache_prompt`, `id_slot` and `samplers` are taken and change nothing: it does
not apply the first itself, and here caches are always kept and found by what they hold.
"""

from dataclasses import dataclass, replace
from typing import Any

from codellama.runtime.errors import InvalidRequest
from codellama.runtime.records import Request
from codellama.serve.body import field, number, whole

_MOST_ANSWERS = 8
# Several answers to one prompt must differ: those after the first take this temperature if none is given.
_VARIED = 0.8


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says beside what is to be generated.

    `session` names the document: a newer request of the same one supersedes the older. `deadline_s` counts
    from the arrival, `predict_s` from the first text and only once there is a line, as llama.cpp has it; both
    end the answer where it stands. `indent` ends it at a line indented less. With `only_prompt` the prompt
    goes into the cache and nothing is answered. `fields` are those wanted of llama.cpp's answer, `usage` is
    the count of tokens at a stream's end.
    """

    model: str = ""
    client: str = ""
    session: str = ""
    stream: bool = False
    count: int = 1
    deadline_s: float | None = None
    predict_s: float | None = None
    indent: int = 0
    only_prompt: bool = False
    usage: bool = False
    fields: tuple[str, ...] | None = None


def read_options(body: dict[str, Any]) -> Options:
    """The options in the body of any of the three routes that generate."""
    stream, count = bool(body.get("stream")), whole(body, "n_cmpl" if "n_cmpl" in body else "n", 1)
    if not 1 <= count <= _MOST_ANSWERS:
        raise InvalidRequest(f"n is {count}: from 1 to {_MOST_ANSWERS} answers are given to one request.")
    if stream and count > 1:
        raise InvalidRequest("n is more than 1 and the answer is streamed: choose one of the two.")
    fields = field(body, "response_fields", list, [])
    streaming = field(body, "stream_options", dict, {})
    deadline, predict = number(body, "deadline_ms", 0.0), number(body, "t_max_predict_ms", 0.0)
    return Options(
        model=field(body, "model", str, "").strip(),
        client=field(body, "user", str, "")[:64],
        session=field(body, "session", str, "")[:512],
        stream=stream,
        count=count,
        deadline_s=deadline / 1000 if deadline > 0 else None,
        predict_s=predict / 1000 if predict > 0 else None,
        indent=max(0, whole(body, "n_indent", 0)),
        only_prompt=whole(body, "n_predict", -1) == 0,
        usage=bool(streaming.get("include_usage")),
        fields=tuple(str(field) for field in fields) if "response_fields" in body else None,
    )


def varied(request: Request, body: dict[str, Any], number: int) -> Request:
    """The request for answer `number` of several: seeds follow one another, and no two are greedy."""
    if not number:
        return request
    sampling = request.sampling
    temperature = sampling.temperature if body.get("temperature") is not None else _VARIED
    seed = None if sampling.seed is None else sampling.seed + number
    return replace(request, sampling=replace(sampling, temperature=temperature, seed=seed))
