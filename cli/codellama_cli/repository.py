"""What several commands share: the repository they are about, its settings, its index, the server."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from codellama_cli import config, output
from codellama_cli.config import Config

if TYPE_CHECKING:
    from codellama.assist.meaning import Meaning
    from codellama.serve.client import ServeSettings
    from codellama_index import Index

_LONGER_S = 10.0


def settings_for(root: Path | None, command_line: Mapping[str, object] | None = None) -> Config:
    """The settings, with warnings shown."""
    loaded = config.load(root, command_line)
    for warning in loaded.warnings:
        output.warn(warning)
    return loaded


def place(repo: Path | None) -> Path:
    """What --repo names, else the current folder; raises RepositoryNotFound."""
    from codellama_index.errors import RepositoryNotFound

    try:
        return repo if repo is not None else Path.cwd()
    except FileNotFoundError as error:
        raise RepositoryNotFound("The current folder was deleted: go to one that exists.") from error


def open_repository(repo: Path | None) -> "Index":
    """The index of the repository around `repo`, or around the current folder.

    Raises RepositoryNotFound where that is the home folder and nobody named it.
    """
    from codellama_index import open_index
    from codellama_index.errors import RepositoryNotFound

    loaded = config.load(None)  # a repository has no say in this, and what is wrong elsewhere is told there
    index = open_index(
        place(repo),
        max_bytes=loaded.whole("index.max_bytes"),
        submodules=bool(loaded.values["index.submodules"]),
    )
    if repo is None and holds_everything(index.root):
        index.close()
        raise RepositoryNotFound(
            f"{index.root} holds more than a project: go to a project's folder, or name one that is meant."
        )
    return index


def holds_everything(root: Path) -> bool:
    """Whether a folder is the home folder or one around it, which nobody means to have indexed."""
    home = Path.home().resolve()
    return root == home or root in home.parents


def refreshed(index: "Index", within_s: float = math.inf) -> "Index":
    """The same index, brought up to date with a progress bar; what `within_s` leaves, the next call does."""
    deadline = time.monotonic() + within_s
    with output.progress("indexing") as move:
        index.sync(progress=move, cancelled=lambda: time.monotonic() > deadline)
    return index


def glanced(index: "Index", within_s: float) -> "Index":
    """The same index, refreshed for a moment; where that is too short, for `_LONGER_S` with a progress bar.

    After a pull, a checkout or an upgrade of codellama moments would never bring it to an end. What is left
    even then, or to another process, is warned of. An index that was never built is built first, however long
    it takes.
    """
    if index.database is None or not index.sources():
        return refreshed(index)
    deadline = time.monotonic() + within_s
    if index.sync(cancelled=lambda: time.monotonic() > deadline).current:
        return index
    if _is_written(index):
        output.warn("the index may be stale: another process is reading what has changed")
        return index
    deadline = time.monotonic() + _LONGER_S
    with output.progress("indexing") as move:
        report = index.sync(progress=move, cancelled=lambda: time.monotonic() > deadline)
    if not report.current:
        output.warn("the index may be stale: codellama index build reads what has changed")
    return index


def _is_written(index: "Index") -> bool:
    """Whether another process writes the index now."""
    from filelock import Timeout

    try:
        with index.place.lock("write", 0.0):
            return False
    except Timeout:
        return True


def meaning_for(loaded: Config) -> "Meaning | None":
    """The embedding model of the user's settings; None where none is named."""
    name = loaded.text("embeddings.model")
    if not name:
        return None
    from codellama.assist.meaning import Meaning
    from codellama.serve.remote import is_remote

    model = loaded.text("completion.model")
    # It runs on this machine, wherever completions are computed.
    return Meaning(serve_settings(loaded, "pocket" if is_remote(model) else model), name)


def checked_model(settings: Config, key: str) -> str:
    """The model that a setting names: one that is here, or a server's URL.

    Raises UnknownModel, which names the file or variable where the command line did not say it.
    """
    from codellama.runtime.errors import UnknownModel
    from codellama.runtime.locate import locate
    from codellama.serve.remote import is_remote

    name, source = settings.text(key), settings.sources[key]
    try:
        if not is_remote(name):
            locate(name)
    except UnknownModel as error:
        if source == "command line":
            raise
        raise UnknownModel(f"{error} ({key} is set by {source}.)") from error
    return name


def serve_settings(loaded: Config, model: str) -> "ServeSettings":
    """How a server for `model` is started, or reached where it is a URL."""
    from codellama.runtime.locate import independent
    from codellama.serve.client import ServeSettings
    from codellama.serve.remote import is_remote

    chat = loaded.text("chat.model")
    return ServeSettings(
        model=model if is_remote(model) else independent(model),
        chat_model="" if is_remote(chat) or chat == model else independent(chat),
        device=loaded.text("engine.device"),
        dtype=loaded.text("engine.dtype"),
        quantize=loaded.text("engine.quantize"),
        quantize_cache=loaded.text("engine.quantize_cache"),
        draft_model=independent(loaded.text("chat.draft_model")),
        max_context=loaded.whole("engine.max_context"),
        memory_gb=loaded.number("engine.memory_gb"),
        idle_minutes=loaded.number("engine.idle_minutes"),
        tokenizer=independent(loaded.text("engine.tokenizer")),
        key_file=loaded.text("engine.key_file"),
    )
