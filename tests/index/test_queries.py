"""What the index answers: symbols, references, passages for questions, context for a cursor, the map."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_support import write

from codellama_index import Index, open_index
from codellama_index.errors import PositionOutOfRange
from codellama_index.records import OpenDocument
from codellama_index.retrieve_files import FILE_SIGNALS
from codellama_index.words import parts, query_terms

PROJECT = Path(__file__).resolve().parents[2]

QUESTIONS = [
    ("where are ignore rules applied?", "index/codellama_index/walk.py"),
    ("how does the model server leave when idle?", "codellama/codellama/serve/__main__.py"),
    ("where are the rotary embedding angles computed?", "codellama/codellama/runtime/rope.py"),
    ("where is the bearer token compared?", "codellama/codellama/serve/keys.py"),
    ("which licences are permissive?", "codellama/codellama/training/packages.py"),
    ("where is the next token sampled with temperature?", "codellama/codellama/runtime/sampling.py"),
    ("what cuts repeated lines from a completion?", "codellama/codellama/assist/filters.py"),
    ("where is `page_rank` computed?", "index/codellama_index/rank.py"),
]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """This project's own index."""
    index = open_index(PROJECT, tmp_path_factory.mktemp("cache"))
    index.sync()
    return index


def test_questions_find_their_file(own: Index) -> None:
    """Of questions about this project, at least three in four find the file among the first three."""
    found = [path in [hit.path for hit in own.retrieve(question, 3)] for question, path in QUESTIONS]
    missed = [question for (question, _), ok in zip(QUESTIONS, found, strict=True) if not ok]
    assert len(missed) <= len(QUESTIONS) // 4, missed


def test_files_are_counted_as_wholes(tmp_path: Path) -> None:
    """Uses of a word add up over a file's passages, more than one dense passage; a path's words, the
    message's first line, a file's own name and definitions that are named count; tests come last, although
    they say the words as often."""
    body = "".join(f"def f{n}(x):\n    return quota(x, {n})\n\n\n" for n in range(8))
    write(tmp_path, "limits/spread.py", body)
    write(tmp_path, "limits/test_spread.py", body)
    others = "".join(f"    {chr(97 + n) * 5}(x)\n" for n in range(24))
    write(tmp_path, "other/dense.py", f"def g(x):\n{others}    return quota(x)\n")
    write(tmp_path, "other/quota.py", "def h(x):\n    return x\n")
    with open_index(tmp_path, tmp_path.parent / f"{tmp_path.name}-cache") as index:
        index.sync()

        def ranked(message: str, **signals: float) -> list[str]:
            return [file.path for file in index.retrieve_files(message, 10, signals or FILE_SIGNALS)]

        assert ranked("quota", words=1.0) == ["limits/spread.py", "other/dense.py", "limits/test_spread.py"]
        assert "other/quota.py" in ranked("quota")
        assert ranked("quota", path=1.0) == ["other/quota.py"]
        assert ranked("spread\n\nquota", path=1.0)[0] == "limits/spread.py"
        assert ranked("dense\n\nspread", path=1.0, title=0.5)[0] == "other/dense.py"
        assert ranked("quota, dense", words=1.0)[0] == "limits/spread.py"
        assert ranked("quota, dense", words=1.0, named=0.9)[0] == "other/dense.py"
        assert ranked("quota of `g`", words=1.0)[0] == "limits/spread.py"
        assert ranked("quota of `g`", words=1.0, defines=0.9)[0] == "other/dense.py"
        assert ranked("the of") == ranked("nowhere") == []


def test_hits_are_what_stands_there(own: Index) -> None:
    """A hit's text is the file's text at its lines."""
    hits = own.retrieve("where is the prompt packed?", 10)
    assert len(hits) == 10
    for hit in hits:
        lines = own.read(hit.path).split("\n")
        assert hit.text == "\n".join(lines[hit.start_line - 1 : hit.end_line])


def test_symbols_by_name(own: Index) -> None:
    """The exact name comes first, then parts of names; a dotted name finds its scope."""
    assert own.symbols("load_engine")[0].path == "codellama/codellama/runtime/load.py"
    assert own.symbols("LOAD_ENGINE")[0].name == "load_engine"
    assert "page_rank" in {s.name for s in own.symbols("rank")}
    assert own.symbols("Engine.infill_ids")[0].scope == "Engine"
    assert own.symbols("no_such_name_anywhere") == []
    assert len(own.symbols("e", limit=7)) == 7


def test_references(own: Index) -> None:
    """Uses of a name, each with the line it stands in; the definition is not one of them."""
    found = own.references("page_rank")
    assert {r.path for r in found} >= {"index/codellama_index/sync.py"}
    assert all("page_rank" in r.text for r in found)
    assert not any(r.text.startswith("def page_rank") for r in found)


def test_context_brings_imported_definitions(own: Index) -> None:
    """Names that the file imports bring their definitions, from other files only, within the budget."""
    path = "index/codellama_index/sync.py"
    text = "from codellama_index.rank import page_rank\n\nranks = page_rank("
    offset = len(text)
    snippets = own.context(path, offset, text)
    assert "index/codellama_index/rank.py" in {s.path for s in snippets}
    assert path not in {s.path for s in snippets}
    assert sum(len(s.text.encode()) for s in snippets) <= 6144
    assert snippets == sorted(snippets, key=lambda s: (s.path, s.start_line))
    assert own.context(path, offset, text, budget_bytes=0) == []


def test_open_buffers_lie_over_the_index(own: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unsaved buffer's text is used, not the disk's."""
    monkeypatch.setattr("codellama_index.repository._CONTEXT_DEADLINE_S", 60.0)
    unsaved = OpenDocument(
        "index/codellama_index/new.py", "def page_rank_of_moon(store, ranks, edges, paths):\n    ..."
    )
    text = "from x import y\nranks = edges(store, paths, page_rank_of_moon)\n"
    snippets = own.context("index/codellama_index/other.py", len(text), text, [unsaved])
    assert "page_rank_of_moon" in "".join(s.text for s in snippets if s.path == unsaved.path)


def test_context_is_on_time(own: Index) -> None:
    """A huge buffer does not keep the cursor waiting much beyond the deadline."""
    text = "name_one = name_two(name_three)\n" * 20_000
    began = time.monotonic()
    own.context("big.py", len(text), text)
    assert time.monotonic() - began < 5


def test_offset_past_the_end(own: Index) -> None:
    """The error names how long the file is."""
    with pytest.raises(PositionOutOfRange, match="3 bytes"):
        own.context("a.py", 4, "abc")


def test_map_is_ranked_and_bounded(own: Index) -> None:
    """More tokens show more files, the most central first, and code before its tests."""
    small, large = own.map(300), own.map(5000)
    assert 0 < len(small) < len(large)
    ranks = [entry.rank for entry in large]
    assert ranks == sorted(ranks, reverse=True)
    assert not small[0].path.startswith("tests/")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("parseHTTPHeader_v2", ["parse", "http", "header", "v", "2"]),
        ("__init__", ["init"]),
        ("UTF8", ["utf", "8"]),
        ("a", ["a"]),
    ],
)
def test_identifiers_split(name: str, split: list[str]) -> None:
    """Camel, snake and digits part."""
    assert parts(name) == split


@given(st.text())
def test_any_question_is_searchable(text: str) -> None:
    """No question, whatever it holds, breaks the query syntax."""
    assert all(term and '"' not in term for term in query_terms(text))
