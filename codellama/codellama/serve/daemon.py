"""Starts the model server on demand, finds the running one, and ends it. Free of torch.

A lock elects the one client that starts a server; `published` says where it is then, and what that offers
is offered here too: whoever uses a server needs this module alone.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codellama.runtime.errors import (
    CheckpointError,
    CodellamaError,
    InvalidRequest,
    ServerError,
    UnknownModel,
)
from codellama.serve.api import PROTOCOL
from codellama.serve.published import (
    Address,
    alive,
    find,
    outdated,
    publish,
    runtime_folder,
    withdraw,
)

__all__ = [
    "PROTOCOL",
    "Address",
    "ServeSettings",
    "ServerStatus",
    "alive",
    "command",
    "end",
    "ensure",
    "find",
    "log_file",
    "outdated",
    "publish",
    "runtime_folder",
    "status",
    "stop",
    "withdraw",
]

# A Unix socket's path holds 107 bytes on Linux and 103 on macOS.
_MAX_SOCKET_PATH = 100
_LARGEST_LOG = 4_000_000  # bytes, beyond which a new server begins a new one

# The servers that this process started: they outlive it, and are waited for here once they ended.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a server is started; a running one keeps what it was started with.

    Where `model` is a URL nothing is started, and of the others `tokenizer` (a model on this machine that has
    the same one) and `key_file` (what to authorise with) count.
    """

    model: str = "pocket"
    chat_model: str = ""  # where conversations are for another
    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "auto"
    max_context: int = 0
    quantize_cache: str = "none"
    draft_model: str = ""  # a smaller one that guesses for the model of conversations
    memory_gb: float = 0.0  # what the weights of models of every kind may take; 0: what is free
    idle_minutes: float = 15.0
    start_timeout_s: float = 90.0
    tokenizer: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `codellama serve --status` tells."""

    pid: int
    address: str
    model: str
    version: str
    token_file: str
    log_file: str


def log_file() -> Path:
    """Where servers write what happens to them."""
    import platformdirs

    folder = platformdirs.user_log_path("codellama")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(f"The log folder {folder} cannot be made ({error}): free some space.") from error
    return folder / "serve.log"


def status() -> ServerStatus | None:
    """The running server, or None."""
    address = find()
    if address is None:
        return None
    token = str(runtime_folder() / f"token-{PROTOCOL}")
    where = address.uds or address.url
    return ServerStatus(address.pid, where, address.model, address.version, token, str(log_file()))


def stop(timeout_s: float = 30.0) -> bool:
    """Ends the running server and waits until it is gone; False where there was none."""
    address = find()
    if address is None:
        return False
    end(address, timeout_s)
    return True


def end(address: Address, timeout_s: float = 30.0) -> None:
    """Ends a server and waits until it is gone; raises ServerError where it stays."""
    with suppress(ProcessLookupError):
        os.kill(address.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while alive(address.pid):
        if time.monotonic() > deadline:
            raise ServerError(f"The model server (process {address.pid}) does not end: kill that process.")
        time.sleep(0.02)


async def ensure(settings: ServeSettings) -> Address:
    """The running server's address; starts one where there is none. Raises ServerError.

    Any number of clients may call this at once: one starts the server, the others wait for it.
    """
    running = find()
    return running if running is not None else await asyncio.to_thread(_start_once, settings)


def _start_once(settings: ServeSettings) -> Address:
    from filelock import FileLock, Timeout

    try:
        with FileLock(runtime_folder() / f"start-{PROTOCOL}.lock", timeout=settings.start_timeout_s):
            running = find()
            return running if running is not None else _start(settings)
    except Timeout as error:
        raise ServerError(
            f"Another process has been starting the model server for {settings.start_timeout_s:.0f} s: "
            f"see {log_file()}."
        ) from error
    except OSError as error:
        raise ServerError(f"The model server cannot be started ({error}): free some space.") from error


def command(settings: ServeSettings) -> list[str]:
    """The command line of a server's process, without where it listens."""
    # -P: what lies in the current folder, a stranger's repository perhaps, is not imported.
    parts = [sys.executable, "-P", "-m", "codellama.serve", "--model", settings.model]
    parts += ["--device", settings.device, "--dtype", settings.dtype]
    parts += ["--quantize", settings.quantize, "--quantize-cache", settings.quantize_cache]
    parts += ["--draft-model", settings.draft_model]
    parts += ["--max-context", str(settings.max_context), "--idle-minutes", str(settings.idle_minutes)]
    parts += ["--chat-model", settings.chat_model, "--memory-gb", str(settings.memory_gb)]
    return parts


def _start(settings: ServeSettings) -> Address:
    arguments = command(settings)
    path = runtime_folder() / f"serve-{PROTOCOL}.sock"
    if hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        arguments += ["--uds", str(path)]
    _rotate(log_file())
    with log_file().open("ab") as log:
        began = log.tell()
        process = _spawn(arguments, log)
    _started[:] = [earlier for earlier in _started if earlier.poll() is None] + [process]
    deadline = time.monotonic() + settings.start_timeout_s
    while time.monotonic() < deadline:
        address = find()
        if address is not None and address.pid == process.pid:
            return address
        if process.poll() is not None:
            raise _failure(_log_since(began))
        time.sleep(0.02)
    process.terminate()
    raise ServerError(
        f"The model server did not answer within {settings.start_timeout_s:.0f} s: see {log_file()}."
    )


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process of its own session, so that closing the terminal or the editor does not end it."""
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "DETACHED_PROCESS", 0)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=runtime_folder(),  # nobody else writes there; the user's folder is not held
        start_new_session=True,
        creationflags=flags,
    )


def _failure(log: str) -> CodellamaError:
    """What the server said before it ended, as the same class of error where it is known."""
    for line in reversed(log.splitlines()):
        if line.startswith("error: "):
            message = line.removeprefix("error: ")
            unknown = message.startswith(("There is no model", "The folder"))
            refused = message.startswith(("The device", "There is no dtype", "There is no quantisation"))
            kind = UnknownModel if unknown else InvalidRequest if refused else CheckpointError
            return kind(message)
    return ServerError(f"The model server ended while starting: see {log_file()}.")


def _rotate(log: Path) -> None:
    """Keeps one earlier log; nobody writes to it any more, since no server runs."""
    with suppress(OSError):
        if log.stat().st_size > _LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))


def _log_since(place: int) -> str:
    with log_file().open("rb") as log:
        log.seek(place)
        return log.read(100_000).decode("utf-8", "replace")
