"""`POST /classify` on the wire, in vLLM's shape: requests and answers to and from plain values."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codellama.runtime.errors import InvalidRequest
from codellama.serve.body import field

_MOST = 256  # texts of one request


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """Texts for the classifier `model`, a folder or hub id."""

    model: str
    input: tuple[str, ...]


def read_request(body: dict[str, Any]) -> ClassifyRequest:
    """The request in a body; raises InvalidRequest."""
    model, texts = field(body, "model", str, ""), body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not model:
        raise InvalidRequest("model names no classifier: give a folder or a hub id.")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("input is no text and no list of texts.")
    if not 0 < len(texts) <= _MOST:
        raise InvalidRequest(f"input holds {len(texts)} texts: give 1 to {_MOST}.")
    return ClassifyRequest(model, tuple(texts))


def answer_body(
    request: ClassifyRequest, labels: Sequence[str], scores: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """vLLM's shape of the answer; `scores` by label are ours."""
    data = [
        {
            "index": n,
            "label": labels[row.index(max(row))],
            "probs": list(row),
            "num_classes": len(labels),
            "scores": dict(zip(labels, row, strict=True)),
        }
        for n, row in enumerate(scores)
    ]
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": request.model,
        "data": data,
    }
