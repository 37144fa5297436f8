"""A server that a team shares: keys, names it answers to, models it gives, hard input from the network."""

import asyncio
import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from codellama.serve import connections, security

ANNA, BEN = "anna-key-0123456789", "ben-key-0123456789"
HEAD = f"POST /infill HTTP/1.1\r\nHost: gpu.example\r\nAuthorization: Bearer {ANNA}\r\n"


@dataclass(frozen=True)
class Team:
    """The process, its port, its own token and its log."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    log: Path

    def http(self, key: str = ANNA, host: str = "gpu.example") -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}", "Host": host}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., None]) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("team")
    (home / "run").mkdir(mode=0o700)
    keys = home / "keys"
    keys.write_text(f"anna {ANNA}\nben {BEN}\n")
    keys.chmod(0o600)
    command = [sys.executable, "-m", "codellama.serve", "--device", "cpu", "--host", "127.0.0.1"]
    command += ["--keys", str(keys), "--allow-host", "gpu.example"]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(home / "run"), "HOME": str(home)}
    environment.pop("CODELLAMA_TOKEN", None)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    folder = home / "run" / "codellama"
    states = folder.glob
    try:
        until(lambda: list(states("serve-*.json")) or process.poll() is not None, 60)
        assert process.poll() is None, (home / "log").read_text()
        (state,) = states("serve-*.json")
        (token,) = states("token-*")
        yield Team(process, json.loads(state.read_text())["port"], token.read_text(), home / "log")
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def until(wait_until: Callable[..., None]) -> Callable[..., None]:
    return wait_until


def infill(http: httpx.Client, **more: object) -> httpx.Response:
    return http.post("/infill", json={"input_prefix": "import ", "n_predict": 2} | more)


def test_each_client_has_a_key_of_its_own(team: Team) -> None:
    """Metrics and log tell who asked, and no key stands in them."""
    for key in (ANNA, BEN, team.token):
        with team.http(key) as http:
            assert infill(http).status_code == 200
    with team.http("nobody") as http:
        assert infill(http).status_code == 401
    with team.http(team.token) as http:
        metrics = http.get("/metrics").text
    for name in ("anna", "ben", "owner"):
        assert f'client="{name}",outcome=' in metrics
    log = team.log.read_text()
    assert "anna /infill" in log
    assert not [key for key in (ANNA, BEN, team.token) if key in log + metrics]


def test_it_answers_to_its_names_only(team: Team) -> None:
    """`--allow-host` adds a name; what stands in a web page is refused all the same."""
    for host, status in [("gpu.example", 200), ("GPU.example:443", 200), ("localhost", 200), ("evil", 403)]:
        with team.http(host=host) as http:
            assert http.get("/health").status_code == status
    with team.http() as http:
        assert http.get("/health", headers={"Origin": "https://gpu.example"}).status_code == 403


def test_a_clients_request_names_no_files(team: Team, tmp_path: Path) -> None:
    """What lies on the server's disk is not for its clients to load, nor to find out about."""
    with team.http() as http:
        for name in (str(tmp_path), "/etc", "../pocket"):
            response = infill(http, model=name)
            assert (response.status_code, response.json()["error"]["type"]) == (404, "UnknownModel")
            for route in ("/v1/embeddings", "/classify"):
                assert http.post(route, json={"model": name, "input": "a"}).status_code == 404
        assert infill(http, model="pocket").status_code == 200


def test_a_head_without_end_keeps_nobody_out(team: Team) -> None:
    """A head that never ends is cut off by its size at once; while one is slow, others are served."""
    with team.connect() as large:
        large.sendall(HEAD.encode() + b"X: " + b"a" * (2 * connections.MAX_HEAD))
        assert large.recv(100).startswith(b"HTTP/1.1 400")
    with team.connect() as slow, team.http() as http:
        slow.sendall(HEAD.encode())
        assert infill(http).status_code == 200


def test_a_body_without_end_is_refused(team: Team) -> None:
    """By a length of 1 GB at once; as chunks where it passes the limit; memory stays where it was."""
    before = team.memory()
    with team.connect() as whole:
        whole.sendall(HEAD.encode() + b"Content-Length: 1073741824\r\n\r\n" + b"a" * 1000)
        assert whole.recv(100).startswith(b"HTTP/1.1 413")
    chunk = b"100000\r\n" + b"a" * 2**20 + b"\r\n"
    with team.connect() as stream:
        stream.sendall(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            for _ in range(1024):
                stream.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    assert sent < 4 * security.MAX_BODY
    assert team.memory() - before < 4 * security.MAX_BODY
    with team.http() as http:
        assert infill(http).status_code == 200


def test_bodies_together_are_bounded(team: Team, until: Callable[..., None]) -> None:
    """Many large bodies at once: those beyond the common limit are refused, and memory is bounded."""
    before = team.memory()
    size = security.MAX_BODY - 100
    fitting = security.MAX_BODIES // security.MAX_BODY
    half = [team.connect() for _ in range(2 * fitting)]
    for connection in half:
        connection.sendall(HEAD.encode() + f"Content-Length: {size}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # it was refused while it was sent
            connection.sendall(b"a" * (size - 1))
    until(lambda: len(select.select(half, [], [], 0)[0]) >= fitting)
    assert team.memory() - before < 4 * security.MAX_BODIES
    for connection in half:
        connection.close()
    with team.http() as http:
        assert infill(http).status_code == 200


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may hold as many connections as the test below opens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_connections_keep_nobody_out(team: Team) -> None:
    """The longest idle make room, memory and descriptors are bounded, and whoever asks is answered."""
    before, most, served = team.memory(), 0, 0
    with contextlib.ExitStack() as held, team.http() as http:
        for number in range(1000):
            held.enter_context(team.connect())
            if number % 100 == 99:
                served += infill(http).status_code == 200
                most = max(most, psutil.Process(team.process.pid).num_fds())
        assert team.memory() - before < 50e6
    assert served == 10
    assert most < connections.MAX_CONNECTIONS + 100


def test_sixteen_clients_are_all_served(team: Team) -> None:
    """Sixteen editors at once, each with several requests: every one is answered, none with an error."""

    async def editor(http: httpx.AsyncClient, number: int) -> list[int]:
        statuses = []
        for turn in range(4):
            body = {
                "input_prefix": f"def f{number}(x{turn}):\n    return ",
                "n_predict": 8,
                "user": f"editor {number}",
                "session": f"doc {number}",
            }
            statuses.append((await http.post("/infill", json=body)).status_code)
        return statuses

    async def crowd() -> list[list[int]]:
        headers = {"Authorization": f"Bearer {ANNA}", "Host": "gpu.example"}
        base = f"http://127.0.0.1:{team.port}"
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as http:
            return await asyncio.gather(*(editor(http, number) for number in range(16)))

    assert asyncio.run(crowd()) == [[200] * 4] * 16
