"""`make demo` shows what it promises, whatever has changed in the files that it is about."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def codellama(home: Path) -> Iterator[str]:
    """The command of this environment, whose model server ends with the test."""
    command = str(Path(sys.executable).with_name("codellama"))
    yield command
    subprocess.run([command, "serve", "--stop"], capture_output=True, check=False)


def test_the_demo_runs(codellama: str) -> None:
    """It indexes this checkout, cites the file that the question is about, and completes a line."""
    done = subprocess.run(
        ["sh", "./demo.sh"],
        cwd=PROJECT,
        env=os.environ | {"CODELLAMA": codellama},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built, asked, completed = done.stdout.split("$ codellama ")[1:]
    assert "parsed anew" in built
    assert "codellama/codellama/runtime/memory.py:" in asked.split("(Composed")[0]
    assert "tokens, prompt" in completed
