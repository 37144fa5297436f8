"""Completions over LSP with the pocket model: `python -m benchmarks.lsp PART`.

`latency`: random places in packages that the model never saw, indexed as workspace folders, the rest of the
line taken away; then typing along, and cancelling. `start`: the answer to `initialize` against a bare pygls
server's. Parts are measured apart and written together.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks import report
from benchmarks.lsp_client import Client, frame, home, text_of
from benchmarks.report import Figure

# None of these is in codellama/training/corpus-python.txt.
UNSEEN = (
    "pygls",
    "importlinter",
    "cattrs",
    "filelock",
    "httpcore",
    "huggingface_hub",
    "markdown_it",
    "openai",
)
_SIZES = (1500, 60_000)
_PARTS = {
    "context_ms": "of it, snippets and syntax",
    "prefill_ms": "of it, the prompt",
    "decode_ms": "of it, the answer",
    "model_ms": "of it, the model server in all",
    "filters_ms": "of it, evidence and filters after the model",
}


_BARE = """
from pygls.lsp.server import LanguageServer
LanguageServer("bare", "1").start_io()
"""


def main() -> None:
    """Measures a part and writes `results/lsp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("latency", "start"))
    parser.add_argument("--places", type=int, default=500)
    given = parser.parse_args()
    with home() as folder:
        figures = start() if given.part == "start" else latency(folder, given.places)
    print(merged("lsp", figures))


def merged(name: str, figures: list[Figure]) -> str:
    """Writes figures beside those of the other parts, whose values of before they replace."""
    file = report.RESULTS / f"{name}.json"
    old = json.loads(file.read_text())["figures"] if file.is_file() else []
    new = {figure.name for figure in figures}
    kept = [Figure(**row) for row in old if row["name"] not in new]
    return report.write(name, [*kept, *figures], ("codellama", "pygls", "torch"))


def latency(folder: Path, count: int) -> list[Figure]:
    """Random places, typing along what was suggested there, cancelling."""
    roots = []
    for name in UNSEEN:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        roots.append(Path(shutil.copytree(Path(spec.origin).parent, folder / "unseen" / name)))
    client = Client(workspaceFolders=[{"uri": root.as_uri(), "name": root.name} for root in roots])
    client.ready()
    times, along, cancelled, after = [], [], [], []
    texts = []
    spent: dict[str, list[float]] = {name: [] for name in _PARTS}
    for number, (uri, before, rest) in enumerate(_places(roots, count)):
        line, character = before.count("\n"), len(before) - before.rfind("\n") - 1
        client.open(uri, before + rest)
        began = time.perf_counter()
        came, answer = client.answer(client.ask_completion(uri, line, character))
        times.append(1000 * (came - began))
        texts.append(text_of(answer))
        why = client.call("workspace/executeCommand", {"command": "codellama.why"})
        for name in _PARTS:
            spent[name].append(why.get("model_times", {}).get(name, 0.0))
        if texts[-1] and len(along) < 1000:
            along += _typed_along(client, uri, line, character, texts[-1])
        if number % 10 == 0:
            one, two = _cancelled(client, uri, before + rest)
            cancelled.append(one)
            after.append(two)
        client.close(uri)
    client.stop()
    return [
        at_most("request to answer, p50", times, 0.5, 250, f"{len(times)} places in {len(UNSEEN)} packages"),
        at_most("request to answer, p95", times, 0.95, 500),
        _share("answers that are not empty", sum(map(bool, texts)) / len(texts), 0.6),
        at_most("typing along a suggestion, p95", along, 0.95, 5, f"{len(along)} keys"),
        at_most("cancel to error -32800, the longest", cancelled, 1.0, 100, f"{len(cancelled)} times"),
        Figure("the next answer after a cancel, p50", _quantile(after, 0.5), "ms"),
        *(
            Figure(
                f"{what}, p50 and p95",
                _quantile(spent[name], 0.5),
                "ms",
                note=f"p95 {_quantile(spent[name], 0.95):.0f} ms",
            )
            for name, what in _PARTS.items()
        ),
    ]


def start() -> list[Figure]:
    """The quickest of several starts in turn, ours and one that does nothing."""
    ours, bare = [], []
    for _ in range(15):
        bare.append(_initialized_s([sys.executable, "-c", _BARE]))
        ours.append(_initialized_s([sys.executable, "-m", "codellama_lsp", "--stdio"]))
    ratio = min(ours) / min(bare)
    note = f"{1000 * min(ours):.0f} ms, bare pygls {1000 * min(bare):.0f} ms, the quickest of 15 each"
    return [
        Figure("answer to initialize, times a bare server's", ratio, "", "at most 1.3", ratio <= 1.3, note)
    ]


def _initialized_s(command: list[str]) -> float:
    """Seconds from the start of the process to its answer."""
    params = {"processId": None, "rootUri": None, "capabilities": {}}
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame({"id": 1, "method": "initialize", "params": params}))
        process.stdin.flush()
        process.stdout.readline()
        elapsed = time.perf_counter() - began
        process.stdin.close()
        process.stdout.read()
    return elapsed


def _places(roots: list[Path], count: int) -> Iterator[tuple[str, str, str]]:
    """A file's URI, the text before the cursor, and the text from the cursor's line end on."""
    chance = random.Random(20)
    files = [
        file
        for root in roots
        for file in sorted(root.rglob("*.py"))
        if _SIZES[0] < file.stat().st_size < _SIZES[1]
    ]
    done = 0
    while done < count:
        file = chance.choice(files)
        text = file.read_text(encoding="utf-8")
        place = chance.randrange(len(text))
        end = text.find("\n", place)
        if end > 0 and len(text[place:end].strip()) >= 3 and text.isascii():
            done += 1
            yield file.as_uri(), text[:place], text[end:]


def _typed_along(client: Client, uri: str, line: int, character: int, text: str) -> list[float]:
    times = []
    for n, key in enumerate(text.split("\n", 1)[0][:8]):
        client.replace(uri, line, character + n, character + n, key)
        began = time.perf_counter()
        came, answer = client.answer(client.ask_completion(uri, line, character + n + 1))
        if text_of(answer) == text[n + 1 :]:
            times.append(1000 * (came - began))
    return times


def _cancelled(client: Client, uri: str, text: str) -> tuple[float, float]:
    """Milliseconds from a cancel to its error, and of the request after it."""
    line = text.count("\n") // 2
    asked = client.ask_completion(uri, line, 0)
    time.sleep(0.02)
    began = time.perf_counter()
    client.notify("$/cancelRequest", {"id": asked})
    came, _ = client.answer(asked)
    again = time.perf_counter()
    late, _ = client.answer(client.ask_completion(uri, max(line - 1, 0), 0))
    return 1000 * (came - began), 1000 * (late - again)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def at_most(name: str, values: list[float], share: float, goal: float, note: str = "") -> Figure:
    value = _quantile(values, share)
    return Figure(name, value, "ms", f"at most {goal:g} ms", value <= goal, note)


def _share(name: str, value: float, goal: float, note: str = "") -> Figure:
    return Figure(name, 100 * value, "%", f"at least {100 * goal:g} %", value >= goal, note)


if __name__ == "__main__":
    main()
