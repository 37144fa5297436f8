"""The documented Neovim configuration, driven in the real Neovim against the real model.

Needs Neovim 0.12 or newer: the command that CODELLAMA_NVIM names, or `nvim` on the PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
# Read here, since the home of a test has no CODELLAMA_ variables.
COMMAND = os.environ.get("CODELLAMA_NVIM") or shutil.which("nvim")
PROBE = Path(__file__).with_name("probe.lua")

# How its last line goes on has been seen here before: of the pocket model only what is sure is shown.
TEXT = """\
import os


def read_lines(path):
    with open(path) as file:
        return file.readlines()


def count_lines(path):
    lines = read_lines(path)
    return len(lines)


def last_line(path):
    lines = read_lines(path)
    return lines[-1]


def first_line(path):
"""


def neovim() -> str:
    if not COMMAND:
        pytest.skip("no Neovim 0.12: put nvim on the PATH or its path into CODELLAMA_NVIM")
    version = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    found = re.match(r"NVIM v(\d+)\.(\d+)", version.stdout)
    if not found or (int(found[1]), int(found[2])) < (0, 12):
        pytest.skip(f"{COMMAND} is older than Neovim 0.12, which this test needs")
    return COMMAND


class Editor:
    """A headless Neovim that is typed into from outside, as a terminal would."""

    def __init__(self, command: str, home: Path, file: Path) -> None:
        self._command = command
        self._socket = str(home / "nvim.sock")
        arguments = ["--headless", "--listen", self._socket, "--cmd", f"luafile {PROBE}"]
        arguments += ["-u", str(PROJECT / "editors" / "nvim" / "init.lua"), str(file)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.process = subprocess.Popen(
            [command, *arguments],
            env={**os.environ, "PATH": path},
            cwd=file.parent,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not Path(self._socket).exists():
            assert time.monotonic() < deadline, "Neovim did not start"
            time.sleep(0.02)

    def _remote(self, how: str, what: str) -> str:
        command = [self._command, "--server", self._socket, how, what]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout

    def type(self, keys: str) -> None:
        self._remote("--remote-send", keys)

    def state(self) -> dict[str, Any]:
        state = json.loads(self._remote("--remote-expr", "luaeval('ghost.state()')"))
        assert isinstance(state, dict)
        return state

    def until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while not holds(state := self.state()):
            assert time.monotonic() < deadline, f"it did not happen in {timeout_s} s: {state}"
            time.sleep(0.05)
        return state

    def quit(self) -> None:
        self.type("<Esc>:qa!<CR>")
        self.process.wait(10)


def ghost_text(state: dict[str, Any]) -> str:
    """The suggestion as drawn: the rest of the cursor's line, then whole lines below it."""
    details = state["marks"][0][3]
    chunks = [details["virt_text"], *details.get("virt_lines", [])]
    assert all(highlight == "ComplHint" for line in chunks for _, highlight in line)
    return "\n".join("".join(text for text, _ in line) for line in chunks)


def messages(home: Path, *commands: str) -> str:
    """What a Neovim says that reads the documented lines, runs these commands and leaves."""
    arguments = ["--headless", "-u", str(PROJECT / "editors" / "nvim" / "init.lua"), *commands, "+qa!"]
    command = [neovim(), *arguments]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True, timeout=60)
    return done.stderr


def test_an_older_neovim_says_so_and_goes_on(home: Path) -> None:
    """One sentence instead of an error, and no command that could not work; the version is made up here."""
    said = messages(home, "--cmd", "lua vim.fn.has = function() return 0 end", "+echo exists(':Codellama')")
    assert "codellama needs Neovim 0.12" in said
    assert said.endswith("0")
    assert "E5108" not in said


def test_a_command_without_a_server_says_so(home: Path) -> None:
    """As in a buffer of no file type that is attached to."""
    assert "codellama is not attached" in messages(home, "+Codellama why")


@pytest.fixture
def editor(model_server: Path, tmp_path: Path) -> Iterator[Editor]:
    command = neovim()
    project = tmp_path / "project"
    project.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    file = project / "lines.py"
    file.write_text(TEXT)
    editor = Editor(command, model_server, file)
    yield editor
    if editor.process.poll() is None:
        editor.process.kill()
        editor.process.wait(10)


def test_ghost_text_appears_and_tab_accepts_it(
    editor: Editor, record_property: Callable[[str, object], None]
) -> None:
    """Typing shows a suggestion as ghost text; Tab puts that text into the buffer."""
    editor.until(lambda state: state["clients"] == 1, 10)
    editor.type("Golines = read")
    # Neovim indents the new line by itself.
    cold = editor.until(lambda state: bool(state["marks"]), 60)
    # Once more, now that the model server is up: this is what a person waits for.
    editor.type("<Esc>")
    editor.until(lambda state: not state["marks"], 10)
    editor.type("a")
    seen = editor.until(lambda state: bool(state["marks"]) and state["ms"] is not None, 30)
    ghost, typed = ghost_text(seen), seen["lines"]
    assert ghost.strip()
    assert ghost == ghost_text(cold)
    assert seen["mode"] == "i"
    assert typed == [*TEXT.splitlines(), "    lines = read"]
    record_property("ghost_text", ghost)
    record_property("milliseconds", round(seen["ms"]))
    print(f"ghost text {ghost!r} after {seen['ms']:.0f} ms, of which Neovim waits 200")

    editor.type("<Tab>")
    accepted = editor.until(lambda state: state["lines"] != typed, 10)
    assert "\n".join(accepted["lines"]) == "\n".join(typed) + ghost
    assert accepted["mode"] == "i"

    editor.type("<Esc>:Codellama why<CR>")
    shown = editor.until(lambda state: bool(state["floats"]), 10)
    assert "tokens of prompt" in "\n".join(shown["floats"][0])
    editor.quit()
    assert editor.process.returncode == 0
