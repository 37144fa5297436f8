"""Commands and code actions: control, the reasons of a suggestion, questions, edits by an instruct model.

The models are stand-ins (see stand_in.py); index, protocol and edits are real.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXECUTE = "workspace/executeCommand"
CODE = "def area(r):\n    return r * r\n\n\nprint(area(2))\n"
LATEST = {
    "workspace": {
        "applyEdit": True,
        "workspaceEdit": {
            "documentChanges": True,
            "resourceOperations": ["create"],
            "changeAnnotationSupport": {},
        },
    },
    "textDocument": {"codeAction": {"disabledSupport": True}},
}


def execute(client: Any, command: str, **argument: Any) -> Any:
    return client.call(EXECUTE, {"command": f"codellama.{command}", "arguments": [argument]})


def refused(client: Any, command: str, **argument: Any) -> str:
    answer = client.answer(client.ask(EXECUTE, {"command": f"codellama.{command}", "arguments": [argument]}))
    message = answer["error"]["message"]
    assert isinstance(message, str)
    return message


def lines(first: int, last: int) -> dict[str, Any]:
    return {"start": {"line": first, "character": 0}, "end": {"line": last, "character": 4}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "shapes.py").write_text(CODE)
    return root


@pytest.fixture
def begin(start: Callable[..., Any], project: Path) -> Callable[..., Any]:
    """A client of a server with an indexed project, whose shapes.py is open."""

    def run(model: str = "instruct", capabilities: Any = LATEST) -> tuple[Any, str]:
        client = start()
        client.initialize(
            rootUri=project.as_uri(),
            capabilities=capabilities,
            initializationOptions={"chat": {"model": model}} if model else None,
        )
        client.until(lambda: any(s["state"] == "indexing" for s in client.params("codellama/status")))
        client.until(lambda: client.params("codellama/status")[-1]["state"] != "indexing")
        return client, client.open(CODE, (project / "shapes.py").as_uri())

    return run


def test_suggestions_are_switched_by_place(client: Any) -> None:
    """Off everywhere, in a language, and on again; nothing is asked meanwhile."""
    uri = client.open("x = ")
    assert client.suggestion(uri, 0, 4)
    for argument in ({}, {"scope": "language", "uri": uri}, {"scope": "workspace", "uri": uri}):
        assert execute(client, "toggle", **argument)["on"] is False
        assert client.suggestion(uri, 0, 4) == ""
        assert execute(client, "toggle", **argument)["on"] is True
        assert client.suggestion(uri, 0, 4)
    assert "off" in [status["state"] for status in client.params("codellama/status")]
    assert "scope is 'here'" in refused(client, "toggle", scope="here")


def test_snoozing(client: Any) -> None:
    """Off for a while, with the status; zero minutes wakes them."""
    uri = client.open("x = ")
    execute(client, "snooze", minutes=5)
    assert client.suggestion(uri, 0, 4) == ""
    assert client.params("codellama/status")[-1]["state"] == "off"
    execute(client, "snooze", minutes=0)
    assert client.suggestion(uri, 0, 4)
    assert client.params("codellama/status")[-1]["state"] == "ready"
    assert "minutes is 'long'" in refused(client, "snooze", minutes="long")


def test_a_language_can_be_off_by_settings(start: Callable[..., Any]) -> None:
    """completion.off_languages holds from the start, and can be toggled."""
    client = start()
    client.initialize(initializationOptions={"completion": {"off_languages": ["python"]}})
    uri = client.open("x = ")
    assert client.suggestion(uri, 0, 4) == ""
    assert execute(client, "toggle", scope="language", language="python")["on"] is True
    assert client.suggestion(uri, 0, 4)


def test_why(client: Any) -> None:
    """Nothing before the first suggestion; then its place, text, times and filters, in data and in words."""
    assert execute(client, "why") is None
    uri = client.open("say\n# say value\nx = ")
    client.suggestion(uri, 2, 4)
    why = execute(client, "why")
    assert (why["text"], why["origin"], why["position"]["line"]) == ("value", "model", 2)
    assert why["snippets"] == why["filters"] == []
    assert why["times"]["total_ms"] >= why["times"]["waited_ms"] >= 0
    assert "`value`" in why["markdown"]
    client.type(uri, 2, 4, "v")
    client.suggestion(uri, 2, 5)
    assert execute(client, "why")["origin"] == "cache"


def test_questions_are_answered_from_the_index(begin: Callable[..., Any]) -> None:
    """Without an instruct model too; the text is streamed, and every citation was read again."""
    client, _ = begin(model="")
    found = execute(client, "ask", question="where is area defined?", partialResultToken="t")
    streamed = "".join(p["value"]["text"] for p in client.params("$/progress") if p["token"] == "t")
    assert streamed == found["answer"] != ""
    assert found["citations"][0]["path"] == "shapes.py"
    assert all(citation["verified"] for citation in found["citations"])
    assert "question is empty" in refused(client, "ask", question=" ")


def test_a_question_without_a_document_is_about_the_last_one(
    start: Callable[..., Any], project: Path, tmp_path: Path
) -> None:
    """Of several folders, the one that was worked in last is asked about."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "rings.py").write_text("def ring(r):\n    return r\n")
    client = start()
    folders = [{"uri": path.as_uri(), "name": path.name} for path in (project, other)]
    client.initialize(workspaceFolders=folders)
    deadline = time.monotonic() + 60
    while not all(client.call("workspace/symbol", {"query": name}) for name in ("area", "ring")):
        assert time.monotonic() < deadline, "the folders were not indexed"
        time.sleep(0.05)
    for path, name in ((project / "shapes.py", "area"), (other / "rings.py", "ring")):
        client.open(path.read_text(), path.as_uri())
        found = execute(client, "ask", question=f"where is `{name}` defined?")
        assert found["citations"][0]["path"] == path.name


