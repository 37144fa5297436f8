"""The command as users and scripts run it: a real process, its output, its exit code."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from conftest import Golden
from tokenizer_support import write_llama3_chat

from codellama.serve import daemon
from codellama_cli.app import app
from codellama_index import open_index

FILES = {
    "retry.py": '"""Retries."""\n\n\ndef retry_delay(attempt: int) -> float:\n    """Seconds to wait."""\n'
    "    return min(60.0, 0.5 * 2**attempt)\n",
    "client.py": "from retry import retry_delay\n\n\ndef fetch(url: str) -> str:\n"
    "    wait = retry_delay(1)\n    return url\n",
    "main.go": "package main\n\n// ParseFlags reads the flags.\nfunc ParseFlags() int { return 1 }\n",
    "ui.ts": "export interface Theme { color: string }\nexport function applyTheme(theme: Theme): void {}\n",
    "lib.rs": "/// Cache size.\npub const CACHE_SIZE: usize = 10;\npub fn evict() {}\n",
    "view.js": "export function renderList(items) { return items.map(String); }\n",
}


@pytest.fixture
def project(home: Path) -> Iterator[Path]:
    """A small git repository in five languages; a server that was started for it is stopped."""
    folder = home / "project"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    yield folder
    daemon.stop()


def run(*arguments: str | Path, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the installed command."""
    command = [str(Path(sys.executable).with_name("codellama")), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, input=stdin, timeout=120, check=False
    )


def fails(code: int, words: str, *arguments: str | Path, cwd: Path | None = None, stdin: str = "") -> None:
    """The command ends with `code`, one sentence on stderr that holds `words`, and no traceback."""
    done = run(*arguments, cwd=cwd, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("question", "path"),
    [
        ("where is the retry delay decided?", "retry.py"),
        ("who calls retry_delay?", "client.py"),
        ("where are flags parsed?", "main.go"),
        ("where is the theme applied?", "ui.ts"),
        ("where is the cache size decided?", "lib.rs"),
        ("what renders the list?", "view.js"),
    ],
)
def test_ask_cites_what_stands_there(project: Path, question: str, path: str) -> None:
    """Citations quote the file at those lines, the right file first or among the first three."""
    done = run("ask", question, "--repo", project, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"answer", "citations", "retrieved", "model", "timings"}
    assert path in [citation["path"] for citation in found["citations"][:3]]
    for citation in found["citations"]:
        lines = (project / citation["path"]).read_text().split("\n")
        assert citation["verified"]
        assert citation["quote"] == "\n".join(lines[citation["start_line"] - 1 : citation["end_line"]])
    assert found["model"] == ""


def test_ask_goes_on_in_a_chat(project: Path) -> None:
    """--chat answers question by question from stdin, empty lines aside; what refers back is understood."""
    done = run("ask", "--chat", "--repo", project, stdin="where is retry_delay defined?\n\nwho calls it?\n")
    assert done.returncode == 0, done.stderr
    assert "retry_delay is defined here:" in done.stdout
    assert "retry_delay is used by:" in done.stdout
    fails(2, "choose one", "ask", "--chat", "--json", "--repo", project)


def test_complete(project: Path) -> None:
    """A completion by the real model, with sources from the index and the numbers behind it."""
    done = run("complete", f"{project / 'client.py'}:5:24", "--json", "--max-tokens", "8")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == {"text", "sources", "stats"}
    keys = {"prompt_tokens", "reused_tokens", "prefill_ms", "decode_ms", "tokens", "mean_logprob"}
    assert found["stats"].keys() == keys
    assert found["stats"]["prompt_tokens"] > 10
    assert "retry.py" in {source["path"] for source in found["sources"]}
    filled = run("infill", "--json", "--max-tokens", "4", stdin="def add(a, b):\n    return <FILL_ME>\n")
    assert json.loads(filled.stdout).keys() == {"text", "stats"}
    line = run("infill", "--single-line", stdin="def add(a, b): return <FILL_ME>\n").stdout
    assert (line.strip() != "", len(line.splitlines())) == (True, 1)
    running = json.loads(run("serve", "--status", "--json").stdout)
    assert Path(running["token_file"]).stat().st_mode & 0o777 == 0o600
    assert json.loads(run("serve", "--stop", "--json").stdout) == {"stopped": True}


