"""`codellama_lsp.status`: one state at a time, published when it changes."""

import pytest

from codellama_lsp.status import Status, StatusBoard


@pytest.fixture
def published() -> list[Status]:
    return []


@pytest.fixture
def board(published: list[Status]) -> StatusBoard:
    board = StatusBoard(published.append)
    board.configured(True, "pocket")
    return board


def test_the_most_pressing_state_wins(board: StatusBoard, published: list[Status]) -> None:
    """Off, then error, busy, indexing, ready."""
    board.indexing("/r", 5)
    with board.busy():
        board.failed("No server.")
        board.configured(False, "pocket")
        board.configured(True, "pocket")
        board.answered()
    board.indexing("/r", None)
    states = [status.state for status in published]
    assert states == ["ready", "indexing", "busy", "error", "off", "error", "busy", "indexing", "ready"]


def test_only_changes_are_published(board: StatusBoard, published: list[Status]) -> None:
    """The same facts again say nothing."""
    board.configured(True, "pocket")
    board.answered()
    assert len(published) == 1


def test_an_error_is_news_once(board: StatusBoard) -> None:
    """The same failure is told once, and again only after it was mended."""
    assert board.failed("No server.")
    assert not board.failed("No server.")
    board.answered()
    assert board.failed("No server.")


def test_a_payload_leaves_out_what_is_unknown() -> None:
    """Latency and reuse appear with the first suggestion, a percentage while indexing."""
    assert Status("ready", "pocket").payload() == {"state": "ready", "model": "pocket", "message": ""}
    assert Status("ready", "pocket", latency_ms=7).payload()["latency_ms"] == 7
