"""`ModelClient` with a URL for a model: a real llama.cpp server, our own, and stand-ins for vLLM and Ollama.

llama.cpp's is llama-cpp-python's server, and `llama-server` where it is in PATH, with a GGUF file that
`codellama models convert` writes. The stand-ins answer as vLLM and Ollama do where a gap is to be filled,
refusals word for word; what they generate is fixed.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from codellama.runtime import load_engine
from codellama.runtime.errors import (
    InfillUnsupported,
    InvalidRequest,
    ServerBusy,
    ServerError,
    Unauthorized,
    UnknownModel,
)
from codellama.runtime.locate import locate
from codellama.runtime.records import ChatMessage, ChatRequest, CompletionRequest, Extra, InfillRequest
from codellama.runtime.weights.convert import convert
from codellama.serve import daemon
from codellama.serve.client import ModelClient, ServeSettings

T = TypeVar("T")
GAP = InfillRequest(
    "def area(width, height):\n    return ",
    "\n\nprint(area(2, 3))\n",
    (Extra("b.py", "x = 1\n"),),
    max_tokens=8,
)
KEY = "a-key-of-the-team-0123"


def ask(settings: ServeSettings, call: Callable[[ModelClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with ModelClient(settings) as client, asyncio.timeout(60):
            return await call(client)

    return asyncio.run(run())


async def joined(client: ModelClient, request: InfillRequest | CompletionRequest) -> str:
    return "".join([piece async for piece in client.stream(request)])


@pytest.fixture(scope="module")
def llama_cpp_server(
    tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]
) -> Iterator[str]:
    """The URL of a real llama-cpp-python server with the pocket model."""
    if importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("starlette_context") is None:
        message = "llama-cpp-python's server cannot be imported: pip install codellama[peers]"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("peer")
    convert(locate("pocket"), folder / "pocket.gguf", "f32")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(folder / "pocket.gguf")]
    command += ["--n_ctx", "512", "--n_threads", "2", "--api_key", KEY]
    with _running(command, folder, wait_until) as url:
        yield url


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]) -> Iterator[str]:
    """The URL of llama.cpp's own server with the pocket model; it stands in no Python package."""
    program = shutil.which("llama-server")
    if program is None:
        pytest.skip("llama.cpp's llama-server is not in PATH: build it to run this test")
    folder = tmp_path_factory.mktemp("llama-server")
    convert(locate("pocket"), folder / "pocket.gguf", "f32")
    command = [program, "--model", str(folder / "pocket.gguf"), "-c", "2048", "-t", "2", "--api-key", KEY]
    with _running(command, folder, wait_until) as url:
        yield url


@contextlib.contextmanager
def _running(command: list[str], folder: Path, wait_until: Callable[..., None]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, 60)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def settings(llama_cpp_server: str, tmp_path: Path) -> ServeSettings:
    (tmp_path / "key").write_text(KEY + "\n")
    return ServeSettings(model=f"{llama_cpp_server}/v1", tokenizer="pocket", key_file=str(tmp_path / "key"))


def test_a_gap_is_filled_by_llama_server(llama_server: str, tmp_path: Path) -> None:
    """By `/infill`, from the model file's own infill tokens: what ours answers in the same layout, streamed
    too; and a plain completion.
    """
    (tmp_path / "key").write_text(KEY + "\n")
    settings = ServeSettings(model=f"{llama_server}/v1", key_file=str(tmp_path / "key"))
    engine = load_engine("pocket", device="cpu", quantize=None)
    gap = replace(GAP, extras=())
    expected = engine.run(replace(gap, mode="psm")).text
    result = ask(settings, lambda client: client.infill(gap))
    assert (result.text, result.stats.tokens, result.finish_reason) == (expected, 8, "length")
    assert ask(settings, lambda client: joined(client, gap)) == expected
    assert ask(settings, lambda client: client.infill(GAP)).stats.prompt_tokens > result.stats.prompt_tokens
    plain = CompletionRequest("import os\n", 8)
    assert ask(settings, lambda client: client.complete(plain)).text == engine.run(plain).text
    (model,) = ask(settings, lambda client: client.models())
    assert (model.can_infill, model.max_context) == (True, 2048)


def test_a_gap_is_filled_by_llama_cpps_server(settings: ServeSettings) -> None:
    """It knows neither /infill nor ids nor the model's own suffix: the prompt goes as text, and the model
    answers as ours does, whole and streamed.
    """
    # The prefix ends inside a token, which ours would spell anew: the layout that needs no such thing.
    expected = load_engine("pocket", device="cpu", quantize=None).run(replace(GAP, mode="psm")).text

    async def both(client: ModelClient) -> tuple[Any, str]:
        return await client.infill(GAP), await joined(client, GAP)

    result, streamed = ask(settings, both)
    assert result.text == streamed == expected
    assert result.stats.prompt_tokens > 10
    assert result.stats.tokens > 0


