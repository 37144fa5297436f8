"""Small real repositories for the index's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from index_support import facts, git

from codellama_index import Index, open_index


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty git repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


@pytest.fixture
def opened(repository: Path, tmp_path: Path) -> Iterator[Index]:
    """The repository's index, in a cache folder of this test."""
    with open_index(repository, tmp_path / "cache") as index:
        yield index


@pytest.fixture
def cold(repository: Path, tmp_path: Path) -> Callable[[], dict[str, object]]:
    """What a fresh index of the repository as it is now says, to compare with."""
    count = 0

    def build() -> dict[str, object]:
        nonlocal count
        count += 1
        with open_index(repository, tmp_path / f"cold{count}") as index:
            index.sync()
            return facts(index)

    return build
