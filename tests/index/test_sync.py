"""The store against the disk: whatever happened, it ends equal to an index made from nothing."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from index_support import facts, git, write

from codellama_index import Index, open_index
from codellama_index.errors import NotText, PathNotFound, RepositoryNotFound, StoreError

Cold = Callable[[], dict[str, object]]


def test_second_sync_parses_nothing(repository: Path, opened: Index) -> None:
    """What has not changed is not read again; what has is; one that is cut short says so."""
    write(repository, "a.py")
    write(repository, "b.go", "package b\nfunc G() {}\n")
    assert opened.sync().indexed == 2
    assert opened.sync().indexed == 0
    assert opened.sync().current
    assert not opened.sync(cancelled=lambda: True).current
    write(repository, "a.py", "def changed():\n    pass\n")
    assert opened.sync().indexed == 1
    assert [s.name for s in opened.symbols("changed")] == ["changed"]
    assert opened.symbols("f") == []


@pytest.mark.parametrize("seed", range(2))
def test_random_edits_end_as_a_cold_index(repository: Path, opened: Index, cold: Cold, seed: int) -> None:
    """Edits, renames, deletions and checkouts in any order leave nothing behind and miss nothing."""
    chance = random.Random(seed)
    write(repository, "seed.py")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "first")
    git(repository, "branch", "other")
    for step in range(15):
        files = sorted(p for p in repository.rglob("*.*") if p.is_file() and ".git" not in p.parts)
        act = chance.choice(["write", "write", "rename", "delete", "commit", "checkout"])
        name = (
            f"{chance.choice(['a', 'b/c', 'd'])}{chance.randint(0, 5)}{chance.choice(['.py', '.js', '.txt'])}"
        )
        if act == "write":
            write(repository, name, f"def f{step}():\n    return g{chance.randint(0, 3)}\n")
        elif act == "rename" and files:
            target = repository / f"moved{step}.py"
            chance.choice(files).rename(target)
        elif act == "delete" and files:
            chance.choice(files).unlink()
        elif act == "commit":
            git(repository, "add", "-A")
            git(repository, "commit", "-qm", "more", "--allow-empty")
        elif act == "checkout":
            git(repository, "add", "-A")
            git(repository, "commit", "-qm", "before", "--allow-empty")
            git(repository, "checkout", "-q", chance.choice(["other", "-"]))
        if chance.random() < 0.4:
            opened.sync()
    opened.sync()
    assert facts(opened) == cold()


def test_branch_switch_relinks(repository: Path, opened: Index) -> None:
    """Going back to a branch parses nothing: its contents are still there."""
    write(repository, "a.py")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    opened.sync()
    git(repository, "checkout", "-qb", "two")
    write(repository, "a.py", "def other():\n    pass\n")
    git(repository, "commit", "-qam", "two")
    assert opened.sync().indexed == 1
    git(repository, "checkout", "-q", "-")
    assert opened.sync().indexed == 0
    assert [s.name for s in opened.symbols()] == ["f"]


def test_what_is_left_out_has_a_reason(repository: Path, opened: Index, tmp_path: Path) -> None:
    """Ignored files are not there; secrets, binaries, links and giants are named with the reason."""
    write(repository, ".gitignore", "ignored.py\n")
    write(repository, "ignored.py")
    write(repository, ".codellamaignore", "private/\n")
    write(repository, "private/x.py")
    write(repository, ".env", "TOKEN=1\n")
    write(repository, "key.py", "-----BEGIN PRIVATE KEY-----\n" + "A" * 64 + "\n")
    write(repository, "big.py", "#" * 1_000_001)
    write(repository, "packed.js", "var a = 1;" * 3000)
    (repository / "blob.bin").write_bytes(b"\0\1\2")
    (repository / "loop").symlink_to(".")
    (repository / "out.py").symlink_to(write(tmp_path, "outside.py"))
    write(repository, "fine.py")
    report = opened.sync()
    reasons = {s.path: s.reason for s in report.skipped}
    assert reasons == {
        ".env": "secret by its name",
        "key.py": "holds a secret",
        "big.py": "larger than 1000000 bytes",
        "packed.js": "minified",
        "blob.bin": "binary",
        "loop": "symbolic link",
        "out.py": "symbolic link",
    }
    assert {s.path for s in opened.symbols()} == {"fine.py"}


def test_odd_files(repository: Path, opened: Index) -> None:
    """UTF-16 and Latin-1 content, CRLF and empty files are indexed; a name that is not UTF-8 is told."""
    (repository / os.fsdecode(b"na\xefve.py")).write_bytes(b"def latin():\n    pass\n")
    (repository / "wide.py").write_bytes("def wide():\r\n    pass\r\n".encode("utf-16"))
    (repository / "old.py").write_bytes("# é\ndef old():\n    pass\n".encode("latin-1"))
    write(repository, "empty.py", "")
    assert [(s.path, s.reason) for s in opened.sync().skipped] == [("na\\xefve.py", "name is not UTF-8")]
    assert {s.name for s in opened.symbols()} == {"wide", "old"}


def test_empty_and_missing(repository: Path, opened: Index, tmp_path: Path) -> None:
    """An empty repository is fine; a missing one, file or text is a typed error."""
    report = opened.sync()
    assert (report.files, report.symbols) == (0, 0)
    assert opened.retrieve("where is anything?") == []
    assert opened.map() == []
    with pytest.raises(RepositoryNotFound):
        open_index(tmp_path / "nowhere")
    with pytest.raises(PathNotFound):
        opened.read("nowhere.py")
    with pytest.raises(PathNotFound):
        opened.read("../outside.py")
    (repository / "b.bin").write_bytes(b"\0")
    with pytest.raises(NotText):
        opened.read("b.bin")


def test_a_folder_without_git(tmp_path: Path) -> None:
    """Where there is no git, .gitignore files are honoured all the same."""
    write(tmp_path / "plain", "keep.py")
    write(tmp_path / "plain", "sub/.gitignore", "drop.py\n")
    write(tmp_path / "plain", "sub/drop.py")
    write(tmp_path / "plain", "node_modules/x.js", "function x() {}")
    with open_index(tmp_path / "plain", tmp_path / "cache") as index:
        index.sync()
        assert {s.path for s in index.symbols()} == {"keep.py"}


def test_a_repository_that_git_does_not_open(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another owner's, as in many containers, or without git: asked in a folder of it, all is meant."""
    write(repository, ".gitignore", "drop.py\n")
    write(repository, "drop.py")
    write(repository, "keep.py")
    write(repository, "deep/inside.py")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git refuses it, as it does for another's
    with open_index(repository / "deep", tmp_path / "cache") as index:
        assert index.root == repository.resolve()
        index.sync()
        assert {s.path for s in index.symbols()} == {"keep.py", "deep/inside.py"}
    with open_index(repository / ".git", tmp_path / "cache") as index:
        assert index.root == repository.resolve()


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "foreign", "version", "empty"])
def test_a_damaged_database_is_built_anew(
    repository: Path, opened: Index, cold: Cold, tmp_path: Path, damage: str
) -> None:
    """No damage to the file stops anyone: the index is rebuilt and equals a cold one."""
    for n in range(30):
        write(repository, f"m{n}.py", f"def name{n}():\n    return name{n - 1}\n" * 20)
    opened.sync()
    opened.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{opened.database}{suffix}").unlink(missing_ok=True)
    content = bytearray(opened.database.read_bytes())
    if damage == "header":
        content[:64] = b"x" * 64
    elif damage == "middle":
        content[4096:] = os.urandom(len(content) - 4096)
    elif damage == "truncated":
        del content[len(content) // 3 :]
    elif damage == "empty":
        content.clear()
    if damage in ("foreign", "version"):
        connection = sqlite3.connect(opened.database)
        connection.execute("DROP TABLE symbol" if damage == "foreign" else "PRAGMA user_version = 99")
        connection.commit()
        connection.close()
    else:
        opened.database.write_bytes(content)
    with open_index(repository, tmp_path / "cache") as again:
        again.sync()
        assert facts(again) == cold()


def test_kill_in_the_middle(repository: Path, opened: Index, cold: Cold, tmp_path: Path) -> None:
    """kill -9 at any moment of a build leaves a sound file, and the next build completes it."""
    for n in range(120):
        write(repository, f"m{n}.py", f"def name{n}():\n    return name{n - 1}\n" * 30)
    code = (
        "import sys, pathlib; from codellama_index import open_index;"
        "open_index(sys.argv[1], pathlib.Path(sys.argv[2])).sync(lambda *_: print('.', flush=True))"
    )
    for dots in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(repository), str(tmp_path / "cache")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(dots):
            process.stdout.read(2)
        time.sleep(0.15 * (1 - dots))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    opened.sync()
    connection = sqlite3.connect(opened.database)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert facts(opened) == cold()


def test_processes_at_once(repository: Path, opened: Index, cold: Cold, tmp_path: Path) -> None:
    """Several processes build and read one index; none sees a locked database."""
    for n in range(60):
        write(repository, f"m{n}.py", f"def name{n}():\n    return name{n - 1}\n" * 10)
    code = (
        "import sys, pathlib; from codellama_index import open_index;"
        "i = open_index(sys.argv[1], pathlib.Path(sys.argv[2])); i.sync();"
        "[i.search('name') for _ in range(20)];"
        "print(len(i.symbols()))"
    )
    command = [sys.executable, "-c", code, str(repository), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert {process.communicate(timeout=300)[0].strip() for process in running} == {"600"}
    assert facts(opened) == cold()


def test_no_space_left(repository: Path, tmp_path: Path) -> None:
    """A disk that is full is one sentence, and what was there stays."""
    for n in range(40):
        write(repository, f"m{n}.py", f"def name{n}():\n    return name{n - 1}\n" * 200)
    code = (
        "import resource, signal, sys, pathlib; from codellama_index import open_index\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "from codellama_index.errors import StoreError\n"
        "try:\n    open_index(sys.argv[1], pathlib.Path(sys.argv[2])).sync()\n"
        "except StoreError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(repository), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "free some space" in done.stdout
    assert "Traceback" not in done.stderr
    with open_index(repository, tmp_path / "cache") as index:
        assert index.sync().files == 40


@pytest.mark.skipif(os.name != "posix", reason="needs a folder that cannot be written")
def test_cache_folder_that_is_a_file(repository: Path, tmp_path: Path) -> None:
    """A cache folder that cannot be made is a StoreError that says so."""
    write(tmp_path, "occupied", "")
    with pytest.raises(StoreError, match="occupied"):
        open_index(repository, tmp_path / "occupied")


def test_worktrees_share_a_database(repository: Path, opened: Index, tmp_path: Path) -> None:
    """Two worktrees of a repository use one file and see their own content."""
    write(repository, "a.py")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    git(repository, "worktree", "add", "-q", str(tmp_path / "second"))
    write(tmp_path / "second", "only.py", "def only():\n    pass\n")
    opened.sync()
    with open_index(tmp_path / "second", tmp_path / "cache") as second:
        second.sync()
        assert second.database == opened.database
        assert {s.name for s in second.symbols()} == {"f", "only"}
    assert {s.name for s in opened.symbols()} == {"f"}
    shutil.rmtree(tmp_path / "second")
