"""What every test may use: the shared test data, goldens, and a home folder of its own.

Test data too large or too restricted to commit stands beside the project (`../shared/data`, or the
folder that CODELLAMA_TEST_DATA names). Without it the tests that need it skip, and say so; with
CI=true they fail instead, so that a green run means that they ran.
"""

import os
from pathlib import Path

import platformdirs
import pytest
from hypothesis import settings

# A busy machine is no failure: timings never decide a test.
settings.register_profile("codellama", deadline=None)
settings.load_profile("codellama")

# Compiled once for all tests, those with a home of their own included.
os.environ.setdefault("CODELLAMA_NATIVE", str(platformdirs.user_cache_path("codellama") / "native"))

PROJECT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the golden files under tests/data")


class Golden:
    """Compares text with a committed file, or rewrites the file under `--update`."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check(self, name: str, text: str) -> None:
        path = PROJECT / "tests" / "data" / name
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no golden {name}: run pytest --update, then review the file"
        assert text == path.read_text(encoding="utf-8")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(update=bool(request.config.getoption("--update")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test data; skips loudly where it is absent, fails under CI=true."""
    folder = Path(os.environ.get("CODELLAMA_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    message = f"no test data at {folder}: set CODELLAMA_TEST_DATA"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: config, cache, state and runtime folders of this test alone.

    Subprocesses inherit it. The paths are short because a Unix socket's path holds 107 bytes.
    """
    home = tmp_path / "h"
    for variable, name in {
        "HOME": "",
        "XDG_CONFIG_HOME": "config",
        "XDG_CACHE_HOME": "cache",
        "XDG_STATE_HOME": "state",
        "XDG_DATA_HOME": "data",
        "XDG_RUNTIME_DIR": "run",
    }.items():
        folder = home / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        monkeypatch.setenv(variable, str(folder))
    for variable in [n for n in os.environ if n.startswith("CODELLAMA_") and n != "CODELLAMA_NATIVE"]:
        if variable != "CODELLAMA_TEST_DATA":
            monkeypatch.delenv(variable)
    return home
