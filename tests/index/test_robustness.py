"""Hard input and hard times: the index always finishes, says what it left out, and is never lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from index_support import facts, git, write

from codellama_index import Index, open_index, workers
from codellama_index import sync as syncing
from codellama_index.errors import StoreError
from codellama_index.walk import walk
from codellama_index.workers import Pool

Cold = Callable[[], dict[str, object]]


def reasons(index: Index) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in index.status().skipped}


def test_a_worker_that_hangs(repository: Path) -> None:
    """It is killed at the deadline, the file that it had is named, every other file is parsed.

    The worker is stopped by a signal, since no small input is sure to keep a parser busy for ever.
    """
    for n in range(60):
        write(repository, f"m{n}.py", f"def name{n}():\n    pass\n" * 20)
    files = list(walk(repository))
    with Pool(repository, count=1, deadline_s=5) as pool:
        results = pool.parse(files)
        done = [next(results)]
        os.kill(pool._workers[0].process.pid, signal.SIGSTOP)
        done += results
    assert sorted(item.file.path for item in done) == [file.path for file in files]
    assert [item.skip for item in done if item.skip] == ["not parsed within 5 s"]


def test_a_worker_that_dies(repository: Path) -> None:
    """What a killed worker had before it is parsed by another; no file is lost or blamed."""
    for n in range(120):
        write(repository, f"m{n}.py", f"def name{n}():\n    pass\n" * 20)
    files = list(walk(repository))
    with Pool(repository, count=2) as pool:
        results = pool.parse(files)
        done = [next(results)]
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        done += results
    assert sorted(item.file.path for item in done) == [file.path for file in files]
    assert not any(item.skip for item in done)


def test_workers_of_a_large_process_stay(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is replaced when it has grown itself, not because the process that started it is large."""
    for n in range(200):
        write(repository, f"{n}.py", "x = 1\n")
    starts: list[object] = []
    start = Pool._start
    monkeypatch.setattr(Pool, "_start", lambda pool: starts.append(pool) or start(pool))
    ballast = b"x" * 2 * workers._GROWN_BYTES
    with Pool(repository, count=1) as pool:
        assert len(list(pool.parse(walk(repository)))) == 200
    assert len(starts) == 1
    del ballast


def test_files_that_go_while_we_look(repository: Path, opened: Index, cold: Cold) -> None:
    """A file deleted between the walk and its reading is simply not there; one made meanwhile comes next."""
    for n in range(10):
        write(repository, f"m{n}.py", f"def name{n}():\n    pass\n")

    def meddle(step: syncing.Step) -> None:
        (repository / "m9.py").unlink(missing_ok=True)
        write(repository, "late.py", "def late():\n    pass\n")

    report = opened.sync(meddle)
    assert (report.files, report.skipped) == (9, ())
    opened.sync()
    assert facts(opened) == cold()


def test_giants_and_crowds(repository: Path, opened: Index) -> None:
    """A JSON of 50 MB is left out unread, a minified megabyte after a look; a crowded folder is fine."""
    with open(repository / "huge.json", "wb") as huge:
        huge.truncate(50_000_000)
    write(repository, "line.js", "a=1;" * 240_000)
    (repository / "crowd").mkdir()
    for n in range(100_000):
        with open(repository / "crowd" / f"{n}.txt", "wb") as tiny:
            tiny.write(b"word%d\n" % n)
    report = opened.sync()
    assert reasons(opened) == {"huge.json": "larger than 1000000 bytes", "line.js": "minified"}
    assert report.files == 100_002
    assert opened.search("word99999")[0].path == "crowd/99999.txt"


