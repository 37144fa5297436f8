"""Vectors of passages: made once for a content, found by likeness, kept whatever happens to an index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from index_support import git, write
from numpy.typing import NDArray

from codellama_index import Index
from codellama_index.records import Encoded, QuestionVector
from codellama_index.sync import Step

MEANINGS = {"wait": 0, "sleep": 0, "pause": 0, "colour": 1, "paint": 1, "tree": 2, "leaf": 2}


class Thesaurus:
    """An encoder of three dimensions, in which words of one meaning are the same; counts what it is given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        rows = np.full((len(texts), 3), 0.01)
        for row, text in zip(rows, texts, strict=True):
            for word, place in MEANINGS.items():
                row[place] += text.lower().count(word)
        unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def question(self, text: str, model: str = "m") -> QuestionVector:
        return QuestionVector(model, tuple(Thesaurus()([text])[0].tolist()))


@pytest.fixture
def encoder() -> Thesaurus:
    return Thesaurus()


@pytest.fixture
def garden(repository: Path, opened: Index) -> Index:
    """Three files of code of three meanings, a test and a data file."""
    write(repository, "a.py", "class Timer:\n    def sleep(self):\n        return 1\n")
    write(repository, "b.py", "def paint():\n    return 2\n")
    write(repository, "c.go", "package c\n\nfunc leaf() int { return 3 }\n")
    write(repository, "test_a.py", "def test_sleep():\n    assert sleep()\n")
    write(repository, "d.json", '{"sleep": 1}\n')
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Begin")
    opened.sync()
    return opened


def found(index: Index, vector: QuestionVector) -> list[str]:
    """What is found for a question none of whose words stand in the repository."""
    return [hit.path for hit in index.retrieve("pause zzz", 3, {"meaning": 1.0}, vector)]


def test_passages_are_found_by_meaning(garden: Index, encoder: Thesaurus) -> None:
    """The nearest passage comes first though it shares no word; tests and data are never encoded."""
    assert found(garden, encoder.question("pause")) == []
    assert garden.unencoded("m") == 3
    assert garden.encode("m", encoder) == Encoded(3, 3, len(encoder.texts))
    assert {text.split("\n")[0] for text in encoder.texts} == {"a.py", "b.py", "c.go"}
    assert "a.py\nTimer.sleep\n    def sleep(self):\n        return 1" in encoder.texts
    assert found(garden, encoder.question("pause"))[0] == "a.py"
    assert found(garden, encoder.question("a leaf"))[0] == "c.go"
    hit = garden.retrieve("pause zzz", 3, vector=encoder.question("pause"))[0]
    assert (hit.path, hit.why) == ("a.py", "meaning")
    assert found(garden, encoder.question("pause", model="another")) == []


def test_a_content_is_encoded_once(garden: Index, repository: Path, encoder: Thesaurus) -> None:
    """What is renamed, or comes back with a branch, has its vectors; what has changed gets new ones."""
    garden.encode("m", encoder)
    git(repository, "checkout", "-qb", "other")
    git(repository, "mv", "b.py", "moved.py")
    write(repository, "a.py", "def rest():\n    return 'tree'\n")
    garden.sync()
    fresh = Thesaurus()
    assert garden.encode("m", fresh).files == 1
    assert [text.split("\n")[0] for text in fresh.texts] == ["a.py"]
    assert found(garden, encoder.question("colour"))[0] == "moved.py"
    git(repository, "checkout", "-qf", "-")
    garden.sync()
    assert garden.unencoded("m") == 0
    assert found(garden, encoder.question("pause"))[0] == "a.py"


def test_it_goes_on_where_it_was_stopped(garden: Index, encoder: Thesaurus) -> None:
    """Neither cancelling nor an encoder that fails loses what was done, nor does the rest do it again."""
    asked = iter([False, True])
    assert garden.encode("m", encoder, cancelled=lambda: next(asked)).files == 1

    def failing(texts: Sequence[str]) -> NDArray[np.float32]:
        if given:
            raise RuntimeError("the server is gone")
        given.extend(texts)
        return encoder(texts)

    given: list[str] = []
    with pytest.raises(RuntimeError, match="gone"):
        garden.encode("m", failing)
    assert garden.unencoded("m") == 1
    steps: list[Step] = []
    garden.encode("m", encoder, progress=steps.append)
    assert sorted(encoder.texts) == sorted(set(encoder.texts))
    assert {text.split("\n")[0] for text in encoder.texts} == {"a.py", "b.py", "c.go"}
    assert garden.unencoded("m") == 0
    assert [(step.files, step.all_files) for step in steps] == [(1, 1)]


def test_another_model_replaces_the_first(garden: Index, encoder: Thesaurus) -> None:
    """The first one's vectors serve until all of the second one's are there."""
    garden.encode("m", encoder)
    asked = iter([False, True])
    garden.encode("n", encoder, cancelled=lambda: next(asked))
    assert garden.unencoded("m") == 0
    garden.encode("n", encoder)
    assert (garden.unencoded("m"), garden.unencoded("n")) == (3, 0)


def test_a_file_that_changes_meanwhile_waits(garden: Index, repository: Path, encoder: Thesaurus) -> None:
    """No vector is kept for a content that is not the one in the index."""
    write(repository, "a.py", "def paint_it():\n    return 2\n")
    garden.encode("m", encoder)
    assert garden.unencoded("m") == 1
    garden.sync()
    garden.encode("m", encoder)
    assert garden.unencoded("m") == 0
    assert set(found(garden, encoder.question("colour"))[:2]) == {"a.py", "b.py"}


def test_a_rebuilt_database_keeps_vectors(garden: Index, repository: Path, encoder: Thesaurus) -> None:
    """When deleted passages have made a new database due, what was encoded goes over to it."""
    garden.encode("m", encoder)
    first = garden.database
    for n in range(12):
        write(repository, "b.py", "\n".join(f"def paint{n}{m}():\n    return 2\n" for m in range(n + 1)))
        garden.sync()
    assert garden.database != first
    assert garden.unencoded("m") == 1
    assert found(garden, encoder.question("pause"))[0] == "a.py"
