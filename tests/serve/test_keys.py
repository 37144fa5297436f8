"""The keys file of a team: what it may look like, and that a change takes effect at once."""

import os
from pathlib import Path

import pytest

from codellama.runtime.errors import InvalidRequest
from codellama.serve.keys import OWNER, Keys, read_keys

ANNA, BEN = "anna-key-0123456789", "ben-key-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# the team\nanna {ANNA}\n\nben\t{BEN}\n")
    file.chmod(0o600)
    return file


def test_each_key_has_its_client(file: Path) -> None:
    keys = Keys("own-token", file)
    found = [keys.client(key.encode()) for key in ("own-token", ANNA, BEN, "", "anna", ANNA[:-1], "ü")]
    assert found == [OWNER, "anna", "ben", None, None, None, None]
    assert Keys("own-token").client(ANNA.encode()) is None


def test_a_key_that_is_taken_back_is_nobodys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a restart; where the file is damaged only the owner is let in, and the log says why."""
    keys = Keys("own-token", file)
    file.write_text(f"ben {BEN}\n")
    assert (keys.client(ANNA.encode()), keys.client(BEN.encode())) == (None, "ben")
    file.write_text("nonsense\n")
    assert (keys.client(BEN.encode()), keys.client(b"own-token")) == (None, OWNER)
    assert "Line 1" in caplog.text
    file.write_text(f"anna {ANNA}\n")
    assert keys.client(ANNA.encode()) == "anna"
    file.unlink()
    assert keys.client(ANNA.encode()) is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("anna short\n", "16"),
        ("anna\n", "Line 1"),
        (f"anna {ANNA} more\n", "Line 1"),
        (f"anna {ANNA}\nanna {BEN}\n", "Line 2"),
        (f"anna {ANNA}\nben {ANNA}\n", "Line 2"),
        (f"owner {ANNA}\n", "Line 1"),
    ],
)
def test_what_is_wrong_is_said(file: Path, text: str, word: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=word) as refused:
        read_keys(file)
    assert ANNA not in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no modes")
def test_a_file_that_others_can_read_is_refused(file: Path) -> None:
    file.chmod(0o640)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        Keys("own-token", file)
