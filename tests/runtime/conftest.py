"""One tiny engine for the tests that do not care which."""

from pathlib import Path

import pytest
from runtime_support import write_llama

from codellama.runtime import Engine, load_engine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    write_llama(folder)
    return folder


@pytest.fixture
def engine(tiny: Path) -> Engine:
    """A cold engine on it."""
    return load_engine(str(tiny), device="cpu")