def test_eval_infill(project: Path, home: Path) -> None:
    """Every way of asking is measured at the same places; the benchmark's folder must hold the benchmark."""
    fails(2, "name a repository", "eval", "infill", "--repo", project)
    for name in ("one.py", "two.py"):
        text = "".join(f"def area_{n}(side):\n    return side * {n} + MARGIN\n\n\n" for n in range(20))
        (project / name).write_text(text.replace("area", name[:3]))
    done = run("eval", "infill", "--repo", project, "--limit", "3", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"n": 3, "model": "pocket", "seed": 0}.items() < report.items()
    assert report["ways"]["evidence"]["exact_match"] > 0
    assert report["exact_match"] == report["ways"]["mixed"]["exact_match"]
    assert report["p50_ms"] > 0
    fails(2, "cannot be read", "eval", "infill", "--data", home)


def test_index_commands(project: Path) -> None:
    """build, status, symbols, refs, search, map and drop, as JSON in the contract's shapes."""

    def ask(*arguments: str) -> object:
        done = run("index", *arguments, "--json", cwd=project)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    built = ask("build")
    assert isinstance(built, dict)
    assert built.keys() >= {"files", "indexed", "skipped", "symbols", "seconds", "bytes"}
    assert (built["files"], built["indexed"]) == (6, 6)
    symbols = ask("symbols")
    assert isinstance(symbols, list)
    assert {"path", "line", "end_line", "name", "kind", "score"} <= symbols[0].keys()
    assert {"retry_delay", "ParseFlags", "Theme", "CACHE_SIZE", "renderList"} <= {s["name"] for s in symbols}
    assert [r["path"] for r in ask("refs", "retry_delay")] == ["client.py", "client.py"]  # type: ignore[attr-defined]
    assert ask("search", "theme")[0]["path"] == "ui.ts"  # type: ignore[index]
    assert {entry["path"] for entry in ask("map")} == set(FILES)  # type: ignore[attr-defined]
    assert ask("status")["files"] == 6  # type: ignore[index]
    assert ask("drop")["bytes"] > 0  # type: ignore[index]


def test_lists_that_are_empty_or_cut(project: Path) -> None:
    """Both are said on stderr; stdout holds what was found alone."""
    done = run("index", "symbols", "no_such_name", "--repo", project)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Nothing was found" in done.stderr
    done = run("index", "symbols", "e", "--limit", "1", "--repo", project)
    assert len(done.stdout.splitlines()) == 1
    assert "the first 1: --limit takes more" in done.stderr
    assert run("index", "refs", "retry_delay", "--repo", project).stderr == ""


def test_the_home_folder_is_not_indexed(home: Path) -> None:
    """Unless it is named; a file in it completes from itself alone."""
    (home / "notes.py").write_text("def first(path):\n    return path\n")
    fails(2, "holds more than a project", "ask", "where is first defined?", cwd=home)
    done = run("complete", "notes.py:2:12", "--json", cwd=home)
    daemon.stop()
    assert json.loads(done.stdout)["sources"] == []
    assert list((home / "cache" / "codellama").glob("index/*/*.sqlite")) == []
    assert "notes.py:1" in run("index", "symbols", "first", "--repo", home, cwd=home).stdout


def test_bad_input(project: Path, home: Path) -> None:
    """Each kind of bad input is one sentence and the right exit code."""
    (project / "image.bin").write_bytes(b"\0\1")
    fails(2, "no folder", "ask", "x", "--repo", home / "nowhere")
    fails(2, "empty", "ask", " ", "--repo", project)
    fails(2, "no file", "complete", project / "nowhere.py:1:1")
    fails(2, "no position", "complete", project / "retry.py")
    fails(2, "no line 99", "complete", f"{project}/retry.py:99:1")
    fails(2, "no column 99", "complete", f"{project}/retry.py:1:99")
    fails(2, "not a text file", "complete", f"{project}/image.bin:1:1")
    fails(2, "no model 'gpt'", "complete", f"{project}/retry.py:1:1", "--model", "gpt")
    fails(2, "config.json", "complete", f"{project}/retry.py:1:1", "--model", project)
    fails(2, "<FILL_ME>", "infill", stdin="nothing to fill")
    fails(3, "No model server", "serve", "--status")


