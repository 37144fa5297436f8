"""A request's JSON body, and its fields by type; what does not fit raises InvalidRequest naming the field."""

import json
import math
import re
from typing import Any, TypeVar

from codellama.runtime.errors import InvalidRequest

T = TypeVar("T")
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
