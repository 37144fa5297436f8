"""Starts the model server on demand, finds the running one, and ends it. Free of torch.

A server in use is described by two files of mode 0600 in the user's runtime folder: `serve-1.json` (where
it listens, its process) and `token-1`. The number is the protocol's, so that clients and servers of
different releases never meet. A lock elects the one client that starts a server.
"""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import codellama
from codellama.runtime.errors import (
    CheckpointError,
    CodellamaError,
    InvalidRequest,
    ServerError,
    UnknownModel,
)
from codellama.serve.api import PROTOCOL

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
    memory_gb: float = 0.0  # what the weights of all models may take; 0: what is free
    idle_minutes: float = 15.0
    start_timeout_s: float = 90.0
    tokenizer: str = ""
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the token it asks for."""

    uds: str
    host: str
    port: int
    token: str
    pid: int
    model: str
    version: str = ""
    foreground: bool = False  # somebody started it and keeps it, for a team perhaps

    @property
    def url(self) -> str:
        """The base URL; the host part of a Unix socket's is only a name."""
        return "http://localhost" if self.uds else f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `codellama serve --status` tells."""

    pid: int
    address: str
    model: str
    version: str
    token_file: str
    log_file: str


def runtime_folder() -> Path:
    """The folder of sockets and state files, readable by this user alone; raises ServerError."""
    import platformdirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no runtime folder, the cache's serves
        runtime = platformdirs.user_runtime_path("codellama")
    candidates = [runtime, platformdirs.user_cache_path("codellama") / "run"]
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if os.access(folder, os.W_OK) and _is_private(folder):
                return folder
        except OSError:
            continue
    raise ServerError(
        f"No folder for the model server's socket can be written ({candidates[-1]}): free some space or "
        "set XDG_RUNTIME_DIR to a folder that can be written."
    )


def log_file() -> Path:
    """Where servers write what happens to them."""
    import platformdirs

    folder = platformdirs.user_log_path("codellama")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(f"The log folder {folder} cannot be made ({error}): free some space.") from error
    return folder / "serve.log"


def find() -> Address | None:
    """The address that a server published, whose process is alive; it may still be starting."""
    address = _published(PROTOCOL)
    return address if address is not None and _runs(address) else None


def outdated() -> list[Address]:
    """Running servers of older releases: of an older protocol, or of this one and an older version.

    Only those that were started on demand.
    """
    numbers = [state.stem.removeprefix("serve-") for state in runtime_folder().glob("serve-*.json")]
    older = []
    for protocol in (int(number) for number in numbers if number.isdigit() and int(number) <= PROTOCOL):
        address = _published(protocol)
        if address is None or address.foreground:
            continue
        if (protocol < PROTOCOL or _is_older(address.version)) and _runs(address):
            older.append(address)
    return older


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
    while _alive(address.pid):
        if time.monotonic() > deadline:
            raise ServerError(f"The model server (process {address.pid}) does not end: kill that process.")
        time.sleep(0.02)


async def ensure(settings: ServeSettings) -> Address:
    """The running server's address; starts one where there is none. Raises ServerError.

    Any number of clients may call this at once: one starts the server, the others wait for it.
    """
    running = find()
    return running if running is not None else await asyncio.to_thread(_start_once, settings)


def publish(listener: socket.socket, token: str, model: str, foreground: bool = False) -> list[Path]:
    """Called by the server once it listens; returns the files to `withdraw` at its end."""
    folder = runtime_folder()
    name = listener.getsockname()
    unix = isinstance(name, str)
    host, port = ("", 0) if unix else (name[0], name[1])
    where = name if unix else "", host, port
    address = Address(*where, "", os.getpid(), model, codellama.__version__, foreground)
    state = {k: v for k, v in asdict(address).items() if k != "token"}
    files = [folder / f"token-{PROTOCOL}", folder / f"serve-{PROTOCOL}.json"]
    try:
        _write_private(files[0], token)
        _write_private(files[1], json.dumps(state))
    except OSError as error:
        raise ServerError(f"The model server's state cannot be written to {folder} ({error}).") from error
    return files + ([Path(name)] if unix else [])


def withdraw(files: list[Path]) -> None:
    """Removes the published files, unless another server has replaced them meanwhile."""
    state = files[1]
    try:
        ours = json.loads(state.read_text(encoding="utf-8"))["pid"] == os.getpid()
    except (OSError, ValueError, KeyError):
        ours = False
    for file in files if ours else ():
        file.unlink(missing_ok=True)


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


def _published(protocol: int) -> Address | None:
    """What a server of that protocol has published, be it gone or not."""
    folder = runtime_folder()
    try:
        state = json.loads((folder / f"serve-{protocol}.json").read_text(encoding="utf-8"))
        token = os.environ.get("CODELLAMA_TOKEN") or (folder / f"token-{protocol}").read_text("utf-8")
        version = str(state.get("version", ""))
        where = state["uds"], state["host"], state["port"]
        foreground = bool(state.get("foreground"))
        return Address(*where, token.strip(), state["pid"], state["model"], version, foreground)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _runs(address: Address) -> bool:
    return _alive(address.pid) and _connects(address)


def _is_older(version: str) -> bool:
    return _numbers(version) < _numbers(codellama.__version__)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def _is_private(folder: Path) -> bool:
    """Ours, and closed to others: someone else could have made a folder of this name in /tmp."""
    facts = folder.stat()
    return not hasattr(os, "getuid") or (facts.st_uid == os.getuid() and not facts.st_mode & 0o077)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"  # a zombie is gone
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    except OSError:
        return False
    try:
        os.kill(pid, 0)  # macOS; on Windows the connection attempt decides
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _connects(address: Address) -> bool:
    try:
        if address.uds:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(2)
                probe.connect(address.uds)
        else:
            socket.create_connection((address.host, address.port), timeout=2).close()
    except OSError:
        return False
    return True