def test_an_instruct_model_answers_with_checked_citations(begin: Callable[..., Any], home: Path) -> None:
    """What it cites wrongly is marked while it streams."""
    client, _ = begin()
    (home / "says").write_text("It is in shapes.py:1-2 \nand in gone.py:1 .\n")
    found = execute(client, "ask", question="where is the area computed?")
    assert "gone.py:1 [not verified" in found["answer"]
    assert [c["verified"] for c in found["citations"]] == [True, False]


def test_reindexing(begin: Callable[..., Any]) -> None:
    """Every repository is looked through."""
    client, _ = begin()
    assert execute(client, "reindex") == {"repositories": 1}


@pytest.mark.parametrize("command", ["explain", "fix", "document", "tests", "edit"])
def test_without_an_instruct_model_edits_say_so(begin: Callable[..., Any], command: str) -> None:
    """One sentence with what to do, for a model that cannot as well; nothing is made up."""
    client, uri = begin(model="")
    argument = {"uri": uri, "range": lines(0, 1), "instruction": "x", "problems": ["x"]}
    assert "name it as chat.model" in refused(client, command, **argument)
    client.notify("workspace/didChangeConfiguration", {"settings": {"chat": {"model": "weak"}}})
    assert "weak is no instruct model" in refused(client, command, **argument)


def test_an_edit_is_handed_over_to_be_confirmed(begin: Callable[..., Any], home: Path) -> None:
    """The definition around the cursor is rewritten, as one annotated edit of its lines."""
    client, uri = begin()
    (home / "says").write_text("Sure:\n```python\ndef area(r):\n    return 3 * r * r\n```\n")
    done = execute(client, "edit", uri=uri, range=lines(1, 1), instruction="use 3")
    assert "use 3" in (home / "prompt").read_text()
    (request,) = [r for r in client.requests if r["method"] == "workspace/applyEdit"]
    edit = request["params"]["edit"]
    (change,) = edit["documentChanges"]
    assert change["edits"][0]["newText"] == "def area(r):\n    return 3 * r * r\n"
    assert change["edits"][0]["range"] == {
        "start": {"line": 0, "character": 0},
        "end": {"line": 2, "character": 0},
    }
    assert edit["changeAnnotations"]["codellama"]["needsConfirmation"] is True
    assert done["edit"] == edit
    assert "instruction is empty" in refused(client, "edit", uri=uri, range=lines(1, 1))


