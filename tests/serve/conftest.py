"""One real model server for the tests of this folder, and raw HTTP to it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from codellama.serve import daemon


@dataclass(frozen=True)
class Served:
    """A server's process and how to reach it without the client under test."""

    home: Path
    pid: int
    uds: str
    token: str

    def http(self, *, token: str | None = None) -> httpx.Client:
        """A raw client; `token=""` sends none."""
        secret = self.token if token is None else token
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=self.uds),
            base_url="http://localhost",
            headers={"Authorization": f"Bearer {secret}"} if secret else {},
            timeout=60,
        )

    def metric(self, name: str) -> int:
        """The sum of a metric's series, whatever their labels."""
        with self.http() as http:
            lines = http.get("/metrics").text.splitlines()
        series = re.compile(rf"codellama_{name}(\{{.*\}})? (\S+)")
        return int(sum(float(found[2]) for line in lines if (found := series.fullmatch(line))))


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for `condition`; fails the test where it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    return until


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("s")
    run = home / "run"
    run.mkdir(mode=0o700)
    folder = run / "codellama"
    folder.mkdir(mode=0o700)
    uds = folder / f"serve-{daemon.PROTOCOL}.sock"
    state = folder / f"serve-{daemon.PROTOCOL}.json"
    command = [sys.executable, "-m", "codellama.serve", "--uds", str(uds), "--device", "cpu"]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(run), "HOME": str(home)}
    environment.pop("CODELLAMA_TOKEN", None)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: state.exists() or process.poll() is not None, 60)
        assert process.poll() is None, (home / "log").read_text()
        token = (folder / f"token-{daemon.PROTOCOL}").read_text()
        assert json.loads(state.read_text())["pid"] == process.pid
        yield Served(home, process.pid, str(uds), token)
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def served(_server: Served, home: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The shared server; a `ModelClient` of this test finds it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(_server.home / "run"))
    return _server


@pytest.fixture
def own_server(home: Path) -> Iterator[Path]:
    """A home in which the test starts servers of its own, which end with it; gives the runtime folder."""
    yield daemon.runtime_folder()
    if (address := daemon.find()) is not None:
        os.kill(address.pid, signal.SIGKILL)
