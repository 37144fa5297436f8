"""Workspace folders: indexed in the background, with progress, and found again by their files.

The model is a stand-in that tells what it was asked with (see stand_in.py); the index is real.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRESS = {"window": {"workDoneProgress": True}}


def repository(folder: Path, **files: str) -> Path:
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def workspace(*folders: Path) -> list[dict[str, str]]:
    return [{"uri": folder.as_uri(), "name": folder.name} for folder in folders]


def indexed(client: Any) -> None:
    """Wait until no folder is being indexed any more."""

    def done() -> bool:
        states = [status["state"] for status in client.params("codellama/status")]
        return "indexing" in states and states[-1] != "indexing"

    client.until(done)


def test_a_folder_is_indexed_with_progress(start: Callable[..., Any], tmp_path: Path) -> None:
    """A bar begins and ends, the status goes from indexing to ready, and completions get the index."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n", b="def beta(): ...\n")
    client = start()
    client.initialize(capabilities=PROGRESS, workspaceFolders=workspace(root))
    indexed(client)
    client.until(lambda: any(p["value"]["kind"] == "end" for p in client.params("$/progress")))
    kinds = [each["value"]["kind"] for each in client.params("$/progress")]
    assert kinds[0] == "begin"
    assert kinds[-1] == "end"
    asked = client.asked_for(client.open("x = ", (root / "a.py").as_uri()), 0, 4)
    assert asked["root"] == str(root)
    assert asked["path"] == "a.py"
    assert asked["symbols"] == ["alpha", "beta"]


def test_no_bar_where_the_client_shows_none(start: Callable[..., Any], tmp_path: Path) -> None:
    """Progress is only sent to clients that have asked for it."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n")
    client = start()
    client.initialize(workspaceFolders=workspace(root))
    indexed(client)
    assert not client.params("$/progress")
    assert not client.requests


def test_several_folders_and_strangers(start: Callable[..., Any], tmp_path: Path) -> None:
    """Each file gets its own repository's index and open buffers; files elsewhere get none."""
    one = repository(tmp_path / "one", a="def alpha(): ...\n", c="")
    two = repository(tmp_path / "two", b="def beta(): ...\n")
    client = start()
    client.initialize(workspaceFolders=workspace(one, two))
    indexed(client)
    first = client.open("x = ", (one / "a.py").as_uri())
    second = client.open("y = ", (two / "b.py").as_uri())
    client.open("z = ", (one / "c.py").as_uri())
    stranger = client.open("w = ", (tmp_path / "elsewhere.py").as_uri())
    assert client.asked_for(first, 0, 4)["open"] == ["c.py"]
    asked = client.asked_for(second, 0, 4)
    assert (asked["root"], asked["symbols"], asked["open"]) == (str(two), ["beta"], [])
    asked = client.asked_for(stranger, 0, 4)
    assert (asked["root"], asked["path"], asked["open"]) == (None, "elsewhere.py", [])


def test_excluded_and_secret_buffers_stay_here(start: Callable[..., Any], tmp_path: Path) -> None:
    """What git ignores and what holds secrets is not sent, though an editor has it open and edits it."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n", private="x = 1\n", open="y = 1\n")
    (root / ".gitignore").write_text("private.py\n")
    client = start()
    client.initialize(workspaceFolders=workspace(root))
    indexed(client)
    key = "\n" * 50 + f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n"  # far from the edit
    for name, more in (("private.py", ""), (".env", ""), ("key.py", key), ("open.py", "")):
        client.type(client.open("TOKEN = 1\n" + more, (root / name).as_uri()), 0, 0, "z")
    asked = client.asked_for(client.open("x = ", (root / "a.py").as_uri()), 0, 4)
    assert asked["open"] == ["open.py"]
    assert asked["recent"] == ["zTOKEN = 1\n"]


def test_folders_come_and_go(start: Callable[..., Any], tmp_path: Path) -> None:
    """A folder added later is indexed; a removed one is forgotten."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n")
    client = start()
    client.initialize()
    uri = client.open("x = ", (root / "a.py").as_uri())
    assert client.asked_for(uri, 0, 4)["root"] is None
    change = "workspace/didChangeWorkspaceFolders"
    client.notify(change, {"event": {"added": workspace(root), "removed": []}})
    indexed(client)
    assert client.asked_for(uri, 0, 4)["root"] == str(root)
    client.notify(change, {"event": {"added": [], "removed": workspace(root)}})
    assert client.asked_for(uri, 0, 4)["root"] is None


