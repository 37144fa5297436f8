"""`codellama models` as a process: what it prints, what it writes, how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codellama.runtime.locate import POCKET, locate

FIELDS = {"name", "family", "parameters", "context", "infill", "path"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codellama_cli", "models", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_list(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pocket model and the user's come first, with their paths; the rest of the family follows."""
    monkeypatch.setenv("CODELLAMA_MODELS_FOLDER", str(home / "models"))
    (home / "models" / "mine").mkdir(parents=True)
    for file in locate(POCKET).iterdir():
        (home / "models" / "mine" / file.name).write_bytes(file.read_bytes())
    (home / "models" / "bad.gguf").write_bytes(b"no model")
    done = run("list", "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0
    assert all(set(row) == FIELDS for row in rows)
    assert [row["name"] for row in rows[:2]] == [POCKET, str(home / "models" / "mine")]
    assert rows[0] == {
        "name": POCKET,
        "family": "pocket",
        "parameters": rows[0]["parameters"],
        "context": rows[0]["context"],
        "infill": True,
        "path": str(locate(POCKET)),
    }
    by_name = {row["name"]: row for row in rows}
    assert by_name["codellama/CodeLlama-7b-hf"] == {
        "name": "codellama/CodeLlama-7b-hf",
        "family": "Code Llama",
        "parameters": 6_738_546_688,
        "context": 16_384,
        "infill": True,
        "path": None,
    }
    assert not by_name["codellama/CodeLlama-34b-hf"]["infill"]
    assert done.stderr.count("\n") == 1
    assert "bad.gguf" in done.stderr
    text = run("list").stdout.splitlines()
    assert len(text) == len(rows)
    assert "not on this machine" in text[-1]


def test_list_loads_no_torch(home: Path) -> None:
    """Headers and tables are enough."""
    code = "import sys\nfrom codellama_cli.models import list_\nlist_()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_convert(home: Path) -> None:
    """One JSON document says what was written; the file is a model that `list` and the engine know."""
    file = home / "p.gguf"
    done = run("convert", POCKET, file, "--type", "q8_0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "path": str(file),
        "format": "gguf",
        "type": "q8_0",
        "bytes": file.stat().st_size,
    }
    assert run("convert", file, home / "folder").stdout.startswith(f"{home / 'folder'}: hugging-face, f16, ")
    assert (home / "folder" / "config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((POCKET, "taken.gguf"), 2, "--force"),
        ((POCKET, "x", "--type", "q4_0"), 2, ".gguf"),
        (("no-such-model", "x"), 2, "no-such-model"),
        (("bad", "x.gguf"), 3, "config.json"),
    ],
)
def test_convert_refuses(home: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    """One sentence, the exit code of the contract, nothing written."""
    (home / "taken.gguf").write_text("mine")
    (home / "bad").mkdir()
    (home / "bad" / "config.json").write_text("{")
    before = sorted(home.iterdir())
    places = [str(home / a) if a in ("taken.gguf", "x", "x.gguf", "bad") else a for a in arguments]
    done = run("convert", *places)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(home.iterdir()) == before
    assert (home / "taken.gguf").read_text() == "mine"