def test_what_is_no_code_is_refused(begin: Callable[..., Any], home: Path) -> None:
    """Prose, broken code and no change at all reach no document."""
    client, uri = begin()
    where = {"uri": uri, "range": lines(0, 1), "problems": ["x"]}
    for says, sentence in [
        ("I would rather not.\n", "did not answer with code"),
        ("```\ndef area(r:\n    return (((\n```\n", "did not answer with valid code"),
        ("```\ndef area(r):\n    return r * r\n```\n", "would change nothing"),
    ]:
        (home / "says").write_text(says)
        assert sentence in refused(client, "fix", **where)
    assert not [r for r in client.requests if r["method"] == "workspace/applyEdit"]


def test_nothing_of_a_secret_goes_to_an_instruct_model(
    begin: Callable[..., Any], home: Path, project: Path
) -> None:
    """By name, or by what stands anywhere in the file."""
    client, _ = begin()
    (home / "says").write_text("Well.\n")
    key = "x = 1\n" + "\n" * 200 + f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n"
    for name, text in ((".env", "TOKEN=1\n"), ("key.py", key)):
        uri = client.open(text, (project / name).as_uri())
        where = {"uri": uri, "range": lines(0, 0), "instruction": "x", "problems": ["x"]}
        for command in ("explain", "fix", "document", "tests", "edit"):
            assert f"{name} is not sent to a model" in refused(client, command, **where)
    assert not (home / "prompt").exists()


def test_an_edit_is_for_the_document_that_was_read(begin: Callable[..., Any], home: Path) -> None:
    """It names the version, and is refused where the document was changed while the model was at it."""
    client, uri = begin()
    (home / "says").write_text("```python\ndef area(r):\n    return 3 * r * r\n```\n")
    where = {"uri": uri, "range": lines(0, 1), "instruction": "use 3"}
    client.change(uri, CODE)
    found = execute(client, "edit", preview=True, **where)
    assert found["edit"]["documentChanges"][0]["textDocument"] == {"uri": uri, "version": 2}
    (home / "prompt").unlink()
    (home / "hold").touch()
    asked = client.ask(EXECUTE, {"command": "codellama.edit", "arguments": [where]})
    deadline = time.monotonic() + 20
    while not (home / "prompt").exists():
        assert time.monotonic() < deadline, "the model was not asked"
        time.sleep(0.01)
    client.change(uri, "import os\n\n\n" + CODE)
    execute(client, "why")  # so the change has arrived
    (home / "hold").unlink()
    assert "shapes.py was changed" in client.answer(asked)["error"]["message"]
    assert not [r for r in client.requests if r["method"] == "workspace/applyEdit"]


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("old", ["import os\n", "import os", ""])
def test_tests_go_behind_those_that_are_there(
    begin: Callable[..., Any], home: Path, project: Path, old: str, opened: bool
) -> None:
    """Whether the editor has the file open or not, and only where both together are valid code."""
    client, uri = begin()
    file = project / "tests" / "test_shapes.py"
    file.parent.mkdir()
    file.write_text("def broken(\n" if opened else old)
    if opened:
        client.open(old, file.as_uri())
    (home / "says").write_text("```python\ndef test_area():\n    assert area(1) == 1\n```\n")
    found = execute(client, "tests", uri=uri, range=lines(0, 0), preview=True)
    (change,) = found["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": file.as_uri(), "version": 1 if opened else None}
    (edit,) = change["edits"]
    first, last = edit["range"]["start"]["line"], edit["range"]["end"]["line"]
    rows = old.split("\n")
    joined = "\n".join([*rows[:first], edit["newText"], *rows[last:]])
    between = "\n\n\n" if old else ""
    test = "def test_area():\n    assert area(1) == 1\n"
    assert joined.rstrip("\n") == f"{old.rstrip()}{between}{test}".rstrip("\n")


