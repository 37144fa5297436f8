"""`codellama doctor`: what is installed, reachable and wrong, and how to mend it."""

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

import typer

from codellama_cli.ask import Json


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `detail` says what was found, and what to do where it is wrong."""

    name: str
    ok: bool
    detail: str


def doctor(json: Json = False) -> None:
    """Look at what codellama needs, and say how to mend what is wrong.

    Example: codellama doctor
    """
    from codellama_cli import output

    checks = [_checked(name, look) for name, look in _LOOKS.items()]
    if json:
        output.print_json({"checks": checks})
    else:
        for check in checks:
            output.print_text(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _checked(name: str, look: Callable[[], str]) -> Check:
    from codellama.runtime.errors import CodellamaError
    from codellama_index.errors import CodeIndexError

    try:
        return Check(name, True, look())
    except (CodellamaError, CodeIndexError, OSError, importlib.metadata.PackageNotFoundError) as error:
        return Check(name, False, str(error))


def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def _torch() -> str:
    return importlib.metadata.version("torch")


def _git() -> str:
    path = shutil.which("git")
    if path is None:
        raise OSError("git is not on PATH: install it, so that ignored files are left out of the index.")
    return path


def _settings() -> str:
    from codellama_cli import config, repository

    changed = [key for key, source in repository.settings_for(None).sources.items() if source != "default"]
    file = config.user_file()
    where = str(file) if file.is_file() else f"no {file}"
    return f"{where}; set: {', '.join(changed) or 'none'}"


def _completion_model() -> str:
    return _model("completion.model")


def _chat_model() -> str:
    return _model("chat.model")


def _model(key: str) -> str:
    """What the model that a setting names is; of a whole checkpoint the headers alone are read."""
    from codellama.runtime.errors import CheckpointError, InvalidRequest, UnsupportedArchitecture
    from codellama.runtime.inspection import inspect
    from codellama.runtime.locate import locate
    from codellama.serve.remote import is_remote
    from codellama_cli import repository

    try:
        settings = repository.settings_for(None)
    except InvalidRequest:
        return "not looked at, since the settings cannot be read"
    name = settings.text(key)
    if not name and key == "chat.model":
        return "none set; ask composes its answers from the repository"
    if is_remote(name):
        return f"the server at {name}, which is asked when it is needed"
    path = locate(repository.checked_model(settings, key))
    try:
        facts = inspect(path, name)
    except UnsupportedArchitecture:
        return f"{name} at {path}, which runs through transformers"
    if facts.tokenizer is None:
        raise CheckpointError(facts.notes[-1])
    return f"{name} at {path}, {facts.parameters / 1e6:,.1f} million weights"


def _server() -> str:
    from codellama.serve import daemon

    running = daemon.status()
    return f"running, process {running.pid}" if running else "not running; started on demand"


def _cache() -> str:
    from codellama_index.place import cache_folder, usages

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made ({error.strerror}): make it writable, or set XDG_CACHE_HOME."
        ) from error
    size = sum(usage.bytes for usage in usages(folder))
    free = shutil.disk_usage(folder).free
    if free < 100_000_000:
        raise OSError(f"{folder} has {free / 1e6:.0f} MB left: free some space on its disk.")
    return f"{folder}, {size / 1e6:.1f} MB of indexes, {free / 1e9:.0f} GB free"


_LOOKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "torch": _torch,
    "git": _git,
    "settings": _settings,
    "completion model": _completion_model,
    "chat model": _chat_model,
    "model server": _server,
    "index folder": _cache,
}
