"""Suggestions keep up with typing: what needs no model is answered from what was said before.

The model is a stand-in that says what the document's second line tells it to (see stand_in.py), and counts
how often it was asked.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAY = "say\n# say value + 1)\n"
NO_AHEAD = {"completion": {"speculate": False}}


@pytest.fixture
def client(start: Callable[..., Any]) -> Any:
    client = start()
    client.initialize(initializationOptions=NO_AHEAD)
    return client


def asked(home: Path) -> int:
    file = home / "asked"
    return int(file.read_text()) if file.exists() else 0


def test_typing_along_asks_nobody(client: Any, home: Path) -> None:
    """Each key that matches leaves the rest of it, backspace brings it back; one request in all."""
    uri = client.open(SAY + "x = f(")
    assert client.suggestion(uri, 2, 6) == "value + 1)"
    for n, key in enumerate("value +"):
        client.type(uri, 2, 6 + n, key)
        assert client.suggestion(uri, 2, 7 + n) == "value + 1)"[n + 1 :]
    for n in range(6, -1, -1):
        client.type(uri, 2, 6 + n, "", removed=1)
        assert client.suggestion(uri, 2, 6 + n) == "value + 1)"[n:]
    assert asked(home) == 1


def test_another_key_asks_again(client: Any, home: Path) -> None:
    """What does not match the suggestion is news to the model; going back is none."""
    uri = client.open(SAY + "x = f(")
    client.suggestion(uri, 2, 6)
    client.type(uri, 2, 6, "w")
    assert client.suggestion(uri, 2, 7) == "value + 1)"
    assert asked(home) == 2
    client.type(uri, 2, 6, "", removed=1)
    client.suggestion(uri, 2, 6)
    assert asked(home) == 2


def test_a_pair_that_the_editor_closes_is_typed_along_too(client: Any, home: Path) -> None:
    """The bracket behind the cursor is not suggested once more."""
    uri = client.open("say\n# say (value + 1)\nx = f")
    assert client.suggestion(uri, 2, 5) == "(value + 1)"
    client.type(uri, 2, 5, "()")
    assert client.suggestion(uri, 2, 6) == "value + 1"
    client.type(uri, 2, 6, "v")
    assert client.suggestion(uri, 2, 7) == "alue + 1"
    assert asked(home) == 1


def test_an_edit_behind_the_cursor_asks_again(client: Any, home: Path) -> None:
    """What follows the cursor belongs to the suggestion."""
    uri = client.open(SAY + "x = f(\ny = 2")
    client.suggestion(uri, 2, 6)
    client.type(uri, 3, 0, "z")
    client.suggestion(uri, 2, 6)
    assert asked(home) == 2


def test_line_breaks_of_windows_are_typed_along(client: Any, home: Path) -> None:
    """A suggestion has line feeds alone; the document may have others."""
    uri = client.open("say\r\n# say one(\\n    two)\r\nx = 😋")
    assert client.suggestion(uri, 2, 6) == "one(\n    two)"
    client.type(uri, 2, 6, "one(\r\n    ")
    assert client.suggestion(uri, 3, 4) == "two)"
    assert asked(home) == 1


def test_what_follows_is_asked_for_ahead(start: Callable[..., Any], home: Path) -> None:
    """While a suggestion is looked at, the one after it is made ready; accepting it finds that one."""
    client = start()
    client.initialize()
    uri = client.open(SAY + "x = f(")
    assert client.suggestion(uri, 2, 6) == "value + 1)"
    deadline = time.monotonic() + 10
    while asked(home) < 2:
        assert time.monotonic() < deadline, "nothing was asked ahead"
        time.sleep(0.01)
    client.type(uri, 2, 6, "value + 1)")
    assert client.suggestion(uri, 2, 16) == "value + 1)"
    assert client.call("workspace/executeCommand", {"command": "codellama.why"})["origin"] == "ahead"


def test_invoking_asks_where_nothing_was_found(client: Any, home: Path) -> None:
    """An empty answer stands for automatic requests only."""
    uri = client.open("say\n# say \nx = f(")
    for _ in range(2):
        assert client.suggestion(uri, 2, 6) == ""
    assert asked(home) == 1
    assert client.suggestion(uri, 2, 6, kind=1) == ""
    assert asked(home) == 2


def test_edits_in_other_documents_go_along(start: Callable[..., Any], tmp_path: Path) -> None:
    """What was just edited elsewhere in the repository is told to the model, as it stands now."""
    root = tmp_path / "one"
    root.mkdir()
    client = start()
    client.initialize(rootUri=root.as_uri())
    client.until(lambda: any(s["state"] == "indexing" for s in client.params("codellama/status")))
    client.until(lambda: client.params("codellama/status")[-1]["state"] != "indexing")
    other = client.open("def area(r):\n    return r\n", (root / "b.py").as_uri())
    uri = client.open("x = ", (root / "a.py").as_uri())
    assert client.asked_for(uri, 0, 4)["recent"] == []
    client.type(other, 1, 12, " * r")
    client.type(uri, 0, 4, "y")
    assert client.asked_for(uri, 0, 5)["recent"] == ["def area(r):\n    return r * r\n"]


def test_a_late_answer_is_given_up(start: Callable[..., Any], home: Path) -> None:
    """completion.deadline_ms: an empty answer, the work is cancelled, and the place is asked about again."""
    client = start()
    client.initialize(initializationOptions={"completion": {"deadline_ms": 100}})
    uri = client.open("slow\n")
    assert client.suggestion(uri, 1, 0) == ""
    assert (home / "cancelled").exists()
    why = client.call("workspace/executeCommand", {"command": "codellama.why"})
    assert why["filters"] == ["deadline"]
    client.suggestion(uri, 1, 0)
    assert asked(home) == 2


def test_clients_without_ghost_text_get_a_menu(start: Callable[..., Any]) -> None:
    """textDocument/completion is offered to them alone, and replaces the word that was begun."""
    client = start()
    assert "completionProvider" in client.initialize()["capabilities"]
    uri = client.open("say\n# say ue + 1\nx = val")
    where = {"textDocument": {"uri": uri}, "position": {"line": 2, "character": 7}}
    answer = client.call("textDocument/completion", where)
    (item,) = answer["items"]
    assert item["textEdit"]["newText"] == item["filterText"] == "value + 1"
    assert item["textEdit"]["range"]["start"]["character"] == 4
    assert answer["isIncomplete"] is True
    modern = start()
    capabilities = {"textDocument": {"inlineCompletion": {}}}
    assert "completionProvider" not in modern.initialize(capabilities=capabilities)["capabilities"]
