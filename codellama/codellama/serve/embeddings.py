"""`POST /v1/embeddings` on the wire, in OpenAI's shape: requests and answers to and from plain values."""

import base64
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from codellama.runtime.errors import InvalidRequest, ServerError
from codellama.serve.body import texts

_MOST = 2048  # texts of one request, as OpenAI's


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts for the embedding model `model`, a folder or hub id; `question` where they ask for documents."""

    model: str
    input: tuple[str, ...]
    question: bool = False
    encoding_format: str = "float"


def read_request(body: dict[str, Any]) -> EmbeddingRequest:
    """The request in a body; raises InvalidRequest."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model names no embedding model: give a folder or a hub id.")
    given = texts(body, _MOST)
    kind = body.get("encoding_format", "float")
    if kind not in ("float", "base64"):
        raise InvalidRequest(f"encoding_format is {kind!r}: give float or base64.")
    return EmbeddingRequest(model, given, bool(body.get("question")), kind)


def request_body(request: EmbeddingRequest) -> dict[str, Any]:
    """The body that `read_request` reads."""
    return asdict(request)


def answer_body(request: EmbeddingRequest, vectors: Sequence[Sequence[float]]) -> dict[str, Any]:
    """OpenAI's shape of the answer; base64 is that of little-endian 32-bit floats."""
    packed = request.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": n, "embedding": _packed(vector) if packed else vector}
        for n, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def read_answer(body: dict[str, Any]) -> list[list[float]]:
    """The vectors of an answer; raises ServerError where it is something else."""
    try:
        return [
            _unpacked(item["embedding"]) if isinstance(item["embedding"], str) else item["embedding"]
            for item in body["data"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            "The model server's vectors have an unknown shape: stop it with `codellama serve --stop` and try "
            "again."
        ) from error


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode("ascii")


def _unpacked(text: str) -> list[float]:
    return array("f", base64.b64decode(text, validate=True)).tolist()
