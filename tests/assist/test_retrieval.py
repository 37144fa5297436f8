"""Measuring retrieval: tasks that do not give their answers away, and figures that are what they say."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama.assist.retrieval import Bm25, Measured, evaluate_retrieval
from codellama.assist.retrieval_tasks import commits, docstrings, struck, without_documentation
from codellama.runtime.errors import InvalidRequest
from codellama_index import Index, open_index
from codellama_index.extract import extract

FILES = {
    "retry.py": '"""Retries."""\n\n\ndef retry_delay(attempt):\n'
    '    """Seconds to wait before the next attempt."""\n    return min(60.0, 0.5 * 2**attempt)\n',
    "client.go": "package c\n\n// Fetch gets the page behind an address.\n"
    "func Fetch(url string) string { return url }\n",
    "test_retry.py": 'def test_delay():\n    """The delay doubles with each further attempt."""\n'
    "    assert True\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Index]:
    """FILES with a history of three commits, indexed."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    for name, text in FILES.items():
        (root / name).write_text(text)
    commit(root, "Begin with a client and its retries")
    (root / "retry.py").write_text(FILES["retry.py"].replace("60.0", "30.0"))
    commit(
        root,
        "Wait half a minute at most between attempts to reach the server again, see retry.py (#12)\n\n"
        "Signed-off-by: somebody",
    )
    (root / "client.go").write_text(FILES["client.go"] + "\n")
    commit(root, "Tidy up")
    with open_index(root, cache_dir=tmp_path / "cache") as index:
        index.sync()
        yield index


def git(root: Path, *arguments: str) -> None:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def test_docstrings_ask_for_their_functions(project: Index, tmp_path: Path) -> None:
    """The copy says nothing of what is asked; tests are not asked for; the project is not touched."""
    before = {path: project.read(path) for path in project.sources()}
    task = docstrings(project, tmp_path / "copy", 10, seed=0)
    assert {question.text: set(question.answers) for question in task.questions} == {
        "Seconds to wait before the next attempt.": {"retry.py:.retry_delay"},
        "Fetch gets the page behind an address.": {"client.go:.Fetch"},
    }
    copied = {path: (tmp_path / "copy" / path).read_text() for path in FILES}
    assert not [
        text for text in copied.values() if "Seconds" in text or "behind" in text or "doubles" in text
    ]
    assert {path: project.read(path) for path in project.sources()} == before
    lines = {path: text.count("\n") for path, text in copied.items()}
    assert lines == {path: text.count("\n") for path, text in before.items()}


@pytest.mark.parametrize(
    ("path", "text", "left"),
    [
        ("a.py", 'class A:\n    """Of two\n    lines."""\n    x = 1\n', "class A:\n    ...\n\n    x = 1\n"),
        ("a.py", 'def f(): """One line."""\n', 'def f(): """One line."""\n'),
        ("a.py", "def f(:\n", "def f(:\n"),
        ("a.rs", "/// Says it.\n#[inline]\nfn f() {}\n", "\n#[inline]\nfn f() {}\n"),
        ("a.js", "/**\n * Says it.\n */\nfunction f() {}\n", "\n\n\nfunction f() {}\n"),
    ],
)
def test_documentation_is_removed(path: str, text: str, left: str) -> None:
    """Docstrings and comments above definitions go, lines keep their numbers, broken code stays."""
    assert without_documentation(path, text, extract(path, text).symbols) == left


def test_commits_ask_for_their_files(project: Index, tmp_path: Path) -> None:
    """Of the tree before them all; short messages ask nothing; file names and trailers are struck."""
    task = commits(project.root, tmp_path / "tree", back=2, count=10, seed=0)
    (question,) = task.questions
    assert question.answers == {"retry.py"}
    assert question.text.startswith("Wait half a minute")
    assert not [word for word in ("retry.py", "#12", "Signed") if word in question.text]
    assert (task.root / "retry.py").read_text() == FILES["retry.py"]
    status = subprocess.run(
        ["git", "-C", str(project.root), "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("Mend src/app/main.py and util.go, see https://x.y/1", "Mend   and  , see"),
        ("Use a.b.c in x/y (#77)\nCo-authored-by: me", "Use   in"),
        ("Revert 0123456789abcdef: it broke e.g. this", "Revert  : it broke e.g. this"),
    ],
)
def test_what_is_struck(message: str, left: str) -> None:
    """Names of files and modules, numbers, hashes, addresses, trailers."""
    assert struck(message) == left


def test_no_such_history(project: Index, tmp_path: Path) -> None:
    """Too few commits are a sentence, not a crash."""
    with pytest.raises(InvalidRequest, match="fewer than 99 commits"):
        commits(project.root, tmp_path / "tree", back=99, count=1, seed=0)


def test_the_report(project: Index) -> None:
    """Recall, margins and times of both tasks, for JSON."""
    results = evaluate_retrieval(project, questions=10, back=2)
    assert results.keys() == {"docstrings", "commits"}
    assert "without wording" in results["docstrings"]["recall"]
    assert "without folder" in results["commits"]["recall"]
    for result in results.values():
        assert result["recall"]["ours"]["10"] == 1.0
        assert {"bm25 chunks", "bm25 files"} <= result["recall"].keys()
        margin = result["margin"]["bm25 chunks"]
        assert margin["low"] <= margin["mean"] <= margin["high"]


def test_recall_is_the_mean_of_the_shares() -> None:
    """Half of two answers found, and all of one, are three quarters."""
    assert Measured({5: (0.5, 1.0)}, (0.0, 0.0)).recall(5) == 0.75


def test_bm25_ranks_rare_words_and_short_documents_first() -> None:
    """The comparison is a real BM25: rarity, length, several documents under one key."""
    plain = Bm25(frozenset({"delay", "retri", "wait"}))
    plain.add("long.py", "retries " + "filler " * 50)
    plain.add("short.py", "retries filler")
    plain.add("rare.py", "delay filler")
    plain.add("short.py", "nothing")
    assert plain.rank("retries")[:2] == ["short.py", "long.py"]
    assert plain.rank("delay of retries")[0] == "rare.py"
    assert plain.rank("unknown") == []
