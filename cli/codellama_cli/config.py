"""Settings from files and the environment to one frozen dataclass, each with where it came from.

Precedence: command line, CODELLAMA_* environment, the repository's .codellama.toml (harmless keys only),
the user's config.toml, defaults. A repository's file is data of a stranger: it may not name a model, a
device or anything that is run or reached.
"""

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codellama.runtime.errors import InvalidRequest

REPOSITORY_KEYS = frozenset({"completion.max_tokens", "completion.budget_bytes"})
REPOSITORY_FILE = ".codellama.toml"

DEFAULTS: dict[str, str | int | float] = {
    "completion.model": "pocket",
    "completion.max_tokens": 64,
    "completion.budget_bytes": 6144,
    "chat.model": "",
    "chat.draft_model": "",
    "models.folder": "",
    "embeddings.model": "",
    "engine.device": "auto",
    "engine.dtype": "auto",
    "engine.quantize": "auto",
    "engine.quantize_cache": "none",
    "engine.max_context": 0,
    "engine.memory_gb": 0.0,
    "engine.idle_minutes": 15.0,
    "engine.tokenizer": "",
    "engine.key_file": "",
    "index.max_bytes": 2_000_000_000,
    "index.submodules": True,
}


@dataclass(frozen=True, slots=True)
class Config:
    """Values by key, the source of each, and what was ignored and why."""

    values: Mapping[str, str | int | float]
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = field(default=())

    def text(self, key: str) -> str:
        return str(self.values[key])

    def whole(self, key: str) -> int:
        return int(self.values[key])

    def number(self, key: str) -> float:
        return float(self.values[key])


def user_file() -> Path:
    """The user's config.toml."""
    import platformdirs

    return platformdirs.user_config_path("codellama") / "config.toml"


def load(root: Path | None, command_line: Mapping[str, object] | None = None) -> Config:
    """All settings for a repository at `root`.

    Raises InvalidRequest naming the file or variable and the key; what is wrong in the repository's own
    file is a warning.
    """
    values, sources = dict(DEFAULTS), dict.fromkeys(DEFAULTS, "default")
    warnings: list[str] = []

    def take(key: str, value: object, source: str) -> None:
        values[key] = _converted(key, value, source)
        sources[key] = source

    file = user_file()
    for key, value in _flat(_toml(file)).items():
        if key in DEFAULTS:
            take(key, value, str(file))
        else:
            raise InvalidRequest(f"{file} sets {key}, which is no setting: {_instead(key)}.")
    if root is not None:
        file = root / REPOSITORY_FILE
        for key, value in _flat(_repository_toml(file, warnings.append)).items():
            if key not in REPOSITORY_KEYS:
                warnings.append(f"{file} sets {key}, which a repository may not: ignored.")
                continue
            try:
                take(key, value, str(file))
            except InvalidRequest as error:  # a stranger's mistake stops nobody's work
                warnings.append(f"{error} It is ignored.")
    for key in DEFAULTS:
        variable = "CODELLAMA_" + key.upper().replace(".", "_")
        if variable in os.environ:
            take(key, os.environ[variable], variable)
    for key, value in (command_line or {}).items():
        if value is not None:
            take(key, value, "command line")
    return Config(values, sources, tuple(warnings))


def _instead(key: str) -> str:
    """What may have been meant by a setting that there is not."""
    from difflib import get_close_matches

    near = get_close_matches(key, DEFAULTS, n=1) or get_close_matches(
        key, [f"[{group}]" for group in dict.fromkeys(each.partition(".")[0] for each in DEFAULTS)], n=1
    )
    return f"perhaps {near[0]} is meant" if near else f"there are {', '.join(DEFAULTS)}"


def _repository_toml(file: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    try:
        return _toml(file)
    except InvalidRequest as error:
        warn(f"{error} It is ignored.")
        return {}


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file} cannot be read as TOML ({error}): mend or remove it.") from error


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _converted(key: str, value: object, source: str) -> str | int | float:
    kind = type(DEFAULTS[key])
    wrong = InvalidRequest(f"{source} gives {key} the value {value!r}, which is no {_NAMES[kind]}.")
    # The environment gives texts, which may say numbers; a file's number is never taken for a text.
    fits = isinstance(value, str) or type(value) is kind or (kind is float and type(value) is int)
    if not fits or not isinstance(value, str | int | float):
        raise wrong
    try:
        converted = _TRUTH[value.lower()] if kind is bool and isinstance(value, str) else kind(value)
    except (KeyError, ValueError) as error:
        raise wrong from error
    if not isinstance(converted, str) and not 0 <= converted < math.inf:
        raise wrong
    return converted


_NAMES: dict[type, str] = {
    str: "text",
    int: "whole number from 0 on",
    float: "number from 0 on",
    bool: "true or false",
}
_TRUTH = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