def test_it_completes_and_chats(settings: ServeSettings) -> None:
    prompt = CompletionRequest("import os\n", max_tokens=6)
    expected = load_engine("pocket", device="cpu", quantize=None).run(prompt).text

    async def all_three(client: ModelClient) -> tuple[str, str, str]:
        chat = ChatRequest((ChatMessage("user", "Hi"),), max_tokens=4, documents=(Extra("a.py", "x = 1\n"),))
        pieces = [piece async for piece in client.stream(chat)]
        return (await client.complete(prompt)).text, await joined(client, prompt), "".join(pieces)

    whole, streamed, chatted = ask(settings, all_three)
    assert whole == streamed == expected
    assert isinstance(chatted, str)


def test_its_refusals_are_told(settings: ServeSettings, tmp_path: Path) -> None:
    """A wrong key, a model it has not, text that would become a control token, no way without a tokenizer."""
    (tmp_path / "wrong").write_text("wrong")
    url = settings.model
    wrong = ServeSettings(model=url, key_file=str(tmp_path / "wrong"))
    with pytest.raises(Unauthorized, match=r"127\.0\.0\.1"):
        ask(wrong, lambda client: client.infill(GAP))
    other = ServeSettings(model=f"{url}#other", key_file=settings.key_file)
    with pytest.raises(UnknownModel, match="pocket"):
        ask(other, lambda client: client.infill(GAP))
    with pytest.raises(InvalidRequest, match="control"):
        ask(settings, lambda client: client.infill(InfillRequest("x = '<|suf|>'\n", "\n")))
    bare = ServeSettings(model=url, key_file=settings.key_file)
    with pytest.raises(InfillUnsupported, match=r"engine\.tokenizer"):
        ask(bare, lambda client: client.infill(GAP))
    missing = ServeSettings(model=url, key_file=str(tmp_path / "none"))
    with pytest.raises(InvalidRequest, match=r"engine\.key_file"):
        ask(missing, lambda client: client.infill(GAP))


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ServerError, match=f"127.0.0.1:{port}"):
        ask(ServeSettings(model=f"http://127.0.0.1:{port}"), lambda client: client.infill(GAP))