def test_tests_that_do_not_go_with_those_there_are_refused(
    begin: Callable[..., Any], home: Path, project: Path
) -> None:
    """What cannot be read is left alone, and a document that is no file has no place for tests."""
    client, uri = begin()
    file = project / "tests" / "test_shapes.py"
    file.parent.mkdir()
    (home / "says").write_text("```python\ndef test_area():\n    assert area(1) == 1\n```\n")
    file.write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused(client, "tests", uri=uri, range=lines(0, 0))
    file.write_text('text = """open\n')
    assert "behind it are no valid code" in refused(client, "tests", uri=uri, range=lines(0, 0))
    untitled = client.open(CODE, "untitled:Untitled-1")
    assert "save it first" in refused(client, "tests", uri=untitled, range=lines(0, 0))


def test_tests_are_a_new_file(begin: Callable[..., Any], home: Path, project: Path) -> None:
    """Where tests usually stand; nothing is written by us."""
    client, uri = begin()
    (home / "says").write_text("```python\ndef test_area():\n    assert area(1) == 1\n```\n")
    found = execute(client, "tests", uri=uri, range=lines(0, 0), preview=True)
    create, change = found["edit"]["documentChanges"]
    assert create == {
        "kind": "create",
        "uri": (project / "tests" / "test_shapes.py").as_uri(),
        "options": {"ignoreIfExists": True},
    }
    assert "def test_area" in change["edits"][0]["newText"]
    assert not (project / "tests").exists()


def test_code_actions_are_resolved_when_chosen(begin: Callable[..., Any], home: Path) -> None:
    """Documentation, tests and an explanation everywhere, a fix where there is a diagnostic."""
    client, uri = begin()
    diagnostic = {"range": lines(1, 1), "message": "r is undefined"}
    params = {"textDocument": {"uri": uri}, "range": lines(1, 1), "context": {"diagnostics": [diagnostic]}}
    found = client.call("textDocument/codeAction", params)
    assert [action["title"].split()[0] for action in found] == ["Correct", "Explain", "Write", "Write"]
    (home / "says").write_text("```\ndef area(r=1):\n    return r * r\n```\n")
    resolved = client.call("codeAction/resolve", found[0])
    assert "r=1" in resolved["edit"]["documentChanges"][0]["edits"][0]["newText"]
    assert "r is undefined" in (home / "prompt").read_text()
    client.change(uri, "\n" + CODE)
    assert "edit" not in client.call("codeAction/resolve", found[0])
    assert "was changed since" in client.params("window/showMessage")[-1]["message"]
    params["context"]["only"] = ["refactor"]
    assert len(client.call("textDocument/codeAction", params)) == 2


def test_code_actions_without_a_model_are_greyed_out(begin: Callable[..., Any]) -> None:
    """With the reason; an editor that cannot show one gets none."""
    client, uri = begin(model="")
    params = {"textDocument": {"uri": uri}, "range": lines(1, 1), "context": {"diagnostics": []}}
    found = client.call("textDocument/codeAction", params)
    assert found
    assert all("chat.model" in action["disabled"]["reason"] for action in found)
    plain, uri = begin(model="", capabilities={})
    assert plain.call("textDocument/codeAction", params) == []


def test_an_explanation_is_shown(begin: Callable[..., Any], home: Path) -> None:
    """As the answer of the command, and as a message where it was chosen from a menu."""
    client, uri = begin()
    (home / "says").write_text("It squares r.\n")
    found = execute(client, "explain", uri=uri, range=lines(1, 1), show=True)
    assert (found["text"], found["start_line"], found["end_line"]) == ("It squares r.", 1, 2)
    assert client.params("window/showMessage")[-1]["message"] == "It squares r."
    assert "is not open" in refused(client, "explain", uri="file:///gone.py", range=lines(0, 0))