def test_a_saved_file_is_read_anew(start: Callable[..., Any], tmp_path: Path) -> None:
    """didSave brings the index up to date without a whole sync."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n")
    client = start()
    client.initialize(workspaceFolders=workspace(root))
    indexed(client)
    uri = client.open("", (root / "b.py").as_uri())
    (root / "b.py").write_text("def gamma(): ...\n")
    client.notify("textDocument/didSave", {"textDocument": {"uri": uri}})
    other = client.open("x = ", (root / "a.py").as_uri())
    deadline = time.monotonic() + 10
    while "gamma" not in client.asked_for(other, 0, 4)["symbols"]:
        assert time.monotonic() < deadline, "the saved file did not reach the index"
        time.sleep(0.02)


def test_a_home_folder_is_not_indexed(start: Callable[..., Any], home: Path) -> None:
    """An editor that was started at home would index everything the person has."""
    client = start()
    client.initialize(rootUri=home.as_uri())
    client.until(lambda: client.params("window/showMessage") != [])
    assert "is not indexed" in client.params("window/showMessage")[0]["message"]
    uri = client.open("x = ", (home / "a.py").as_uri())
    assert client.asked_for(uri, 0, 4)["root"] is None


def test_a_folder_that_is_gone_is_one_message(start: Callable[..., Any], tmp_path: Path) -> None:
    """The server serves on."""
    client = start()
    client.initialize(rootUri=(tmp_path / "gone").as_uri())
    client.until(lambda: client.params("window/showMessage") != [])
    assert client.asked_for(client.open("x = "), 0, 4)["root"] is None


def test_indexing_can_be_switched_off(start: Callable[..., Any], tmp_path: Path) -> None:
    """index.enabled false: nothing is read and nothing is sent along."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n")
    client = start()
    options = {"index": {"enabled": False}}
    client.initialize(workspaceFolders=workspace(root), initializationOptions=options)
    uri = client.open("x = ", (root / "a.py").as_uri())
    assert client.asked_for(uri, 0, 4)["root"] is None


def test_it_leaves_at_once_while_indexing(start: Callable[..., Any], tmp_path: Path) -> None:
    """A big folder does not hold up the end."""
    big = {f"m{n}": "def f(x):\n    return x\n" * 2000 for n in range(60)}
    root = repository(tmp_path / "big", **big)
    client = start()
    client.initialize(workspaceFolders=workspace(root))
    client.until(lambda: any(s["state"] == "indexing" for s in client.params("codellama/status")))
    began = time.monotonic()
    assert client.leave() == 0
    assert time.monotonic() - began < 4


def test_indexing_can_be_cancelled(start: Callable[..., Any], tmp_path: Path) -> None:
    """Cancelling the progress bar ends it early; what was read by then stays, and all goes on."""
    root = repository(tmp_path / "big", **{f"m{n}": f"def f{n}(): ...\n" for n in range(600)})
    client = start()
    client.initialize(capabilities=PROGRESS, workspaceFolders=workspace(root))
    client.until(lambda: client.params("$/progress") != [])
    (begin,) = client.params("$/progress")
    assert begin["value"]["cancellable"] is True
    client.notify("window/workDoneProgress/cancel", {"token": begin["token"]})
    indexed(client)
    asked = client.asked_for(client.open("x = ", (root / "m0.py").as_uri()), 0, 4)
    assert asked["root"] == str(root)
    assert len(asked["symbols"]) < 600


def test_a_file_is_found_through_a_link(start: Callable[..., Any], tmp_path: Path) -> None:
    """An editor may name the same file by another path than the index does."""
    root = repository(tmp_path / "one", a="def alpha(): ...\n")
    (tmp_path / "link").symlink_to(root)
    client = start()
    client.initialize(workspaceFolders=workspace(tmp_path / "link"))
    indexed(client)
    for folder in (root, tmp_path / "link"):
        uri = client.open("x = ", (folder / "a.py").as_uri())
        assert client.asked_for(uri, 0, 4)["path"] == "a.py"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_server_leaves_no_process_behind(start: Callable[..., Any], tmp_path: Path) -> None:
    """The indexing's worker processes end with it, within 5 s."""
    root = repository(tmp_path / "big", **{f"m{n}": f"def f{n}(x): ...\n" * 500 for n in range(600)})
    client = start()
    client.initialize(workspaceFolders=workspace(root))
    deadline = time.monotonic() + 20
    while len(workers := children(client.process.pid)) < 2:
        assert time.monotonic() < deadline, "no worker process was started"
        time.sleep(0.01)
    client.process.kill()
    client.process.wait()
    deadline = time.monotonic() + 5
    while left := [pid for pid in workers if parent_of(pid) is not None]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [number for number in numbers if parent_of(number) == pid]


def parent_of(pid: int) -> int | None:
    """A process's parent; None where it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])
