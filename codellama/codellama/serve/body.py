"""A request's JSON body, and its fields by type; what does not fit raises InvalidRequest naming the field."""

import json
import math
import re
from typing import Any, TypeVar

from codellama.runtime.errors import InvalidRequest

T = TypeVar("T")
# Characters of all texts that one request has classified or embedded: nothing stops a model that reads them.
MOST_TEXT = 200_000
# The only way for half a surrogate pair into strictly decoded JSON.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body."""
    try:
        body = json.loads(raw.decode())
        if _SURROGATE.search(raw):
            json.dumps(body, ensure_ascii=False).encode()  # fails where half of a pair stands alone
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is no JSON ({error}).") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body is no JSON object.")
    return body


def whole(body: dict[str, Any], name: str, default: int) -> int:
    """A whole number."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} is no whole number.")
    return value


def number(body: dict[str, Any], name: str, default: float) -> float:
    """A finite number."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidRequest(f"{name} is no number.")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise InvalidRequest(f"{name} is no finite number.")
    return found


def field(body: dict[str, Any], name: str, kind: type[T], default: T) -> T:
    """A value of any other type; null is as good as nothing."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name} is not of the type {kind.__name__}.")
    return value


def texts(body: dict[str, Any], most: int) -> tuple[str, ...]:
    """What `input` holds: a text, or 1 to `most` of them with at most `MOST_TEXT` characters together."""
    found = body.get("input")
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise InvalidRequest("input is no text and no list of texts.")
    if not 0 < len(found) <= most:
        raise InvalidRequest(f"input holds {len(found)} texts: give 1 to {most}.")
    if (size := sum(map(len, found))) > MOST_TEXT:
        raise InvalidRequest(f"input holds {size} characters: give at most {MOST_TEXT} at once.")
    return tuple(found)
