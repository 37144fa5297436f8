"""What the editor may set, as frozen dataclasses with a default for everything.

The names are those of the configuration file (`completion.max_tokens` here is
`{"completion": {"max_tokens": 64}}`). A value that is wrong is left at what it was and described in
one sentence: a typing error in an editor's settings must never stop the server. Nothing is read
from files or the environment here.
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class CompletionSettings:
    """`max_tokens` bounds one suggestion, `budget_bytes` what goes along from other files.

    Prompts are sized for `latency_ms`; what takes longer than `deadline_ms` is given up, and what is less
    likely right than `confidence` is not shown unasked. `speculate`: ask for what follows a suggestion while
    it is looked at.
    """

    enabled: bool = True
    off_languages: tuple[str, ...] = ()
    model: str = "pocket"
    max_tokens: int = 64
    budget_bytes: int = 6144
    latency_ms: int = 300
    deadline_ms: int = 5000
    confidence: float = 0.2
    debounce: bool = True
    speculate: bool = True


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """Who answers questions and edits by instruction: an instruct model, "" for none.

    `draft_model` is a smaller one that guesses for it, `max_context` bounds a prompt, in tokens.
    """

    model: str = ""
    draft_model: str = ""
    max_context: int = 8192


@dataclass(frozen=True, slots=True)
class NavigationSettings:
    """Whether definitions, references, symbols and hovers come from the index, and where they do not."""

    enabled: bool = True
    off_languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the model server is started; `max_context` 0 leaves it to the model, `memory_gb` 0 to what is free.

    Where a model is a URL, `key_file` holds what to authorise with, and `tokenizer` names a model on this
    machine that has the same one.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "auto"
    quantize_cache: str = "none"
    max_context: int = 0
    memory_gb: float = 0.0
    idle_minutes: float = 15.0
    tokenizer: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Whether workspace folders are indexed; without an index completions see open files only.

    `max_bytes` bounds the indexes of all repositories together; `submodules` are gone into, or not.
    """

    enabled: bool = True
    max_bytes: int = 2_000_000_000
    submodules: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them; every group is a dataclass of plain values."""

    completion: CompletionSettings = field(default_factory=CompletionSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    navigation: NavigationSettings = field(default_factory=NavigationSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    index: IndexSettings = field(default_factory=IndexSettings)


def read(options: object, base: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Lay a client's options over `base`; also returns one sentence for each that was refused.

    The options may stand under a `codellama` key, as editors send them, or alone. Anything that is
    not there keeps its value of `base`; None is no options at all.
    """
    if isinstance(options, Mapping) and "codellama" in options:
        options = options["codellama"]
    problems: list[str] = []
    settings = base if options is None else _read(options, base, "codellama", problems)
    return settings, tuple(problems)


def without_strangers(sent: Settings, own: Settings) -> tuple[Settings, tuple[str, ...]]:
    """`sent` without servers that are neither on this machine nor in `own`, what the person set.

    An editor's settings may come out of a cloned repository, whose code a server named there would get. Also
    returns one sentence for each that was refused.
    """
    problems: list[str] = []
    for group, name in (("completion", "model"), ("chat", "model"), ("engine", "key_file")):
        mine = getattr(getattr(own, group), name)
        value = getattr(getattr(sent, group), name)
        known = value in ("", mine, own.completion.model, own.chat.model)
        if known or (name == "model" and not _is_strange(value)):
            continue
        sent = replace(sent, **{group: replace(getattr(sent, group), **{name: mine})})
        problems.append(
            f"codellama.{group}.{name} is not changed to {value!r}: the settings of a repository could send "
            "your code to a stranger, so set this in codellama's own configuration file, in its environment "
            "or in initializationOptions."
        )
    return sent, tuple(problems)


def _is_strange(model: str) -> bool:
    """Whether a model is a URL that leads, or may lead, to another machine."""
    if not model.startswith(("http://", "https://")):
        return False
    try:
        host = urlsplit(model).hostname or ""
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
    return not local or bool(re.search(r"[@\\\s]", model))  # what others may read as another host


def _read(options: object, base: Any, name: str, problems: list[str]) -> Any:
    """`base`, a group of settings, with the options laid over it."""
    if not isinstance(options, Mapping):
        problems.append(f"{name} must be a table of settings, not {options!r}: it is ignored.")
        return base
    types = get_type_hints(type(base))
    known = {each.name for each in fields(base)}
    changes: dict[str, Any] = {}
    for key, value in options.items():
        full = f"{name}.{key}"
        if key not in known:
            problems.append(f"{full} is no setting (there are {', '.join(sorted(known))}).")
        elif is_dataclass(types[key]):
            changes[key] = _read(value, getattr(base, key), full, problems)
        elif _fits(value, types[key], may_be_empty=getattr(type(base)(), key) == ""):
            changes[key] = tuple(value) if isinstance(value, (list, tuple)) else types[key](value)
        else:
            wanted = _WANTED[types[key]]
            problems.append(f"{full} must be {wanted}, not {value!r}: it is ignored.")
    return replace(base, **changes)


_WANTED = {
    bool: "true or false",
    int: "a whole number from 0 on",
    float: "a number from 0 on",
    str: "a text that is not empty",
    tuple[str, ...]: "a list of texts",
}


def _fits(value: object, wanted: object, *, may_be_empty: bool) -> bool:
    if wanted == tuple[str, ...]:
        return isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    if wanted is bool:
        return isinstance(value, bool)
    if wanted is str:
        return isinstance(value, str) and (value != "" or may_be_empty)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Lua and JavaScript send whole numbers as floats now and then.
    return math.isfinite(value) and value >= 0 and (wanted is float or value == int(value))
