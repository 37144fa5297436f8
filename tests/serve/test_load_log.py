"""A load that takes a while is shown: in the server's log, or as a bar on its terminal."""

import logging
import os
import subprocess
import sys

import pytest

from codellama.runtime.locate import locate
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.serve import load_progress
from codellama.serve.models import Loading, Models


@pytest.mark.parametrize(("large", "told"), [(load_progress.LARGE, False), (1, True)])
def test_a_long_load_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, large: int, told: bool
) -> None:
    """From 1 GB of weights on, the log tells of every tenth once; small models load without."""
    assert load_progress.LARGE == 10**9
    monkeypatch.setattr(load_progress, "LARGE", large)
    caplog.set_level(logging.INFO)
    with Models(Loading("cpu", "float32", "none"), {"completion": "pocket"}).using("pocket"):
        pass
    messages = [
        record.getMessage() for record in caplog.records if "loading the model" in record.getMessage()
    ]
    assert messages[0] == "loading the model pocket"
    assert bool(messages[1:]) == told
    tenths = [int(message.split(": ")[1].split(" %")[0]) for message in messages[1:]]
    assert tenths == sorted(set(tenths))
    assert not told or tenths[-1] == 100


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("large", "shown"), [(10**9, False), (1, True)])
def test_a_terminal_gets_a_bar(large: int, shown: bool) -> None:
    """In the foreground a large load moves a bar to its end; a small one shows nothing."""
    import pty

    code = (
        "from codellama.serve import load_progress\nfrom codellama.serve.models import Loading, Models\n"
        f"load_progress.LARGE = {large}\n"
        "with Models(Loading('cpu', 'float32', 'none'), {}).using('pocket'): pass"
    )
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, check=True, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk
    except OSError:  # the other end is closed and everything is read
        pass
    os.close(ours)
    size = f"{4 * open_checkpoint(locate('pocket')).config.parameters / 1e6:.1f}"
    assert (b"loading pocket" in text and f"{size}/{size} MB".encode() in text) == shown, text


def test_cache_and_draft_settings_reach_the_engine() -> None:
    """Keys and values in eight bits for every model, and a draft model for the one that converses."""
    loading = Loading("cpu", "float32", "none", quantize_cache="int8", draft_model="pocket")
    with Models(loading, {"chat": "pocket"}).using("pocket") as engine:
        half = engine.model.position_bytes
        assert engine._scheduler._draft is not None
    with Models(Loading("cpu", "float32", "none"), {"completion": "pocket"}).using("pocket") as engine:
        assert half < engine.model.position_bytes / 2
        assert engine._scheduler._draft is None
