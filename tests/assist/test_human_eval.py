"""Generated programs run with little to break, and the benchmark is scored by them."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from codellama.assist import human_eval
from codellama.assist.execution import passes
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.records import InfillRequest, Result, Stats
from codellama.serve.client import ModelClient

ROWS = [
    {
        "task_id": f"T/{n}",
        "entry_point": "double",
        "prompt": "def double(a):\n",
        "canonical_solution": "    return 2 * a\n",
        "suffix": "\n",
        "test": "def check(f):\n    assert f(2) == 4\n    assert f(5) == 10\n",
    }
    for n in range(4)
]
ANSWERS = ["    return 2 * a", "    return a + a", "    return 4", "    return ("]


@pytest.mark.parametrize(
    "program",
    [
        "x = 1",
        "import re, math, collections, functools, typing\nassert math.sqrt(4) == 2",
        "import sys\nsys.exit(0)",
    ],
)
def test_what_ends_well_passes(program: str) -> None:
    """A program that ends without an error, whatever of the standard library it imports."""
    assert passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "x = (",
        "assert False",
        "import sys\nsys.exit(1)",
        "while True: pass",
        "x = [0] * (1 << 31)",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true') or 1 / 0",
        "open('x', 'w')",
        "import os\nos.remove('/nonexistent')",
        "'\\ud800'.encode()",
    ],
)
def test_what_fails_hangs_or_reaches_out_does_not(program: str) -> None:
    """Errors, endless loops, too much memory, sockets, other programs and files to write: no pass."""
    assert not passes(program, time_s=2.0)


def test_a_program_sees_no_environment_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of ours is inherited, and what it may not write is not written."""
    monkeypatch.setenv("CODELLAMA_TOKEN", "secret")
    target = tmp_path / "made"
    assert passes("import os\nassert 'CODELLAMA_TOKEN' not in os.environ\nassert not os.listdir()")
    assert not passes(f"from pathlib import Path\nPath({str(target)!r}).write_text('x')")
    assert not target.exists()


class StandIn(ModelClient):
    """Says ANSWERS in turn, with more lines behind where it is not told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.left = list(ANSWERS)

    async def infill(
        self, request: InfillRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        text = self.left.pop(0) + ("" if request.stop == ("\n",) else "\n    and more")
        return Result(text, (), "stop", Stats(prefill_s=0.1, decode_s=0.2, tokens=3))


def test_answers_are_scored_by_the_tests(tmp_path: Path) -> None:
    """The same text and an equivalent one pass, a wrong one and a broken one do not."""
    with gzip.open(tmp_path / human_eval.FILES["single-line"], "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    problems = human_eval.read_problems(tmp_path, "single-line")
    done = asyncio.run(human_eval.answers(StandIn(), problems, "single-line", lambda done, of: None))
    assert [answer.passed for answer in done] == [True, True, False, False]
    report = human_eval.report(done)
    assert (report["n"], report["pass_at_1"], report["exact_match"]) == (4, 0.5, 0.25)
    assert report["p50_ms"] == 300.0
    assert [p.task for p in human_eval.read_problems(tmp_path, "single-line", 2)] == ["T/0", "T/2"]


def test_data_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing file and a damaged one are the user's to mend."""
    with pytest.raises(InvalidRequest, match="cannot be read"):
        human_eval.read_problems(tmp_path, "single-line")
    (tmp_path / human_eval.FILES["single-line"]).write_bytes(b"no gzip")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        human_eval.read_problems(tmp_path, "single-line")
