"""The watcher: what changes on disk is soon in the index, whatever way it changed; one process watches."""

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from index_support import git, write

from codellama_index import Index, open_index
from codellama_index.watch import Watcher


@pytest.fixture
def watched(repository: Path, opened: Index) -> Iterator[Watcher]:
    """A repository with a file and a commit, indexed and watched."""
    write(repository, "first.py", "def first():\n    pass\n")
    write(repository, ".gitignore", "ignored/\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    watcher = Watcher(opened, pytest.fail)
    watcher.start()
    assert watcher.elected.wait(30)
    yield watcher
    watcher.close()


def until(done: Callable[[], bool]) -> None:
    """Waits for it; a busy machine is no failure."""
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def test_changes_are_seen(repository: Path, opened: Index, watched: Watcher) -> None:
    """Writing, renaming, deleting, a new folder and what is put into it later: all reach the index."""

    def names() -> set[str]:
        return {symbol.name for symbol in opened.symbols()}

    write(repository, "first.py", "def changed():\n    pass\n")
    until(lambda: names() == {"changed"})
    (repository / "empty").mkdir()
    (repository / "first.py").rename(repository / "second.py")
    until(lambda: [s.path for s in opened.symbols()] == ["second.py"])
    write(repository, "empty/later.py", "def later():\n    pass\n")
    until(lambda: names() == {"changed", "later"})
    write(repository, "deep/er/still.py", "def still():\n    pass\n")
    until(lambda: "still" in names())
    write(repository, "deep/er/again.py", "def again():\n    pass\n")
    until(lambda: "again" in names())
    write(repository, "ignored/x.py", "def hidden():\n    pass\n")
    shutil.rmtree(repository / "deep")
    (repository / "second.py").unlink()
    until(lambda: names() == {"later"})
    write(repository, ".codellamaignore", "empty/\n")
    until(lambda: names() == set())


def test_a_checkout_is_seen(repository: Path, opened: Index, watched: Watcher) -> None:
    """HEAD moves: the index follows, with no event from the files needed."""
    git(repository, "checkout", "-qb", "other")
    for n in range(30):
        write(repository, f"more/m{n}.py", f"def more{n}():\n    pass\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "two")
    until(lambda: len(opened.symbols()) == 31)
    git(repository, "checkout", "-q", "-")
    until(lambda: len(opened.symbols()) == 1)
    git(repository, "checkout", "-q", "other")
    until(lambda: len(opened.symbols()) == 31)


class Silent:
    """A source that never tells; its first folders are remembered, `error` is raised on watching."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.tell: Callable[[Path | None], None] = lambda path: None
        self.folders: list[Path] = []

    def __call__(self, tell: Callable[[Path | None], None]) -> "Silent":
        self.tell = tell
        return self

    def watch(self, wanted: object) -> set[Path]:
        assert isinstance(wanted, list)
        self.folders = wanted
        if self.error is not None:
            raise self.error
        return set()

    def close(self) -> None:
        pass


def test_lost_events_are_made_good(repository: Path, opened: Index) -> None:
    """An overflow, and the timer, look through the whole tree; only folders with files are watched."""
    write(repository, "a/first.py")
    write(repository, ".gitignore", "node/\n")
    write(repository, "node/x.py")
    source = Silent()
    watcher = Watcher(opened, pytest.fail, every_s=3600, source=source)
    watcher.start()
    assert watcher.elected.wait(30)
    until(lambda: len(source.folders) == 3)
    assert {folder.name for folder in source.folders} == {repository.name, "a", ".git"}
    write(repository, "b/lost.py")
    source.tell(None)
    until(lambda: len(opened.symbols()) == 2)
    watcher.close()
    timed = Watcher(opened, pytest.fail, every_s=0.1, source=Silent())
    timed.start()
    assert timed.elected.wait(30)
    write(repository, "c/lost.py")
    until(lambda: len(opened.symbols()) == 3)
    timed.close()


def test_without_watches_a_timer_does(repository: Path, opened: Index) -> None:
    """The system's limit of watches is told in a sentence, and changes are found all the same."""
    write(repository, "first.py")
    said: list[str] = []
    source = Silent(OSError(errno.ENOSPC, "inotify watch limit reached"))
    watcher = Watcher(opened, said.append, every_s=0.1, source=source)
    watcher.start()
    assert watcher.elected.wait(30)
    write(repository, "second.py")
    until(lambda: len(opened.symbols()) == 2)
    watcher.close()
    assert len(said) == 1
    assert "max_user_watches" in said[0]


def test_one_watches_and_another_follows(repository: Path, opened: Index, tmp_path: Path) -> None:
    """The second watcher waits until the first has left, and both processes' readers see every change."""
    write(repository, "first.py", "def first():\n    pass\n")
    with open_index(repository, tmp_path / "cache") as other:
        one, two = Watcher(opened, pytest.fail), Watcher(other, pytest.fail, elect_s=0.05)
        one.start()
        assert one.elected.wait(30)
        two.start()
        assert not two.elected.wait(0.3)
        write(repository, "second.py", "def second():\n    pass\n")
        until(lambda: len(other.symbols()) == 2)
        one.close()
        assert two.elected.wait(30)
        write(repository, "third.py", "def third():\n    pass\n")
        until(lambda: len(opened.symbols()) == 3)
        two.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("watch ")]
