"""The server's log of a load that takes a while."""

import asyncio
import logging

import pytest

from codellama.serve import worker


@pytest.mark.parametrize(("large", "told"), [(worker.LARGE, False), (1, True)])
def test_a_long_load_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, large: int, told: bool
) -> None:
    """From 1 GB of weights on, the log tells of every tenth once; small models load without."""
    assert worker.LARGE == 10**9
    monkeypatch.setattr(worker, "LARGE", large)
    caplog.set_level(logging.INFO)
    loading = worker.Worker("cpu", "float32", "none", None)
    try:
        asyncio.run(loading.load("pocket"))
    finally:
        loading.close()
    messages = [
        record.getMessage() for record in caplog.records if "loading the model" in record.getMessage()
    ]
    assert messages[0] == "loading the model pocket"
    assert bool(messages[1:]) == told
    tenths = [int(message.split(": ")[1].split(" %")[0]) for message in messages[1:]]
    assert tenths == sorted(set(tenths))
    assert not told or tenths[-1] == 100
