"""What a cursor gets from other files, and the map: unsaved buffers, imports, edits, budgets, deadline."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama_index import Index, open_index, outline, repository
from codellama_index.records import OpenDocument

BODY = "".join(f"def part_{n}(alpha, beta, gamma):\n    return alpha + beta * {n}\n\n\n" for n in range(3))
FILES = {
    "app/wheels.py": "def spin(rate):\n    return rate * 2\n",
    "other/wheels.py": "def spin(rate):\n    return rate * 3\n",
    "app/near.py": BODY,
    "lib/alike.py": "from app.wheels import spin\nfrom app.near import part_0\n\n\n"
    "def use(alpha, beta, gamma):\n"
    "    return spin(alpha) + beta\n",
    "lib/far.txt": "alpha beta gamma spin\n" * 5,
}
TEXT = "from app.wheels import spin\nfrom app.near import part_0\n\nalpha = beta = gamma = 1\nprint(spin("


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Index]:
    """The index of FILES, all of them last edited long ago."""
    root = tmp_path / "tree"
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, (1e9, 1e9))
    with open_index(root, cache_dir=tmp_path / "cache") as index:
        index.sync()
        yield index


def test_the_imported_definition_wins(tree: Index) -> None:
    """Of two definitions of a name, the one whose module is imported comes, and scores higher."""
    snippets = tree.context("app/new.py", len(TEXT), TEXT, budget_bytes=4096)
    scores = {s.path: s.score for s in snippets if "def spin" in s.text}
    assert max(scores, key=scores.__getitem__) == "app/wheels.py"
    assert next(s for s in snippets if s.path == "app/wheels.py").why == "defines spin, imported here"


def test_an_open_buffer_defines(tree: Index) -> None:
    """The unsaved text's own definition is given, at its own lines, and not what the disk has."""
    unsaved = OpenDocument("app/wheels.py", "# moved\n\n\ndef spin(rate):\n    return rate * 99\n")
    snippets = tree.context("app/new.py", len(TEXT), TEXT, [unsaved], budget_bytes=4096)
    (snippet,) = [s for s in snippets if s.path == "app/wheels.py"]
    assert (snippet.start_line, "rate * 99" in snippet.text) == (4, True)


def test_similar_imports_and_recent_edits(tree: Index) -> None:
    """Files with like imports are looked through wherever they lie; so is what was just edited."""
    why = {s.path: s.why for s in tree.context("app/new.py", len(TEXT), TEXT)}
    assert why["lib/alike.py"] == "similar lines, similar imports"
    (tree.root / "other/wheels.py").write_text("def wheel(alpha, beta, gamma):\n    return alpha\n")
    tree.sync()
    why = {s.path: s.why for s in tree.context("app/new.py", len(TEXT), TEXT)}
    assert why["other/wheels.py"] == "similar lines, just edited"


@pytest.mark.parametrize("budget", [0, 60, 200, 6144])
def test_the_budget_is_bytes(tree: Index, budget: int) -> None:
    """Snippets together never exceed it, and the order is by path and line."""
    snippets = tree.context("app/new.py", len(TEXT), TEXT, budget_bytes=budget)
    assert sum(len(s.text.encode()) for s in snippets) <= budget
    assert snippets == sorted(snippets, key=lambda s: (s.path, s.start_line))


def test_late_is_none(tree: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its deadline nothing is given, rather than something else each time."""
    monkeypatch.setattr(repository, "_CONTEXT_DEADLINE_S", -1.0)
    assert tree.context("app/new.py", len(TEXT), TEXT) == []


def test_offsets_are_bytes(tree: Index) -> None:
    """A cursor behind characters of several bytes is where its bytes say."""
    text = "# äöü €\n" + TEXT
    snippets = tree.context("app/new.py", len(text.encode()), text)
    assert "app/wheels.py" in {s.path for s in snippets}


@pytest.mark.parametrize("tokens", [64, 128, 1024])
def test_the_map_keeps_to_its_budget(tree: Index, tokens: int) -> None:
    """As shown, it takes no more bytes than the tokens stand for; central symbols are what is shown."""
    entries = tree.map(tokens)
    shown = sum(outline.cost_of(entry.path, list(entry.symbols)) for entry in entries)
    assert 0 < shown <= tokens * outline.BYTES_PER_TOKEN
    if tokens == 1024:
        (near,) = [entry for entry in entries if entry.path == "app/near.py"]
        assert [symbol.name for symbol in near.symbols] == ["part_0"]  # the only one that others use


def test_it_is_quick(tree: Index) -> None:
    """A huge buffer costs no more than its neighbourhood (a loose bound: a busy machine is no failure)."""
    text = "name_one = name_two(name_three)\n" * 20_000
    began = time.monotonic()
    tree.context("big.py", len(text), text)
    assert time.monotonic() - began < 5
