"""The language server as a subprocess: its life, its answers to odd clients, its promises.

The model is a stand-in here (see stand_in.py), so that a test decides when it is slow or broken.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codellama import __version__

INLINE = "textDocument/inlineCompletion"


def test_it_offers_inline_completion_and_incremental_sync(start) -> None:
    """Without options in it, clients would not know of inline completion."""
    answer = start().initialize()
    assert answer["serverInfo"] == {"name": "codellama", "version": __version__}
    capabilities = answer["capabilities"]
    assert "inlineCompletionProvider" in capabilities
    assert capabilities["textDocumentSync"]["change"] == 2
    assert capabilities["textDocumentSync"]["openClose"] is True
    assert capabilities["positionEncoding"] == "utf-16"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_the_position_encoding_is_the_clients_choice(start, encoding: str) -> None:
    """The first one the client names is used, for requests as well."""
    client = start()
    general = {"general": {"positionEncodings": [encoding, "utf-16"]}}
    answer = client.initialize(capabilities=general)
    assert answer["capabilities"]["positionEncoding"] == encoding
    uri = client.open('x="😋"')
    character = {"utf-8": 7, "utf-16": 5, "utf-32": 4}[encoding]
    assert client.asked_for(uri, 0, character)["before"] == 'x="😋'
    items = client.answer(client.ask_completion(uri, 0, character))["result"]
    here = {"line": 0, "character": character}
    assert items[0]["range"] == {"start": here, "end": here}


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_every_trigger_kind_is_accepted(client, kind: int) -> None:
    """VS Code's own numbers begin at 0."""
    answer = client.answer(client.ask_completion(client.open("x = "), 0, 4, kind))
    assert len(answer["result"]) == 1


def test_the_answer_is_a_list_even_where_there_is_nothing(client) -> None:
    """Null would leave stale text on the screen: unknown and empty documents give []."""
    assert client.answer(client.ask_completion("file:///unknown.py", 0, 0))["result"] == []
    assert client.answer(client.ask_completion(client.open(""), 0, 0))["result"] == []


def test_untitled_documents_are_named_by_their_language(client) -> None:
    """The model sees a file name with the suffix of the document's language."""
    uri = client.open("x = ", "untitled:Untitled-1")
    assert client.asked_for(uri, 0, 4)["path"] == "Untitled-1.py"


def test_a_request_sees_the_document_as_it_was(client, home: Path) -> None:
    """An edit right behind a request does not move its position; its answer is kept, not shown."""
    uri = client.open("first")
    asked = client.ask_completion(uri, 0, 5)
    client.change(uri, "later")
    assert client.answer(asked)["result"] == []
    assert client.asked_for(uri, 0, 5)["before"] == "later"
    client.change(uri, "first")
    assert client.asked_for(uri, 0, 5)["before"] == "first"
    assert (home / "asked").read_text() == "2"


def test_a_newer_request_supersedes_the_older(client, home: Path) -> None:
    """The older one is answered with [] at once, and its work is cancelled."""
    uri = client.open("slow\n")
    older = client.ask_completion(uri, 1, 0)
    client.until(lambda: any(s["state"] == "busy" for s in client.params("codellama/status")))
    client.change(uri, "quick")
    newer = client.ask_completion(uri, 0, 5)
    assert client.answer(older, 2)["result"] == []
    assert len(client.answer(newer, 2)["result"]) == 1
    assert (home / "cancelled").exists()


def test_cancelling_is_quick_and_reaches_the_work(client, home: Path) -> None:
    """`$/cancelRequest` is answered with -32800 within 100 ms."""
    uri = client.open("slow\n")
    asked = client.ask_completion(uri, 1, 0)
    client.until(lambda: any(s["state"] == "busy" for s in client.params("codellama/status")))
    began = time.monotonic()
    client.notify("$/cancelRequest", {"id": asked})
    assert client.answer(asked)["error"]["code"] == -32800
    assert time.monotonic() - began < 0.1
    assert (home / "cancelled").exists()


def test_a_broken_model_is_told_once_and_mends_by_itself(client) -> None:
    """[] for the request, one message, status error; then ready again with the next success."""
    broken = client.open("fail\n", "file:///nowhere/broken.py")
    sound = client.open("x = ", "file:///nowhere/sound.py")
    for _ in range(3):
        assert client.answer(client.ask_completion(broken, 1, 0))["result"] == []
    errors = [s for s in client.params("codellama/status") if s["state"] == "error"]
    assert errors[0]["message"].startswith("The model server cannot be started")
    assert len(client.params("window/showMessage")) == 1
    assert client.answer(client.ask_completion(sound, 0, 4))["result"]
    assert client.params("codellama/status")[-1]["state"] == "ready"


def test_settings_come_at_the_start_and_later(start) -> None:
    """didChangeConfiguration replaces what came before; what it leaves out is as at the start."""
    client = start()
    client.initialize(initializationOptions={"completion": {"max_tokens": 7}})
    uri = client.open("x = ")

    assert client.asked_for(uri, 0, 4)["max_tokens"] == 7
    for settings, expected in [
        ({"codellama": {"completion": {"max_tokens": 9}}}, 9),
        ({"codellama": {"completion": {"enabled": False}}}, None),
        ({"codellama": {}}, 7),
        (None, 7),
    ]:
        client.notify("workspace/didChangeConfiguration", {"settings": settings})
        assert client.asked_for(uri, 0, 4).get("max_tokens") == expected
    assert "off" in [s["state"] for s in client.params("codellama/status")]