class StandIn:
    """A server that refuses as another does; `asked` are the routes and bodies that came."""

    def __init__(
        self, completions: Callable[[dict[str, Any]], tuple[int, Any]], listed: dict[str, Any]
    ) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.authorised: set[str | None] = set()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {"object": "list", "data": [listed]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.authorised.add(self.headers["Authorization"])
                stand_in.asked.append((self.path, body))
                if self.path == "/v1/completions":
                    self._answer(*completions(body))
                else:
                    self._answer(404, {"detail": "Not Found"})

            def _answer(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def generated(text: str) -> tuple[int, Any]:
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
    return 200, {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def vllm() -> Iterator[StandIn]:
    def completions(body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("suffix"):
            error = {"message": "suffix is not currently supported", "type": "BadRequestError", "code": 400}
            return 400, {"error": error}
        return generated("width * height")

    made = StandIn(completions, {"id": "llama", "object": "model", "owned_by": "vllm", "max_model_len": 300})
    yield made
    made.close()


@pytest.fixture
def ollama() -> Iterator[StandIn]:
    def completions(body: dict[str, Any]) -> tuple[int, Any]:
        if not isinstance(body["prompt"], str):
            message = (
                "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string"
            )
            return 400, {"error": {"message": message, "type": "invalid_request_error"}}
        return generated("width * height")

    made = StandIn(completions, {"id": "codellama:7b-code", "object": "model", "owned_by": "library"})
    yield made
    made.close()


def test_vllm_gets_a_prompt_of_ids(vllm: StandIn) -> None:
    """Exactly the ids that our engine would run, packed for the context that the server tells."""
    settings = ServeSettings(model=f"{vllm.url}/v1#llama", tokenizer="pocket")

    async def twice(client: ModelClient) -> tuple[Any, Any, Any]:
        return await client.infill(GAP), await client.infill(GAP), await client.model()

    first, second, info = ask(settings, twice)
    assert first == second
    assert (first.text, first.stats.prompt_tokens, first.stats.tokens) == ("width * height", 30, 4)
    assert info.max_context == 300
    routes = [path for path, _ in vllm.asked]
    assert routes == ["/infill", "/v1/completions", "/v1/completions"]  # what it lacks is asked for once
    engine = load_engine("pocket", device="cpu", quantize=None, max_context=300)
    body = vllm.asked[-1][1]
    assert body["prompt"] == engine.infill_ids(GAP.prefix, GAP.suffix, "psm", GAP.extras)
    assert body["stop_token_ids"]
    assert body["model"] == "llama"


def test_vllm_without_a_tokenizer_here_is_refused_with_a_reason(vllm: StandIn) -> None:
    with pytest.raises(InfillUnsupported, match=r"engine\.tokenizer"):
        ask(ServeSettings(model=vllm.url), lambda client: client.infill(GAP))


@pytest.mark.parametrize("tokenizer", ["", "pocket"])
def test_ollama_gets_a_suffix(ollama: StandIn, tokenizer: str) -> None:
    """It takes no ids; extras head the prompt as comments and text."""
    settings = ServeSettings(model=ollama.url, tokenizer=tokenizer)
    assert ask(settings, lambda client: client.infill(GAP)).text == "width * height"
    body = ollama.asked[-1][1]
    assert body["suffix"] == GAP.suffix
    assert body["prompt"] == "# Path: b.py\nx = 1\n\n" + GAP.prefix


def test_only_the_user_names_a_server(ollama: StandIn, home: Path, tmp_path: Path) -> None:
    """What a repository names is ignored with a warning and nothing is sent; what the user names is asked."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / ".codellama.toml").write_text(f'[completion]\nmodel = "{ollama.url}"\n')
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    source = repository / "a.py"
    source.write_text("def area(width, height):\n    return \n")

    def complete(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "codellama_cli", "complete", f"{source}:2:12", "--json", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = complete()
    assert done.returncode == 0, done.stderr
    assert "completion.model, which a repository may not" in done.stderr
    assert ollama.asked == []
    done = complete("--model", ollama.url)
    assert done.returncode == 0, done.stderr
    assert ollama.asked[-1][1]["suffix"] == "\n"
    assert json.loads(done.stdout)["text"] == "width * height"
    config = home / "config" / "codellama"
    config.mkdir()
    (config / "config.toml").write_text(f'[completion]\nmodel = "{ollama.url}"\n')
    (repository / ".codellama.toml").unlink()
    asked = len(ollama.asked)
    assert complete().returncode == 0
    assert len(ollama.asked) > asked
    daemon.stop()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, {"error": {"message": "slow down"}}, ServerBusy),
        (503, {"error": {"message": "Loading model", "type": "unavailable_error"}}, ServerBusy),
        (500, {"detail": "broken"}, ServerError),
        (502, "no object", ServerError),
        (200, {"unknown": "shape"}, ServerError),
    ],
)
def test_what_goes_wrong_there_is_typed(status: int, body: object, kind: type[Exception]) -> None:
    server = StandIn(lambda _: (status, body), {"id": "m"})
    try:
        with pytest.raises(kind) as refused:
            ask(ServeSettings(model=server.url), lambda client: client.complete(CompletionRequest("a")))
        assert type(refused.value) is kind
        assert server.url in str(refused.value)
    finally:
        server.close()


def test_the_local_token_stays_here(ollama: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens the server on this machine is sent to no other; a key for others has a name of its own."""
    monkeypatch.setenv("CODELLAMA_TOKEN", "local")
    for key, sent in (("", None), ("theirs", "Bearer theirs")):
        monkeypatch.setenv("CODELLAMA_REMOTE_KEY", key)
        ollama.authorised.clear()
        ask(ServeSettings(model=ollama.url), lambda client: client.complete(CompletionRequest("a")))
        assert ollama.authorised == {sent}


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the request and says nothing more; told, and not asked again."""
    monkeypatch.setattr("codellama.serve.exchange._LIST_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerError, match=f"{url} keeps silent"):
            ask(ServeSettings(model=url), lambda client: asyncio.wait_for(client.models(), 20))


def test_our_own_server_elsewhere_tells_everything(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its URL it is asked as here: the same text, ids, packing, errors by class, sessions and tokens."""
    with ThreadingForwarder(served.uds) as url:
        (tmp_path / "key").write_text(served.token)
        settings = ServeSettings(model=f"{url}#pocket", key_file=str(tmp_path / "key"))

        async def call(client: ModelClient) -> tuple[Any, Any]:
            result = await client.infill(GAP, session="a.py")
            with pytest.raises(InvalidRequest, match="temperature"):
                await client.complete(CompletionRequest("a", sampling=GAP.sampling.__class__(temperature=-1)))
            return result, await client.model()

        result, info = ask(settings, call)
    here = ask(ServeSettings(), lambda client: client.infill(GAP))
    assert (result.text, result.ids, result.packed) == (here.text, here.ids, here.packed)
    assert (info.name, info.can_infill, info.can_chat) == ("pocket", True, False)


class ThreadingForwarder:
    """A port of loopback that leads to a Unix socket, as a reverse proxy would."""

    def __init__(self, uds: str) -> None:
        self._uds = uds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._ends: list[socket.socket] = []

    def __enter__(self) -> str:
        self._threads[0].start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            far.connect(self._uds)
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=_pump, args=(source, sink))
                thread.start()
                self._threads.append(thread)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either side may be gone
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
