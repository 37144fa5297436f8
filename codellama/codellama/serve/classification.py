"""`POST /classify` on the wire, in vLLM's shape: requests and answers to and from plain values."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codellama.runtime.errors import InvalidRequest
from codellama.serve.body import field, texts

_MOST = 256  # texts of one request


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """Texts for the classifier `model`, a folder or hub id."""

    model: str
    input: tuple[str, ...]


def read_request(body: dict[str, Any]) -> ClassifyRequest:
    """The request in a body; raises InvalidRequest."""
    model = field(body, "model", str, "")
    if not model:
        raise InvalidRequest("model names no classifier: give a folder or a hub id.")
    return ClassifyRequest(model, texts(body, _MOST))


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
