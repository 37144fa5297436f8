"""Ranks: who is used by central files is central; tests lend rank but earn little."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_index import open_index
from codellama_index.rank import is_secondary, page_rank

PATHS = ("app.py", "core.py", "leaf.py", "tests/test_core.py")
DEFINITIONS = [("main", "app.py"), ("engine", "core.py"), ("wheel", "core.py"), ("help_me", "leaf.py")]


def test_what_is_used_is_central() -> None:
    """Uses raise the file and the symbol that they name; a central user lends more than a leaf."""
    uses = [
        ("app.py", {"engine": 4, "help_me": 1}),
        ("leaf.py", {"engine": 1, "wheel": 1}),
        ("core.py", {"engine": 9}),  # its own name: no opinion
    ]
    ranks = page_rank(PATHS, uses, DEFINITIONS)
    assert max(ranks.files, key=ranks.files.__getitem__) == "core.py"
    assert ranks.symbols["core.py", "engine"] > ranks.symbols["core.py", "wheel"] > 0
    assert ("app.py", "main") not in ranks.symbols


def test_tests_lend_but_do_not_earn() -> None:
    """A test file that everybody uses stays below the code, and its own uses count less than code's."""
    uses = [(path, {"fixture": 5}) for path in PATHS] + [("tests/test_core.py", {"wheel": 1})]
    ranks = page_rank(PATHS, uses, [*DEFINITIONS, ("fixture", "tests/test_core.py")])
    assert ranks.files["tests/test_core.py"] < ranks.files["core.py"]


def test_names_of_many_definers_tell_nothing() -> None:
    """A name that four files define lends nobody anything."""
    ranks = page_rank(PATHS, [("app.py", {"run": 3})], [("run", path) for path in PATHS])
    assert ranks.symbols == {}
    assert page_rank([], [], []).files == {}


@given(
    st.dictionaries(
        st.sampled_from(PATHS),
        st.dictionaries(st.sampled_from(["main", "engine", "wheel", "help_me"]), st.integers(1, 99)),
    )
)
def test_rank_is_neither_made_nor_lost(uses: dict[str, dict[str, int]]) -> None:
    """Before the secondary files' discount, the ranks are one a file on average."""
    ranks = page_rank(PATHS, uses.items(), DEFINITIONS).files
    whole = [rank * (5 if is_secondary(path) else 1) for path, rank in ranks.items()]
    assert sum(whole) == pytest.approx(len(PATHS), rel=1e-3)
    assert all(rank >= 0 for rank in whole)


@pytest.mark.parametrize(
    ("path", "secondary"),
    [
        ("src/app.py", False),
        ("src/latest.py", False),
        ("src/contest/app.py", False),
        ("pkg/tests/app.py", True),
        ("pkg/app_test.go", True),
        ("web/app.spec.tsx", True),
        ("src/AppTest.java", True),
        ("third_party/zlib/inflate.c", True),
        ("static/jquery.min.js", True),
        ("api/service_pb2.py", True),
        ("CHANGES.rst", True),
    ],
)
def test_secondary_files(path: str, secondary: bool) -> None:
    """Tests, vendored and generated files, told by their names."""
    assert is_secondary(path) is secondary


def test_queries_never_import_scipy(tmp_path: Path) -> None:
    """Ranks are stored at sync: a process that only asks loads neither scipy nor numpy."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.py").write_text("def wheel():\n    pass\n")
    (tmp_path / "r" / "b.py").write_text("from a import wheel\nwheel()\n")
    with open_index(tmp_path / "r", tmp_path / "cache") as index:
        index.sync()
        assert index.map()[0].path == "a.py"
    code = (
        "import sys\nfrom pathlib import Path\nfrom codellama_index import open_index\n"
        f"index = open_index(Path({str(tmp_path / 'r')!r}), Path({str(tmp_path / 'cache')!r}))\n"
        "index.sync()\nassert index.retrieve('where is the wheel?') and index.map()\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"scipy", "numpy"} & set(done.stdout.split())