def test_invalid_settings_give_a_message_and_defaults(start) -> None:
    """A typing error in an editor's settings never stops the server."""
    client = start()
    client.initialize(initializationOptions={"completion": {"max_tokens": "lots"}, "x": 1})
    uri = client.open("x = ")
    assert client.asked_for(uri, 0, 4)["max_tokens"] == 64
    (message,) = client.params("window/showMessage")
    assert "codellama.completion.max_tokens must be a whole number" in message["message"]
    assert "codellama.x is no setting" in message["message"]


def test_a_mistake_in_the_configuration_file_gives_a_message(start, home: Path) -> None:
    """An editor would only say that its server had ended: it serves, and says which line is wrong."""
    (home / "config" / "codellama").mkdir(parents=True)
    (home / "config" / "codellama" / "config.toml").write_text('[completion]\nmodle = "pocket"\n')
    client = start((str(Path(sys.executable).with_name("codellama")), "lsp"))
    client.initialize(initializationOptions={"completion": {"enabled": False}})
    uri = client.open("x = ")
    assert client.answer(client.ask_completion(uri, 0, 4))["result"] == []
    (message,) = client.params("window/showMessage")
    assert (
        "sets completion.modle, which is no setting: perhaps completion.model is meant" in message["message"]
    )


def test_settings_that_come_later_name_no_stranger(start) -> None:
    """A cloned repository's settings cannot send code to a server of their choice; the person's own can."""
    client = start()
    client.initialize(initializationOptions={"completion": {"model": "http://mine.example/v1"}})
    uri = client.open("x = ")
    for model, expected in [
        ("https://stranger.example/v1", "http://mine.example/v1"),
        ("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"),
    ]:
        sent = {"codellama": {"completion": {"model": model, "max_tokens": 9}}}
        client.notify("workspace/didChangeConfiguration", {"settings": sent})
        assert client.asked_for(uri, 0, 4)["max_tokens"] == 9
        assert client.params("codellama/status")[-1]["model"] == expected
    (message,) = client.params("window/showMessage")
    assert "codellama.completion.model is not changed to 'https://stranger.example/v1'" in message["message"]


def test_requests_out_of_turn_are_refused(start) -> None:
    """-32002 before initialize, -32600 for a second one and after shutdown."""
    client = start()
    assert client.answer(client.ask(INLINE, {}))["error"]["code"] == -32002
    client.initialize()
    assert client.answer(client.ask("initialize", {"capabilities": {}}))["error"]["code"] == -32600
    client.call("shutdown")
    assert client.answer(client.ask(INLINE, {}))["error"]["code"] == -32600


def test_bad_messages_are_answered_and_leave_it_hearing(client) -> None:
    """Invalid parameters -32602, no JSON -32700, no JSON-RPC -32600, unknown methods -32601."""
    assert client.answer(client.ask(INLINE, {"position": 3}))["error"]["code"] == -32602
    assert client.answer(client.ask("no/such", {}))["error"]["code"] == -32601
    for body, code in [(b"{not json", -32700), (b"[1, 2]", -32600), (b'{"id": 1}', -32600)]:
        client.send_bytes(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert client.answer(None)["error"]["code"] == code
    client.send_bytes(b"Content-Length: 99999999999\r\n\r\n")
    client.notify(INLINE, {"position": 3})
    assert client.answer(client.ask_completion(client.open("x = "), 0, 4))["result"]


def test_shutdown_and_exit_end_it_cleanly(client) -> None:
    """Exit code 0, with a request still running as well."""
    asked = client.ask_completion(client.open("slow\n"), 1, 0)
    assert client.leave() == 0
    assert client.answer(asked)["error"]["code"] == -32800


def test_exit_without_shutdown_is_code_1(client) -> None:
    """As the protocol has it."""
    client.notify("exit")
    assert client.process.wait(10) == 1


def test_the_end_of_input_ends_it(client) -> None:
    """An editor that was killed closes our standard input."""
    assert client.process.stdin is not None
    client.process.stdin.close()
    assert client.process.wait(5) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the test's plumbing is POSIX")
def test_it_leaves_when_its_parent_dies(home: Path) -> None:
    """Within 5 s, though somebody else still holds its standard input open."""
    here, there = os.pipe()
    parent = f"""
import subprocess, sys, time
server = subprocess.Popen([sys.executable, "-m", "codellama_lsp"], stdin={here}, stdout=subprocess.PIPE)
print(server.pid, flush=True)
server.stdout.readline()
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, pass_fds=(here,), text=True
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    body = (
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":'
        f'{{"processId":{process.pid},"rootUri":null,"capabilities":{{}}}}}}'
    )
    os.write(there, f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    gone = _gone_within(server, 5)
    if not gone:
        os.kill(server, signal.SIGKILL)
    os.close(here)
    os.close(there)
    assert gone


def _gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_stray_prints_do_not_break_the_protocol(start, tmp_path: Path) -> None:
    """What code prints goes to standard error, not between messages."""
    program = tmp_path / "printing.py"
    program.write_text(
        "import codellama_lsp.server as s\n"
        "old = s.did_open\n"
        "def did_open(server: s.Server, params: s.types.DidOpenTextDocumentParams) -> None:\n"
        "    print('stray')\n"
        "    old(server, params)\n"
        "s.did_open = did_open\n"
        "from codellama_lsp.__main__ import main\n"
        "main()\n"
    )
    client = start((sys.executable, str(program)))
    client.initialize(initializationOptions={"completion": {"enabled": False}})
    uri = client.open("x = ")
    assert client.answer(client.ask_completion(uri, 0, 4))["result"] == []


def test_it_imports_nothing_heavy(start: Callable[..., object], tmp_path: Path) -> None:
    """Neither torch nor what only completions need is imported to answer `initialize`."""
    code = (
        "import sys; import codellama_lsp.server as s; s.create_server();"
        "print([m for m in ('torch', 'transformers', 'httpx', 'tree_sitter', 'rich', 'typer')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
