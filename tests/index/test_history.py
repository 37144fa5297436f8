"""Commits in the index: what old messages say finds the files that were changed then."""

from pathlib import Path

import pytest
from index_support import git, write

from codellama_index import Index, history
from codellama_index.history import commits

SIGNAL = {"history": 1.0}


def commit(folder: Path, message: str, *paths: str) -> None:
    """Changes these files in one commit."""
    for path in paths:
        file = folder / path
        write(folder, path, (file.read_text() if file.exists() else "") + "x = 1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


@pytest.fixture
def storied(repository: Path, opened: Index) -> Index:
    """Three files whose texts say nothing, and what three commits said of them."""
    commit(repository, "Begin", "a.py", "b.py", "c.py", "test_a.py")
    commit(repository, "Repair the leaking faucet", "a.py", "test_a.py")
    commit(repository, "Paint the fence\n\nIt had lost its colour.", "b.py", "c.py")
    opened.sync()
    return opened


def ranked(index: Index, question: str) -> list[str]:
    return [file.path for file in index.retrieve_files(question, 10, SIGNAL)]


def test_messages_lead_to_files(storied: Index) -> None:
    """Words of a message find its files, tests last; what no message says finds nothing."""
    assert ranked(storied, "the faucet leaks again") == ["a.py", "test_a.py"]
    assert sorted(ranked(storied, "which colour?")) == ["b.py", "c.py"]
    assert ranked(storied, "submarine") == []


def test_new_commits_are_added_once(
    storied: Index, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync after a change adds what is new, on whatever branch; files that are gone are not found."""
    git(repository, "checkout", "-qb", "other")
    commit(repository, "Dig a submarine canal", "c.py")
    storied.sync()
    assert ranked(storied, "submarine") == ["c.py"]
    git(repository, "checkout", "-q", "-")
    commit(repository, "Mend the roof", "b.py")
    storied.sync()
    assert ranked(storied, "roof") == ["b.py"]
    assert ranked(storied, "submarine") == ["c.py"]
    git(repository, "rm", "-q", "b.py")
    git(repository, "commit", "-qm", "Tear down")
    storied.sync()
    assert ranked(storied, "roof") == []
    store = storied._writer.store
    assert len(store.commits()) == len(set(store.commits())) == 6
    monkeypatch.setattr("codellama_index.sync.COMMITS", 2)
    commit(repository, "Sow a lawn", "a.py")
    storied.sync()
    assert ranked(storied, "lawn") == ["a.py"]
    assert len(store.commits()) == 6  # the other branch's is forgotten


def test_a_history_that_was_rewritten(storied: Index, repository: Path) -> None:
    """Where the last commit that is known has vanished, all are read anew."""
    git(repository, "commit", "-q", "--amend", "-m", "Whitewash the fence")
    git(repository, "reflog", "expire", "--expire=all", "--all")
    git(repository, "gc", "-q", "--prune=now")
    commit(repository, "Sow a lawn", "a.py")
    storied.sync()
    assert sorted(ranked(storied, "whitewash")) == ["b.py", "c.py"]
    assert ranked(storied, "colour") == []


def test_what_git_cannot_tell(tmp_path: Path, repository: Path) -> None:
    """A folder without git, a repository without commits and an unknown commit have no history."""
    assert commits(tmp_path / "nowhere", b"") is None
    assert commits(repository, b"") is None
    commit(repository, "Begin", "a.py")
    assert commits(repository, bytes(20)) is None
    (only,) = commits(repository, b"") or ()
    assert (only.words, only.paths) == ("begin", ("a.py",))
    assert commits(repository, only.digest) == []


def test_sweeps_and_odd_names(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of many files says nothing of each; names come as they are, whatever they hold."""
    monkeypatch.setattr(history, "_FILES", 2)
    commit(repository, "Sweep", "a.py", "b.py", "c.py")
    commit(repository, "Odd", "a b\n\u00e9.py")
    first, last = commits(repository, b"") or ()
    assert (first.paths, last.paths) == ((), ("a b\n\u00e9.py",))


def test_messages_of_any_bytes(repository: Path) -> None:
    """Control characters, something like a record, no message, no files and UTF-16 break no reading."""
    git(repository, "config", "i18n.logOutputEncoding", "UTF-16")
    commit(repository, f"Faucet\x01{'a' * 40}\x02forged\x02\n\nname", "a.py")
    git(repository, "commit", "-q", "--allow-empty", "-m", "Nothing")
    git(repository, "commit", "-q", "--allow-empty", "--allow-empty-message", "-m", "")
    commit(repository, "Last", "\nb.py", "c.py")
    found = commits(repository, b"") or []
    assert [c.paths for c in found] == [("a.py",), (), (), ("\nb.py", "c.py")]
    assert "faucet" in found[0].words
    assert [c.words for c in found[1:]] == ["nothing", "", "last"]
    assert [c.digest.hex() for c in found] == git(repository, "rev-list", "--reverse", "HEAD").split()


def test_no_program_of_the_repository_is_run(repository: Path) -> None:
    """A configuration that wants signatures checked by a program of its own does not get it run."""
    commit(repository, "Begin", "a.py")
    program = write(repository, "evil.sh", f"#!/bin/sh\ntouch {repository}/ran\n")
    program.chmod(0o755)
    git(repository, "config", "gpg.program", str(program))
    git(repository, "config", "log.showSignature", "true")
    raw = git(repository, "cat-file", "commit", "HEAD")
    head, _, body = raw.partition("\n\n")
    signature = "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n"
    (repository / "signed").write_text(f"{head}{signature}\n{body}")
    signed = git(repository, "hash-object", "-t", "commit", "-w", "signed").strip()
    git(repository, "reset", "-q", "--hard", signed)
    assert len(commits(repository, b"") or ()) == 1
    assert not (repository / "ran").exists()
