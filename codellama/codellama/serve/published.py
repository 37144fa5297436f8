"""Where the running model server is written down, so that clients find it. Free of torch.

A server in use is described by two files of mode 0600 in the user's runtime folder: `serve-1.json` (where
it listens, its process) and `token-1`. The number is the protocol's, so that clients and servers of
different releases never meet. Nothing is started or ended here.
"""

import json
import os
import re
import socket
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import codellama
from codellama.runtime.errors import ServerError
from codellama.serve.api import PROTOCOL


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
    return alive(address.pid) and _connects(address)


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


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
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
