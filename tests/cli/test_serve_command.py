"""`codellama serve` in the foreground: where it listens, what ends it, what it takes the place of."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama.serve import daemon

if sys.platform == "win32":
    pytest.skip("signals of another kind", allow_module_level=True)

COMMAND = [str(Path(sys.executable).with_name("codellama")), "serve"]


@pytest.fixture(autouse=True)
def ended(home: Path) -> Iterator[None]:
    """A home of its own, whose server ends with the test."""
    yield
    daemon.stop()


def serve(*arguments: str) -> subprocess.Popen[str]:
    """In a process group of its own, as a shell starts it."""
    return subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"{words!r} did not come")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--port", "99999"), 2, "65535"),
        (("--uds", "/nowhere/a.sock"), 3, "cannot listen at /nowhere/a.sock"),
    ],
)
def test_an_address_that_cannot_be_had(arguments: tuple[str, ...], code: int, words: str) -> None:
    """It is named, before the seconds in which a model is loaded."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert words in done.stderr
    assert "loading" not in done.stderr
    assert "Traceback" not in done.stderr


def test_control_c() -> None:
    """It tells where it listens, and is gone with its server."""
    process = serve()
    until(process, "listening at http://127.0.0.1:")
    address = daemon.find()
    assert address is not None
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert daemon.find() is None
    assert not daemon.alive(address.pid)


def test_control_c_while_it_starts() -> None:
    """No traceback of imports that were interrupted."""
    process = serve()
    until(process, "loading the model")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_it_takes_the_place_of_one_on_demand() -> None:
    """Nobody would find that any more: it is ended, and that is told. SIGTERM ends it with its server."""
    done = subprocess.run(
        [COMMAND[0], "infill"], input="a = <FILL_ME>", capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout
    old = daemon.find()
    assert old is not None
    process = serve()
    until(process, f"(process {old.pid}) is ended")
    until(process, "listening at")
    new = daemon.find()
    assert new is not None
    assert new.foreground
    assert not daemon.alive(old.pid)
    process.terminate()
    process.communicate(timeout=60)
    assert not daemon.alive(new.pid)
