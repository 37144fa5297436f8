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


def _model() -> str:
    from codellama.runtime.errors import CheckpointError
    from codellama.runtime.locate import locate
    from codellama.serve.remote import is_remote
    from codellama_cli import repository

    name = repository.settings_for(None).text("completion.model")
    if is_remote(name):
        return f"the server at {name}, which is asked when the first completion is"
    folder = locate(name)
    for file in ("config.json", "tokenizer.model"):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} has no {file}: install codellama again.")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{name} at {folder}, {size / 1e6:.1f} MB"


def _server() -> str:
    from codellama.serve import daemon

    running = daemon.status()
    return f"running, process {running.pid}" if running else "not running; started on demand"


def _cache() -> str:
    import platformdirs

    folder = platformdirs.user_cache_path("codellama") / "index"
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(file.stat().st_size for file in folder.glob("*.sqlite*"))
    free = shutil.disk_usage(folder).free
    if free < 100_000_000:
        raise OSError(f"{folder} has {free / 1e6:.0f} MB left: free some space on its disk.")
    return f"{folder}, {size / 1e6:.1f} MB of indexes, {free / 1e9:.0f} GB free"


_LOOKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "torch": _torch,
    "git": _git,
    "completion model": _model,
    "model server": _server,
    "index folder": _cache,
}
