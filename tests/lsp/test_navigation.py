"""Definitions, references, symbols and hovers, from the real index and the open documents over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILES = {
    "shapes.py": (
        '"""Shapes."""\n\n\nclass Circle:\n    """A round thing."""\n\n    def area(self):\n'
        "        return 3 * self.r\n\n\ndef unit():\n    return Circle()\n"
    ),
    "main.py": "from shapes import Circle, unit\n\n# 😋\nx = '😋'; print(Circle().area(), unit())\n",
    "lib.lua": "function area(r)\n  return r\nend\n",
}


@pytest.fixture
def begin(start: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """A client of a server with an indexed project."""
    root = tmp_path / "project"
    root.mkdir()
    for name, text in FILES.items():
        (root / name).write_text(text)

    def run(**options: Any) -> tuple[Any, Path]:
        client = start()
        client.capabilities = client.initialize(rootUri=root.as_uri(), **options)["capabilities"]
        client.until(lambda: any(s["state"] == "indexing" for s in client.params("codellama/status")))
        client.until(lambda: client.params("codellama/status")[-1]["state"] != "indexing")
        return client, root

    return run


def at(client: Any, method: str, uri: str, line: int, character: int, **more: Any) -> Any:
    where = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
    return client.call(f"textDocument/{method}", where | more)


def spans(locations: Any, root: Path) -> list[tuple[str, int, int, int]]:
    return [
        (
            each["uri"].removeprefix(root.as_uri() + "/"),
            each["range"]["start"]["line"],
            each["range"]["start"]["character"],
            each["range"]["end"]["character"],
        )
        for each in locations
    ]


def test_where_a_name_is_defined_and_used(begin: Callable[..., Any]) -> None:
    """In other files, by the name's own place, counted as the client counts."""
    client, root = begin()
    uri = client.open(FILES["main.py"], (root / "main.py").as_uri())
    line, column = 3, FILES["main.py"].split("\n")[3].index("area") + 1 + 2  # one character of two units
    assert spans(at(client, "definition", uri, line, column), root) == [
        ("shapes.py", 6, 8, 12),
        ("lib.lua", 0, 9, 13),
    ]
    used = at(client, "references", uri, 0, 20, context={"includeDeclaration": False})
    assert spans(used, root) == [("main.py", 0, 19, 25), ("main.py", 3, 16, 22), ("shapes.py", 11, 11, 17)]
    with_it = at(client, "references", uri, 0, 20, context={"includeDeclaration": True})
    assert ("shapes.py", 3, 6, 12) in spans(with_it, root)
    assert at(client, "definition", uri, 2, 0) == []


def test_unsaved_text_counts(begin: Callable[..., Any]) -> None:
    """What is open lies over what the index read, line breaks of Windows included."""
    client, root = begin()
    uri = client.open(FILES["main.py"], (root / "main.py").as_uri())
    client.open("\r\n\r\n" + FILES["shapes.py"].replace("\n", "\r\n"), (root / "shapes.py").as_uri())
    assert spans(at(client, "definition", uri, 0, 20), root) == [("shapes.py", 5, 6, 12)]


def test_what_a_name_is(begin: Callable[..., Any]) -> None:
    """Its head, its documentation and its place; nothing where nothing is known."""
    client, root = begin()
    uri = client.open(FILES["main.py"], (root / "main.py").as_uri())
    text = at(client, "hover", uri, 0, 20)["contents"]["value"]
    assert "class Circle" in text
    assert "A round thing." in text
    assert "shapes.py:4" in text
    assert at(client, "hover", uri, 3, 12) is None


def test_outlines_nest(begin: Callable[..., Any]) -> None:
    """A class holds its methods; a document outside of all folders has an outline too."""
    client, root = begin()
    for place in (root / "shapes.py", root.parent / "elsewhere.py"):
        uri = client.open(FILES["shapes.py"], place.as_uri())
        found = client.call("textDocument/documentSymbol", {"textDocument": {"uri": uri}})
        assert [(symbol["name"], symbol["kind"]) for symbol in found] == [("Circle", 5), ("unit", 12)]
        assert [child["name"] for child in found[0]["children"]] == ["area"]
        assert found[0]["range"]["start"]["line"] == 3
        assert found[0]["selectionRange"]["start"] == {"line": 3, "character": 6}


def test_symbols_of_all_folders(begin: Callable[..., Any]) -> None:
    """By a part of the name."""
    client, root = begin()
    found = client.call("workspace/symbol", {"query": "circ"})
    assert [(s["name"], s["containerName"]) for s in found] == [("Circle", "shapes.py")]
    assert spans([found[0]["location"]], root) == [("shapes.py", 3, 6, 12)]


def test_it_stands_back_where_a_language_has_its_own_server(begin: Callable[..., Any]) -> None:
    """By language at any time; not even offered where it is off from the start."""
    client, root = begin()
    uri = client.open(FILES["main.py"], (root / "main.py").as_uri())
    off = {"codellama": {"navigation": {"off_languages": ["python"]}}}
    client.notify("workspace/didChangeConfiguration", {"settings": off})
    assert at(client, "definition", uri, 0, 20) == []
    assert at(client, "hover", uri, 0, 20) is None
    assert client.call("workspace/symbol", {"query": "circ"})
    other, _ = begin(initializationOptions={"navigation": {"enabled": False}})
    assert "definitionProvider" in client.capabilities
    assert "definitionProvider" not in other.capabilities
