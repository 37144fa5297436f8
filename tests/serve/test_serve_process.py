"""The server's process: started on demand, found, killed, replaced, ended."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from codellama.runtime.errors import ServerError, UnknownModel
from codellama.runtime.records import CompletionRequest
from codellama.serve import daemon, published
from codellama.serve.client import ModelClient, ServeSettings

SHORT = CompletionRequest("import os\n", max_tokens=2)
LONG = CompletionRequest("def add(a, b):\n", max_tokens=500)
HUNG = 60.0
# Nothing is compiled or measured for it: what is started here is started in a home of its own each time.
PLAIN = ServeSettings(quantize="none")

START = """
import asyncio
from codellama.runtime.records import CompletionRequest
from codellama.serve import daemon
from codellama.serve.client import ModelClient, ServeSettings
PLAIN = ServeSettings(quantize='none')
async def main():
    async with ModelClient(PLAIN) as client:
        await client.complete(CompletionRequest("a", max_tokens=1))
    print(daemon.find().pid)
asyncio.run(main())
"""


def waiting(address: daemon.Address) -> int:
    with httpx.Client(transport=httpx.HTTPTransport(uds=address.uds), base_url=address.url) as http:
        text = http.get("/metrics", headers={"Authorization": f"Bearer {address.token}"}).text
    return int(float(text.rsplit("codellama_requests_in_flight ", 1)[1].split()[0]))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_many_processes_share_one_server(own_server: Path) -> None:
    """Four clients at once start one server; it is private, it is told about, and stop ends it."""
    assert daemon.status() is None
    assert daemon.stop() is False
    clients = [
        subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    pids = {client.communicate(timeout=HUNG)[0].strip() for client in clients}
    assert [client.returncode for client in clients] == [0] * 4
    status = daemon.status()
    assert status is not None
    assert pids == {str(status.pid)}
    assert mode(own_server) == 0o700
    assert psutil.Process(status.pid).cwd() == str(own_server)
    files = sorted(path.name for path in own_server.iterdir() if path.suffix != ".lock")
    assert files == ["serve-1.json", "serve-1.sock", "token-1"]
    assert {mode(own_server / name) for name in files} == {0o600}
    token = (own_server / "token-1").read_text()
    assert token not in (own_server / "serve-1.json").read_text()
    assert (status.model, status.address) == ("pocket", str(own_server / "serve-1.sock"))
    log = Path(status.log_file).read_text()
    assert "loading the model pocket" in log
    assert token not in log

    async def stop_in_the_middle() -> None:
        address = daemon.find()
        assert address is not None
        async with ModelClient(PLAIN) as client:
            pieces = client.stream(CompletionRequest("a", max_tokens=600))
            await anext(pieces)
            assert await asyncio.to_thread(daemon.stop) is True
            with pytest.raises(ServerError):
                async for _ in pieces:
                    pass

    asyncio.run(asyncio.wait_for(stop_in_the_middle(), HUNG))
    assert daemon.status() is None
    assert [path.name for path in own_server.iterdir() if path.suffix != ".lock"] == []


def test_the_current_folder_is_not_imported(tmp_path: Path) -> None:
    """A cloned repository's argparse.py is no part of the server that is started there."""
    (tmp_path / "argparse.py").write_text("raise SystemExit(99)\n")
    done = subprocess.run([*daemon.command(PLAIN), "--help"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_killed_server_is_replaced(own_server: Path) -> None:
    """kill -9 leaves its files; a request that it took goes to a fresh server, a begun stream ends typed."""

    async def scenario() -> None:
        async with ModelClient(PLAIN) as asking, ModelClient(PLAIN) as resting:
            await resting.complete(SHORT)
            first = daemon.find()
            assert first is not None
            call = asyncio.ensure_future(asking.complete(LONG))
            while not await asyncio.to_thread(waiting, first):
                assert not call.done()
                await asyncio.sleep(0.005)
            os.kill(first.pid, signal.SIGKILL)
            assert (await call).stats.tokens > 0
            second = daemon.find()
            assert second is not None
            assert (second.pid, second.token) != (first.pid, first.token)
            # This one still holds the first server's token.
            await resting.complete(SHORT)
            assert daemon.find() == second

            pieces = asking.stream(CompletionRequest("a", max_tokens=600))
            assert await anext(pieces)
            os.kill(second.pid, signal.SIGKILL)
            with pytest.raises(ServerError, match=r"serve\.log"):
                async for _ in pieces:
                    pass
            assert daemon.find() is None
            assert (own_server / "serve-1.sock").exists()

    asyncio.run(asyncio.wait_for(scenario(), HUNG))


def test_an_older_server_is_replaced_once_it_is_idle(
    own_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of a newer release leaves a server at work alone, uses it, and replaces it when it is idle."""

    async def scenario() -> None:
        async with (
            ModelClient(PLAIN) as old_client,
            ModelClient(PLAIN) as new_client,
            ModelClient(PLAIN) as newest,
        ):
            pieces = old_client.stream(CompletionRequest("a", max_tokens=600))
            await anext(pieces)
            first = daemon.find()
            assert first is not None
            monkeypatch.setattr("codellama.__version__", "9.0")
            await new_client.complete(SHORT)
            assert daemon.find() == first
            await pieces.aclose()
            while await asyncio.to_thread(waiting, first):
                await asyncio.sleep(0.01)
            await newest.complete(SHORT)
            second = daemon.find()
            assert second is not None
            assert second.pid != first.pid
            assert (own_server / "serve-1.sock").exists()
            # The server itself is of this release: what is published is what it says.
            assert second.version == first.version

    asyncio.run(asyncio.wait_for(scenario(), HUNG))


def test_an_older_protocols_server_is_ended(own_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is wanted for the new one; files of servers that are gone, or newer, are left alone."""

    async def scenario() -> None:
        async with ModelClient(PLAIN) as old_client:
            await old_client.complete(SHORT)
            old = daemon.find()
            assert old is not None
        monkeypatch.setattr(published, "PROTOCOL", 2)
        (own_server / "serve-3.json").write_text((own_server / "serve-1.json").read_text())
        (own_server / "serve-0.json").write_text("{}")
        assert [address.pid for address in daemon.outdated()] == [old.pid]
        daemon.end(old)
        assert daemon.outdated() == []
        assert (own_server / "serve-3.json").exists()

    asyncio.run(asyncio.wait_for(scenario(), HUNG))


def test_a_server_that_somebody_keeps_is_left_alone(
    own_server: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    """Clients of a newer release use what `codellama serve` runs, and never end it."""
    monkeypatch.setenv("CODELLAMA_ENGINE_QUANTIZE", "none")
    with subprocess.Popen([sys.executable, "-m", "codellama_cli", "serve"]) as keeper:
        wait_until(lambda: daemon.find() is not None or keeper.poll() is not None, HUNG)
        monkeypatch.setattr("codellama.__version__", "9.0")
        outdated = daemon.outdated()
        assert daemon.stop()
        assert keeper.wait(HUNG) == 0
    assert outdated == []


SLOW = """
import threading
from codellama.serve import __main__ as server, models
models.load_engine = lambda *_, **__: threading.Event().wait()
server._LOADING_S = 0
server.main()
"""


def test_a_server_ends_in_the_middle_of_a_load(own_server: Path, wait_until: Callable[..., None]) -> None:
    """A large model takes minutes to load: whoever ends the server does not wait for that."""
    with subprocess.Popen([sys.executable, "-c", SLOW]) as process:
        wait_until(lambda: daemon.find() is not None or process.poll() is not None, HUNG)
        try:
            assert daemon.stop(timeout_s=20)
        finally:
            process.kill()
    assert [path.name for path in own_server.iterdir() if path.suffix != ".lock"] == []


STUCK = """
import contextlib, threading
from codellama.serve import __main__ as server, models
class Classifier:
    labels = ()
    def scores(self, texts, cancelled):
        print("reads", flush=True)
        threading.Event().wait()
models.Models.classifier = lambda *_: contextlib.nullcontext(Classifier())
server.main()
"""


def test_a_server_ends_in_the_middle_of_texts(own_server: Path, wait_until: Callable[..., None]) -> None:
    """Nothing stops a classifier that reads: whoever ends the server does not wait for it."""
    command = [sys.executable, "-c", STUCK, "--quantize", "none"]
    body = b'{"model": "any", "input": "a"}'
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        wait_until(lambda: daemon.find() is not None or process.poll() is not None, HUNG)
        try:
            address = daemon.find()
            assert address is not None
            assert process.stdout is not None
            head = f"Host: localhost\r\nAuthorization: Bearer {address.token}\r\nContent-Length: {len(body)}"
            with socket.create_connection((address.host, address.port)) as asking:
                asking.sendall(f"POST /classify HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
                assert process.stdout.readline() == b"reads\n"
                assert daemon.stop(timeout_s=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert [path.name for path in own_server.iterdir() if path.suffix != ".lock"] == []


def test_an_idle_server_leaves(own_server: Path, wait_until: Callable[..., None]) -> None:
    """It ends by itself and takes its files along; what lay there before does not confuse it."""
    (own_server / "serve-1.json").write_text("{ damaged")
    (own_server / "token-1").write_text("old")
    (own_server / "serve-1.sock").write_text("not a socket")

    async def once() -> int:
        async with ModelClient(ServeSettings(quantize="none", idle_minutes=0.02)) as client:
            await client.complete(SHORT)
        address = daemon.find()
        return address.pid if address else 0

    asyncio.run(asyncio.wait_for(once(), HUNG))
    wait_until(lambda: not (own_server / "serve-1.json").exists(), 20)
    wait_until(lambda: all(path.suffix == ".lock" for path in own_server.iterdir()))
    assert daemon.find() is None
    assert "leaving" in daemon.log_file().read_text()


def test_a_long_runtime_path_means_loopback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that no Unix socket can have falls back to 127.0.0.1, with the same token; SIGTERM cleans up."""
    folder = home / ("long" * 30)
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

    async def scenario() -> None:
        async with ModelClient(PLAIN) as client:
            await client.complete(SHORT)

    try:
        asyncio.run(asyncio.wait_for(scenario(), HUNG))
        address = daemon.find()
        assert address is not None
        assert (address.uds, address.host) == ("", "127.0.0.1")
        assert httpx.get(f"{address.url}/v1/models").status_code == 401
        assert httpx.get(f"{address.url}/health").status_code == 200
    finally:
        stopped = daemon.stop()
    assert stopped
    assert [path.name for path in daemon.runtime_folder().iterdir() if path.suffix != ".lock"] == []


def test_a_server_whose_own_model_is_unknown_says_so(own_server: Path) -> None:
    """The reason reaches the client, not `the server ended`; and no server stays behind."""

    async def call() -> Any:
        async with ModelClient(ServeSettings(model="no-such-model")) as client:
            return await client.complete(SHORT)

    with pytest.raises(UnknownModel, match="no-such-model"):
        asyncio.run(asyncio.wait_for(call(), HUNG))
