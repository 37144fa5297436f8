"""The command at a terminal: what its width does to an answer, what Ctrl-C ends, what it goes on after."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama.serve import daemon

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals here", allow_module_level=True)

import fcntl
import pty
import struct
import termios

LONG = "    return {'first_long_name': width, 'second_long_name': width, 'third_long_name': width}"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\]8;;.*?\x1b\\\\")


@pytest.fixture
def project(home: Path) -> Iterator[Path]:
    """A repository of one file; a server that was started for it is stopped."""
    folder = home / "project"
    folder.mkdir()
    (folder / "table.py").write_text(f"def measure_table(width):\n{LONG}\n\n\nmeasure_table(3)\n")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    yield folder
    daemon.stop()


class Terminal:
    """A command at a terminal of so many columns; `text` is what it has shown."""

    def __init__(self, *arguments: str, cwd: Path, columns: int = 80) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""
        self._master = master
        self._process = subprocess.Popen(
            [str(Path(sys.executable).with_name("codellama")), *arguments],
            **{"stdin": slave, "stdout": slave, "stderr": slave, "cwd": cwd},
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
        )
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does, where the terminal is the session's own."""
        self._process.send_signal(signal.SIGINT)

    def until(self, words: str) -> None:
        """Reads until the words have come once more."""
        seen = self.text.count(words)
        deadline = time.monotonic() + 60
        while self.text.count(words) == seen:
            assert self._read(deadline), f"no {words!r} in {self.text!r}"

    def end(self) -> int:
        """Reads to its end; the exit code."""
        deadline = time.monotonic() + 60
        while self._read(deadline):
            pass
        code = self._process.wait(timeout=60)
        os.close(self._master)
        return code

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        try:
            piece = os.read(self._master, 65536) if ready else b""
        except OSError:  # its end, as Linux tells it
            piece = b""
        self.text += ESCAPE.sub("", piece.decode("utf-8", "replace")).replace("\r", "")
        return bool(piece)


def test_quoted_lines_are_whole(project: Path) -> None:
    """A terminal that is narrower than the code folds it: nothing of a quote is cut."""
    terminal = Terminal("ask", "where is measure_table defined?", cwd=project, columns=40)
    assert terminal.end() == 0, terminal.text
    shown = re.sub(r"\s", "", terminal.text)
    assert re.sub(r"\s", "", LONG) in shown


def test_a_start_is_told_of(project: Path) -> None:
    """Whoever waits for the start of the model server is told what is waited for; nobody else is."""
    for told in (True, False):
        terminal = Terminal("complete", "table.py:1:5", cwd=project)
        assert terminal.end() == 0, terminal.text
        assert ("starting the model server" in terminal.text) == told


def test_control_c_leaves_a_chat(project: Path) -> None:
    """At its prompt, at once; what is empty is no end."""
    terminal = Terminal("ask", "--chat", cwd=project)
    terminal.until("> ")
    terminal.type("\r")
    terminal.until("> ")
    terminal.type("where is measure_table defined?\r")
    terminal.until("table.py:1-2")
    terminal.until("> ")
    terminal.interrupt()
    assert terminal.end() == 130
    assert "Traceback" not in terminal.text