def test_links_are_never_followed(repository: Path, opened: Index, tmp_path: Path) -> None:
    """A loop, a link out of the tree, and a folder that git knows but that is a link now."""
    write(tmp_path, "outside/secret.py", "def secret():\n    pass\n")
    write(repository, "folder/secret.py", "def inside():\n    pass\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    opened.sync()
    shutil.rmtree(repository / "folder")
    (repository / "folder").symlink_to(tmp_path / "outside")
    (repository / "loop").symlink_to(repository)
    opened.sync()
    assert reasons(opened) == {"folder": "symbolic link", "loop": "symbolic link"}
    assert opened.symbols() == []


def test_submodules(repository: Path, tmp_path: Path, opened: Index) -> None:
    """A submodule's files are listed through its own git, or it is named; so is a strange repository."""
    for name in ("library", "stranger"):
        write(tmp_path, f"{name}/{name}.py", f"def {name}():\n    pass\n")
        write(tmp_path, f"{name}/.gitignore", "ignored.py\n")
        git(tmp_path / name, "init", "-q")
        git(tmp_path / name, "add", "-A")
        git(tmp_path / name, "commit", "-qm", "one")
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    git(repository, *add, str(tmp_path / "library"), "vendor/library")
    write(repository, "vendor/library/ignored.py")
    shutil.copytree(tmp_path / "stranger", repository / "stranger")
    opened.sync()
    assert {symbol.path for symbol in opened.symbols()} == {"vendor/library/library.py"}
    assert reasons(opened) == {"stranger": "another repository inside"}
    with open_index(repository, tmp_path / "other", submodules=False) as without:
        without.sync()
        assert set(reasons(without)) == {"stranger", "vendor/library"}


def as_owner_only(code: str, *arguments: Path) -> str:
    """Runs Python without root's right to read and write everything."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read and write everything, and there is no setpriv")
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_no_permission(repository: Path, opened: Index, tmp_path: Path) -> None:
    """An unreadable file is named; an index that cannot be written is read, and a sync says what to do."""
    write(repository, "fine.py", "def fine():\n    pass\n")
    write(repository, "closed.py").chmod(0)
    code = (
        "import sys, pathlib; from codellama_index import open_index\n"
        "from codellama_index.errors import StoreError\n"
        "index = open_index(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "try:\n    index.sync()\nexcept StoreError as error:\n    print(error)\n"
        "print([(s.path, s.reason) for s in index.status().skipped], [s.name for s in index.symbols()])\n"
    )
    cache = tmp_path / "cache"
    expected = "[('closed.py', 'unreadable: Permission denied')] ['fine']\n"
    assert as_owner_only(code, repository, cache) == expected
    opened.close()
    write(repository, "fine.py", "def changed():\n    pass\n")
    folder = opened.place.folder
    folder.chmod(0o500)
    for file in folder.iterdir():
        file.chmod(0o400)
    said = as_owner_only(code, repository, cache)
    folder.chmod(0o700)
    assert "make" in said.split("\n")[0]
    assert said.endswith(expected)


def kill_somewhere(work: Callable[[], object], within_s: float) -> None:
    """Runs `work` in a fork of this process and kills it at a moment of its own."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(within_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_hundred_kills(
    repository: Path, tmp_path: Path, cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 at 200 moments of builds: the file is sound each time, the resumed index equals a cold one."""
    import sqlite3

    monkeypatch.setattr(syncing, "_COMMIT_S", 0.0)  # a transaction a file: as many moments as there can be
    shutil.rmtree(repository / ".git")  # a folder like any other: most moments would fall while git starts
    chance = random.Random(7)
    cache = tmp_path / "cache"

    with open_index(repository, cache) as first:
        place = first.place

    def build() -> None:
        with Index(repository, place, 10**9, submodules=False) as index:  # without asking git where it is
            index.sync()

    write(repository, "m0.py")
    build()  # once for what is imported on the way
    shutil.rmtree(cache)
    began = time.monotonic()
    build()
    longest = 1.3 * (time.monotonic() - began)
    for round_ in range(200):
        if round_ % 8 == 0:
            shutil.rmtree(cache)  # a first build, else one more after a few edits
        for _ in range(3):
            name = f"m{chance.randrange(6)}.py"
            write(repository, name, f"def name{round_}():\n    return {name[:-3]}\n" * chance.randrange(1, 9))
        kill_somewhere(build, chance.uniform(0.0, longest))
        for file in cache.rglob("*.sqlite"):
            connection = sqlite3.connect(file)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.close()
        if round_ % 40 == 39:
            with open_index(repository, cache) as index:
                index.sync()
                assert facts(index) == cold()


def test_another_version_is_read_until_ours_is_built(
    repository: Path, opened: Index, tmp_path: Path, cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers go on with the old database while the new one is built beside it, killed in between or not."""
    for n in range(8):
        write(repository, f"m{n}.py", f"def name{n}():\n    pass\n")
    opened.sync()
    old = opened.database
    opened.close()
    monkeypatch.setattr("codellama_index.schema.fingerprint", lambda: "0123456789ab")
    with open_index(repository, tmp_path / "cache") as new:
        assert len(new.symbols()) == 8
        write(repository, "more.py", "def more():\n    pass\n")
        assert not new.sync(cancelled=lambda: True).complete
        assert (new.database, len(new.symbols())) == (old, 8)
        assert new.sync().complete
        assert new.database is not None
        assert new.database.name.split("-")[1] == "0123456789ab"
        assert facts(new) == cold()


def test_an_index_from_a_newer_version(repository: Path, opened: Index) -> None:
    """It is left as it is, even when ours is bounded and rebuilt; ours stands beside it, and that is told."""
    opened.place.make()
    newer = opened.place.path(99, "abcdefabcdef", 1)
    newer.write_bytes(b"from the future")
    write(repository, "a.py")
    opened.sync()
    assert newer.read_bytes() == b"from the future"
    assert len(opened.symbols()) == 1
    assert "newer" in opened.notes()[0]


def test_all_indexes_together_are_bounded(repository: Path, tmp_path: Path) -> None:
    """The one used longest ago makes room for the one that is built; none is dropped while it is written."""
    cache = tmp_path / "cache"
    sizes = []
    for n, name in enumerate(("first", "second", "third")):
        write(tmp_path, f"{name}/m.py", "def f():\n    return g\n" * 2000)
        with open_index(tmp_path / name, cache) as index:
            index.sync()
            sizes.append(index.place.usage().bytes)
            assert index.database is not None
            os.utime(index.database, (1000 + n, 1000 + n))
    write(repository, "m.py", "def f():\n    return g\n" * 2000)
    with open_index(repository, cache, max_bytes=int(2.5 * sizes[0])) as index:
        index.sync()
        assert len(index.symbols()) == 2000
    left = {folder.name.partition("-")[0] for folder in cache.iterdir() if list(folder.glob("*.sqlite"))}
    assert left == {"repository", "third"}


def test_an_index_deleted_under_our_hands(
    repository: Path, opened: Index, tmp_path: Path, cold: Cold
) -> None:
    """Another process drops it: the next sync builds it again."""
    write(repository, "a.py")
    opened.sync()
    with open_index(repository, tmp_path / "cache") as other:
        assert other.drop() > 0
    opened.sync()
    assert facts(opened) == cold()


def test_garbage_is_swept(repository: Path, opened: Index, cold: Cold) -> None:
    """Contents that nobody has any more do not pile up: the database is made anew once they prevail."""
    for n in range(3):
        write(repository, f"m{n}.py", f"def stays{n}():\n    pass\n")
    for n in range(30):
        write(repository, "m.py", f"def version{n}():\n    pass\n" * 20)
        opened.sync()
    assert opened._writer.store.garbage() <= 0.7
    assert facts(opened) == cold()


def test_interrupted_by_hand(repository: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a build with one line, no worker stays, and what was done is kept."""
    for n in range(400):
        write(repository, f"m{n}.py", f"def name{n}():\n    return name{n - 1}\n" * 100)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "codellama_cli", "index", "build", str(repository)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "xdg").rglob("*.sqlite")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) in [(130, "interrupted"), (0, "")]
    with open_index(repository, tmp_path / "xdg" / "codellama" / "index") as index:
        assert index.sync().symbols == 400 * 100


def test_a_database_that_is_not_ours_to_read(repository: Path, opened: Index) -> None:
    """Damage that comes back again and again ends in a sentence, not in a circle."""
    write(repository, "a.py")
    opened.sync()
    with pytest.raises(StoreError, match="drop"):
        opened._reading(_damaged)


def _damaged() -> None:
    from codellama_index.database import Damaged

    raise Damaged("always")
