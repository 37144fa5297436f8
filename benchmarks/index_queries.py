"""How fast the index answers on a large tree: symbols, search, a completion's context, `ask` as a process.

    python -m benchmarks.index_queries TREE

TREE is a checkout of some 4,000 files. Names and words come from the tree itself, chosen by a seed.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.report import Figure, write

from codellama_index import Index, open_index

_ROUNDS = 200


def timed(work: Callable[[int], object], rounds: int = _ROUNDS) -> tuple[float, float]:
    """Median and 95th percentile in ms."""
    spent = []
    for n in range(rounds):
        began = time.perf_counter()
        work(n)
        spent.append(1000 * (time.perf_counter() - began))
    spent.sort()
    return spent[rounds // 2], spent[int(rounds * 0.95)]


def cursors(index: Index, draw: random.Random) -> list[tuple[str, str, int]]:
    """Places in the middle of source files: path, text, byte offset at a line's end."""
    places = []
    for path in draw.sample(index.sources(), min(_ROUNDS, len(index.sources()))):
        text = index.read(path)
        lines = text.split("\n")
        places.append((path, text, len("\n".join(lines[: len(lines) // 2]).encode())))
    return places


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    tree = parser.parse_args().tree
    draw = random.Random(0)
    rows: list[Figure] = []

    def add(name: str, times: tuple[float, float], goal: float) -> None:
        rows.append(Figure(f"{name}, p50", round(times[0], 1), "ms"))
        rows.append(Figure(f"{name}, p95", round(times[1], 1), "ms", f"under {goal:.0f} ms", times[1] < goal))

    with open_index(tree) as index:
        index.sync()
        symbols = draw.sample(index.symbols(), _ROUNDS)
        words = [" ".join([*draw.sample(s.docstring.split() or [s.name], 1), s.name]) for s in symbols]
        places = cursors(index, draw)
        add("symbol by name", timed(lambda n: index.definitions(symbols[n].name)), 5)
        add("search", timed(lambda n: index.search(words[n])), 20)
        add("completion context", timed(lambda n: index.context(*_call(places[n % len(places)]))), 50)
        add("question", timed(lambda n: index.retrieve(f"where is {words[n]}?"), 40), 500)
        files = len(index.sources())
    command = [
        sys.executable,
        "-m",
        "codellama_cli",
        "ask",
        "where is the retry delay decided?",
        "--no-generate",
    ]
    # As installed: its modules are compiled once, not at each start.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = partial(_run, [*command, "--repo", str(tree)], environment)
    run(0)
    add("codellama ask --no-generate, whole process", timed(run, 7), 500)
    print(write("index_queries", rows, ("codellama", "tree-sitter"), {"tree": tree.name, "files": files}))


def _run(command: list[str], environment: dict[str, str], _: int) -> None:
    subprocess.run(command, check=True, capture_output=True, env=environment)


def _call(place: tuple[str, str, int]) -> tuple[str, int, str]:
    path, text, offset = place
    return path, offset, text


if __name__ == "__main__":
    main()