def test_ask_with_a_chat_model(project: Path, home: Path) -> None:
    """An instruct model answers through the real server; this one is random, so its words mean nothing."""
    write_llama3_chat(home / "model")
    done = run(
        "ask", "where is the retry delay decided?", "--repo", project, "--model", home / "model", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == str(home / "model")
    assert "Composed" not in found["answer"]
    assert "<|" not in found["answer"]
    assert found["retrieved"][0]["path"] == "retry.py"


def test_an_empty_repository(home: Path) -> None:
    """There is nothing to cite, and that is said."""
    folder = home / "empty"
    folder.mkdir()
    done = run("ask", "where is anything?", "--repo", folder, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["citations"] == []


def test_a_corrupt_index_is_rebuilt(project: Path, home: Path) -> None:
    """Garbage where the index was: the question is answered all the same."""
    run("index", "build", project)
    (database,) = (home / "cache" / "codellama" / "index").glob("*/*.sqlite")
    database.write_bytes(b"garbage" * 1000)
    done = run("ask", "where is the retry delay decided?", "--repo", project, "--json")
    assert json.loads(done.stdout)["citations"][0]["path"] == "retry.py"


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_question_waits_for_many_changes(project: Path, home: Path, upgraded: bool) -> None:
    """After a pull, or an upgrade of codellama, it is answered from what is there now."""
    run("index", "build", project)
    if upgraded:
        (database,) = (home / "cache" / "codellama" / "index").glob("*/*.sqlite")
        schema, fingerprint, _ = database.name.split("-")
        database.rename(database.with_name(f"{schema}-{'0' * len(fingerprint)}-1.sqlite"))
    for n in range(200):  # more than a moment reads
        (project / f"new_{n}.py").write_text(f"def new_{n}():\n" + f"    return {n}\n" * 200)
    done = run("ask", "where is new_199 defined?", "--repo", project)
    assert "- new_199.py:1" in done.stdout
    assert done.stderr == ""


def test_a_damaged_model(project: Path, home: Path) -> None:
    """A truncated weight file is named, with what to do; exit code 3."""
    from codellama.runtime.locate import locate

    shutil.copytree(locate("pocket"), home / "model")
    weights = home / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    fails(3, "model.safetensors", "complete", f"{project}/retry.py:1:1", "--model", home / "model")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(project: Path, home: Path) -> None:
    """No permission is a sentence and exit code 3."""
    (home / "cache").chmod(0o500)
    fails(3, "index", "index", "build", project)


def test_configuration_and_its_sources(project: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment over repository over user over default; a repository may set harmless keys only. Where the
    user's belong is told, though nothing is there yet."""
    assert str(home / "config" / "codellama" / "config.toml") in run("config", "show").stderr
    (home / "config" / "codellama").mkdir()
    user = home / "config" / "codellama" / "config.toml"
    user.write_text("[completion]\nmax_tokens = 11\nbudget_bytes = 22\n[engine]\nidle_minutes = 3\n")
    (project / ".codellama.toml").write_text('[completion]\nmax_tokens = 33\nmodel = "/evil"\n')
    monkeypatch.setenv("CODELLAMA_ENGINE_IDLE_MINUTES", "4.5")
    done = run("config", "show", "--repo", project, "--json")
    shown = json.loads(done.stdout)
    assert shown["completion.max_tokens"] == {"value": 33, "source": str(project / ".codellama.toml")}
    assert shown["completion.budget_bytes"] == {"value": 22, "source": str(user)}
    assert shown["engine.idle_minutes"] == {"value": 4.5, "source": "CODELLAMA_ENGINE_IDLE_MINUTES"}
    assert shown["completion.model"] == {"value": "pocket", "source": "default"}
    assert "completion.model" in done.stderr
    assert "ignored" in done.stderr
    user.write_text("[completion]\nmax_tokns = 3\n")
    fails(2, "perhaps completion.max_tokens is meant", "config", "show")
    user.write_text("[completion]\nmodel = './nowhere'\n")
    fails(2, f"completion.model is set by {user}", "infill", stdin="a <FILL_ME>")
    user.write_text("[completion]\nmax_tokens = 'many'\n")
    fails(2, "completion.max_tokens", "config", "show")
    user.write_text("[[[")
    fails(2, "config.toml", "config", "show")


def test_doctor(home: Path) -> None:
    """Every check says what it found; a model may have any format; what is wrong is told in its place."""
    run("models", "convert", "pocket", home / "small.gguf", "--type", "q8_0")
    (home / "config" / "codellama").mkdir()
    user = home / "config" / "codellama" / "config.toml"
    user.write_text(f"[completion]\nmodel = '{home / 'small.gguf'}'\n")
    (home / "project").mkdir()
    (home / "project" / "a.py").write_text("x = 1\n")
    run("index", "build", home / "project")
    done = run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stdout
    assert all(check.keys() == {"name", "ok", "detail"} and check["ok"] for check in checks.values())
    assert "small.gguf" in checks["completion model"]["detail"]
    assert ", 0.0 MB of indexes" not in checks["index folder"]["detail"]
    user.write_text("[chat]\nmodel = 'nobody/nothing'\n")
    done = run("doctor")
    assert done.returncode == 1
    assert re.findall(r"^WRONG (.*?):", done.stdout, re.M) == ["chat model"]
    user.write_text("[chat]\nmodle = 'x'\n")
    assert re.findall(r"^WRONG (.*?):", run("doctor").stdout, re.M) == ["settings"]


def test_text_cannot_drive_the_terminal(project: Path) -> None:
    """Escapes in a file's text are not printed."""
    (project / "evil.py").write_text('def evil_escape():\n    """\x1b]0;owned\x07\x1b[2J"""\n')
    done = run("ask", "where is evil_escape?", "--repo", project)
    assert "evil_escape" in done.stdout
    assert "\x1b" not in done.stdout


def test_documentation_is_the_help(golden: Golden) -> None:
    """docs/cli.md is made of the commands' own help; every command has an example."""
    root = typer.main.get_command(app)
    pages = ["# Commands\n\nMade from the commands' help (`pytest --update` rewrites this page).\n"]

    def page(command: object, name: str) -> None:
        subcommands = getattr(command, "commands", {})
        if name != "codellama" and not subcommands:
            text = command.help or ""  # type: ignore[attr-defined]
            assert re.search(r"Example: (echo .*\| )?codellama", text), f"{name} has no example"
            rows = []
            for p in command.params:  # type: ignore[attr-defined]
                name_or_flags = (
                    " / ".join(p.opts) if p.param_type_name == "option" else p.metavar or p.name.upper()
                )
                if p.name != "help":
                    rows.append(f"- `{name_or_flags}` {p.help or ''}")
            example = text.partition("Example: ")
            body = f"{example[0].strip()}\n\n```sh\n{example[2].strip()}\n```\n"
            pages.append(f"## {name}\n\n{body}\n" + "\n".join(row.rstrip() for row in rows) + "\n")
        for sub, inner in sorted(subcommands.items()):
            page(inner, f"{name} {sub}")

    page(root, "codellama")
    golden.check("../../docs/cli.md", "\n".join(pages))


def test_ask_tells_that_the_index_may_be_stale(project: Path) -> None:
    """Where another process is writing the index, the answer comes from what is there, and says so."""
    run("index", "build", cwd=project)
    with open_index(project) as index, index.place.lock("write", 0.0):
        done = run("ask", "who calls retry_delay?", "--no-generate", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "client.py:5" in done.stdout
    assert "may be stale" in done.stderr
