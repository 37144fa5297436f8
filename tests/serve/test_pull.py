"""`codellama models pull` against a stand-in of the hub's HTTP interface: its routes, headers and JSON.

The client is huggingface_hub itself; only where it asks is a server of this test.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from codellama.assist.meaning import Meaning
from codellama.runtime.embedding import EmbeddingModel
from codellama.runtime.errors import UnknownModel
from codellama.runtime.locate import locate
from codellama_cli import config, repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"
POCKET = locate("pocket")


class Hub:
    """Repositories by name, each its files; what was asked for is kept."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.damaged: set[str] = set()
        self.cut_after: int | None = None  # bytes of the next large file, then the connection breaks
        self.ranges: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

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

    def answer(self, http: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = http.path.split("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            self._info(http, found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(http, found[1], found[2], with_body)
        else:
            self._send(http, 404, {}, b"{}")

    def _info(self, http: BaseHTTPRequestHandler, name: str) -> None:
        if name not in self.files:
            self._send(http, 404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            return
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": git_name(data)}
            | (
                {"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134}}
                if is_large(path)
                else {}
            )
            for path, data in self.files[name].items()
        ]
        info = {
            "id": name,
            "sha": COMMIT,
            "siblings": siblings,
            "gated": "manual" if name in self.gated else False,
        }
        info["cardData"] = {"license": "llama2"}
        self._send(http, 200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _file(self, http: BaseHTTPRequestHandler, name: str, path: str, with_body: bool) -> None:
        if name in self.gated:
            self._send(http, 403, {"X-Error-Code": "GatedRepo"}, b"{}")
            return
        data = self.files[name][path]
        etag = sha256(data) if is_large(path) else git_name(data)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if not with_body:
            self._send(http, 200, headers, b"", len(data))
            return
        if path in self.damaged:
            data = bytes(len(data))
        start, status = 0, 200
        if asked := http.headers.get("Range"):
            self.ranges.append(asked)
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.cut_after is not None and is_large(path):
            cut, self.cut_after = self.cut_after, None
            self._send(http, status, headers, data[start : start + cut], len(data) - start)
            http.close_connection = True
            return
        self._send(http, status, headers, data[start:])

    @staticmethod
    def _send(
        http: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        length: int | None = None,
    ) -> None:
        http.send_response(status)
        for key, value in (
            headers | {"Content-Length": str(len(body) if length is None else length)}
        ).items():
            http.send_header(key, value)
        http.end_headers()
        http.wfile.write(body)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".gguf", ".pth"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    pocket = {file.name: file.read_bytes() for file in POCKET.iterdir() if file.is_file()}
    made.files["us/pocket"] = pocket | {
        "pytorch_model.bin": b"pickled",
        "original/consolidated.00.pth": b"pickled",
        "notes.txt": b"not needed",
        "LICENSE": b"terms",
    }
    made.files["us/pickled"] = {"config.json": pocket["config.json"], "pytorch_model.bin": b"pickled"}
    made.files["us/quantised"] = {"config.json": b"{}", "LICENSE": b"terms"} | {
        "a-q8_0.gguf": b"GGUF a",
        "a-q4_0.gguf": b"GGUF b",
    }
    yield made
    made.close()


def pull(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codellama_cli", "models", "pull", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_a_model_is_pulled_and_used(hub: Hub) -> None:
    """Licence and size first; safetensors and what belongs to them, no pickles; then it is a model's name."""
    done = pull("us/pocket", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert "us/pocket: licence llama2;" in done.stderr
    assert "(safetensors)" in done.stderr
    answer = json.loads(done.stdout)
    folder = Path(answer["path"])
    names = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "LICENSE"} <= names
    assert not names & {"pytorch_model.bin", "original", "notes.txt"}
    assert answer["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert (folder / "model.safetensors").read_bytes() == hub.files["us/pocket"]["model.safetensors"]
    assert locate("us/pocket") == folder
    again = pull("us/pocket", "--yes", "--json")  # nothing is fetched twice
    assert (again.returncode, json.loads(again.stdout)["path"]) == (0, str(folder))


def test_what_broke_off_goes_on(hub: Hub) -> None:
    """A broken connection is taken up again where it stopped, and the whole is checked."""
    size = 25 * 2**20  # the client writes in pieces of 10 MiB
    hub.files["us/pocket"]["model.safetensors"] = bytes(size)
    hub.cut_after = 15 * 2**20
    done = pull("us/pocket", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert hub.ranges
    assert all(0 < int(asked.removeprefix("bytes=").split("-")[0]) < size for asked in hub.ranges)


def test_a_damaged_file_is_refused(hub: Hub) -> None:
    """Of the right size and the wrong content: it is dropped, and the next pull fetches it anew."""
    for name in ("model.safetensors", "config.json"):
        hub.damaged = {name}
        done = pull("us/pocket", "--yes")
        assert (done.returncode, name in done.stderr) == (3, True)
    hub.damaged = set()
    assert pull("us/pocket", "--yes").returncode == 0


def test_pickles_are_refused_unless_asked_for(hub: Hub) -> None:
    done = pull("us/pickled", "--yes")
    assert done.returncode == 2
    assert "--pickles" in done.stderr
    done = pull("us/pickled", "--yes", "--pickles", "--json")
    assert done.returncode == 0, done.stderr
    assert (Path(json.loads(done.stdout)["path"]) / "pytorch_model.bin").is_file()


def test_one_of_several_gguf_files(hub: Hub) -> None:
    done = pull("us/quantised", "--yes")
    assert (done.returncode, "a-q4_0.gguf" in done.stderr) == (2, True)
    done = pull("us/quantised", "--file", "a-q4_0.gguf", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["path"])
    assert path.read_bytes() == b"GGUF b"
    assert {file.name for file in path.parent.iterdir()} == {"a-q4_0.gguf", "LICENSE"}
    assert f"--model {path}," in pull("us/quantised", "--file", "a-q4_0.gguf", "--yes").stdout
    assert locate("us/quantised") == path
    (path.parent / "config.json").write_text("{}")  # as other tools leave it
    assert locate("us/quantised") == path


def test_what_cannot_be_pulled_says_why(hub: Hub) -> None:
    """Each with one sentence, and nothing is fetched before somebody agreed."""
    hub.files["us/gated"] = {"config.json": b"{}", "model.safetensors": b"x"}
    hub.gated = {"us/gated"}
    for arguments, code, word in [
        (("us/none", "--yes"), 2, "us/none"),
        (("../up", "--yes"), 2, "OWNER/NAME"),
        (("no-owner", "--yes"), 2, "OWNER/NAME"),
        (("us/gated", "--yes"), 2, "HF_TOKEN"),
        (("us/pocket",), 2, "--yes"),
    ]:
        done = pull(*arguments)
        assert (done.returncode, word in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
    assert "to those who accepted" in pull("us/gated", "--yes").stderr  # whether one did is the hub's to say
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "huggingface"
    assert not list(cache.rglob("*.safetensors"))
    hub.close()
    done = pull("us/pocket", "--yes")
    assert (done.returncode, hub.url in done.stderr) == (3, True)
    hub.__init__()  # type: ignore[misc] # the fixture closes it


def test_names_of_pulled_models_are_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder of that name in the current one stands in for nothing; with ./ before it, it is the folder."""
    monkeypatch.delenv("HF_HOME", raising=False)
    snapshot = home / "cache" / "huggingface" / "hub" / "models--us--m" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("us/m") == snapshot
    (tmp_path / "us" / "m").mkdir(parents=True)
    (tmp_path / "us" / "m" / "config.json").write_text("{}")
    assert locate("us/m") == snapshot
    assert locate("./us/m") == tmp_path / "us" / "m"
    shutil.copytree("us/m", "us/other")
    with pytest.raises(UnknownModel, match=r"write \./us/other"):
        locate("us/other")
    for name, sent in (("us/m", "us/m"), ("./us/m", str(tmp_path / "us" / "m"))):
        loaded = config.load(None, {"completion.model": name, "engine.tokenizer": name})
        settings = repository.serve_settings(loaded, name)
        assert (settings.model, settings.tokenizer) == (sent, sent)
        assert Meaning(settings, name).name == sent
    with pytest.raises(UnknownModel, match=r"write \./us/m"):
        EmbeddingModel("us/m")
