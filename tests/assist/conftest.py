"""A small repository with its index, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama_index import Index, open_index

FILES = {
    "retry.py": '"""Retries."""\n\n\ndef retry_delay(attempt: int) -> float:\n    """Seconds to wait."""\n'
    "    return min(60.0, 0.5 * 2**attempt)\n",
    "client.py": "from retry import retry_delay\n\n\ndef fetch(url: str) -> str:\n"
    "    wait = retry_delay(1)\n    return url\n",
    "tests/test_client.py": "from client import fetch\n\n\ndef test_fetch():\n    assert fetch('x') == 'x'\n",
    "app.py": "import json\n\nfrom client import fetch\n\n\ndef main() -> None:\n"
    "    print(json.loads(fetch('u')))\n",
}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """The synced index of FILES; no git is needed."""
    root = tmp_path / "repository"
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with open_index(root, cache_dir=tmp_path / "cache") as opened:
        opened.sync()
        yield opened
