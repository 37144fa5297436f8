"""A client that announces what Helix 25 announces: no ghost text, UTF-8 positions, its settings sent twice.

Helix itself is not run here: the capabilities are those of its own client (helix-lsp/src/client.rs).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = {"completion": {"max_tokens": 12}, "navigation": {"off_languages": ["python"]}}
CAPABILITIES: dict[str, Any] = {
    "workspace": {
        "configuration": True,
        "didChangeConfiguration": {"dynamicRegistration": False},
        "workspaceFolders": True,
        "applyEdit": True,
        "executeCommand": {"dynamicRegistration": False},
        "workspaceEdit": {
            "documentChanges": True,
            "resourceOperations": ["create", "rename", "delete"],
            "failureHandling": "abort",
            "normalizesLineEndings": False,
        },
        "didChangeWatchedFiles": {"dynamicRegistration": True, "relativePatternSupport": False},
    },
    "textDocument": {
        "completion": {
            "completionItem": {
                "snippetSupport": True,
                "resolveSupport": {"properties": ["documentation", "detail", "additionalTextEdits"]},
                "insertReplaceSupport": True,
                "deprecatedSupport": True,
                "tagSupport": {"valueSet": [1]},
            },
            "completionItemKind": {},
        },
        "hover": {"contentFormat": ["markdown"]},
        "codeAction": {
            "codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["", "quickfix", "refactor"]}},
            "resolveSupport": {"properties": ["edit", "command"]},
        },
        "publishDiagnostics": {"versionSupport": True},
    },
    "window": {"workDoneProgress": True},
    "general": {"positionEncodings": ["utf-8", "utf-32", "utf-16"]},
}


def test_helix_gets_a_suggestion_in_its_menu(start: Callable[..., Any], tmp_path: Path) -> None:
    """One entry that replaces the word begun, at positions in bytes, with the settings that Helix sends both
    at the start and after it; nothing that it cannot do is asked of it."""
    folder = tmp_path / "project"
    folder.mkdir()
    client = start()
    told = client.initialize(
        clientInfo={"name": "helix", "version": "25.07"},
        rootUri=folder.as_uri(),
        workspaceFolders=[{"uri": folder.as_uri(), "name": "project"}],
        initializationOptions=CONFIG,
        capabilities=CAPABILITIES,
    )["capabilities"]
    assert told["positionEncoding"] == "utf-8"
    assert "completionProvider" in told
    client.notify("workspace/didChangeConfiguration", {"settings": CONFIG})
    uri = client.open("say\nsay e(first)\n# 🦙é\nvalu", f"{folder.as_uri()}/a.py")
    client.type(uri, 2, 8, "!")
    client.type(uri, 3, 4, "")
    answer = client.call(
        "textDocument/completion",
        {
            "textDocument": {"uri": uri},
            "position": {"line": 3, "character": 4},
            "context": {"triggerKind": 1},
        },
    )
    assert answer["isIncomplete"]
    (item,) = answer["items"]
    span = {"start": {"line": 3, "character": 0}, "end": {"line": 3, "character": 4}}
    assert item["textEdit"] == {"range": span, "newText": "value(first)"}
    assert item["filterText"].startswith("valu")
    assert client.requests == [] or {r["method"] for r in client.requests} == {
        "window/workDoneProgress/create"
    }
    assert not client.params("window/showMessage")
    assert client.leave() == 0


def test_any_client_may_say_next_to_nothing(start: Callable[..., Any]) -> None:
    """A generic client: no capabilities, no folders, UTF-16, a document that is in no file."""
    client = start()
    told = client.initialize()["capabilities"]
    assert told.get("positionEncoding", "utf-16") == "utf-16"
    uri = client.open("say\nsay done()\n🦙 = ", "untitled:Untitled-1")
    where = {"textDocument": {"uri": uri}, "position": {"line": 2, "character": 5}}
    (item,) = client.call("textDocument/completion", where)["items"]
    assert item["textEdit"]["newText"] == "done()"
    assert client.leave() == 0
