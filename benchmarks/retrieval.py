"""Runs `codellama eval retrieval` on several repositories and writes one result.

    python -m benchmarks.retrieval docstrings REPOSITORY... [--questions N] [--back N]

Each repository is a checkout with its history; the result names its commit. The goal: recall at 5
(docstrings) or 10 (commits) of 0.80, above plain BM25 over chunks and over whole files by more than the
95 % interval. With CODELLAMA_EMBEDDINGS_MODEL set, passages are found by meaning as well.
"""

import argparse
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, write

from codellama.assist.retrieval import TASKS, evaluate_retrieval
from codellama_cli import config, repository
from codellama_index import open_index


def measure(task: str, folder: Path, questions: int, back: int) -> dict[str, Any]:
    """One repository's result, with the commit it is at."""
    head = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with open_index(folder) as index:
        if task == "docstrings":
            index.sync()
        meaning = repository.meaning_for(config.load(None))
        with meaning.blocking() if meaning else nullcontext() as model:
            results = evaluate_retrieval(index, tasks=[task], questions=questions, back=back, meaning=model)
    result: dict[str, Any] = results[task]
    return result | {"commit": head}


def figures(name: str, result: dict[str, Any]) -> list[Figure]:
    """Recall with its goal, what plain BM25 reaches, and each ablation."""
    depth = str(result["depth"])
    rows = [
        Figure(
            f"{name}: recall@{depth}",
            result["recall"]["ours"][depth],
            goal="at least 0.80",
            reached=result["recall"]["ours"][depth] >= 0.8,
            note=f"{result['n']} questions, {result['files']} files",
        )
    ]
    for way, recall in result["recall"].items():
        if way == "ours":
            continue
        margin = result["margin"].get(way)
        note = (
            f"ours {margin['mean']:+.3f}, 95 %: {margin['low']:+.3f} to {margin['high']:+.3f}"
            if margin
            else ""
        )
        goal = "below ours, outside the 95 % interval" if margin else ""
        rows.append(
            Figure(
                f"{name}: {way}",
                recall[depth],
                goal=goal,
                reached=margin["low"] > 0 if margin else None,
                note=note,
            )
        )
    rows.append(Figure(f"{name}: a question, p95", result["p95_ms"], "ms"))
    return rows


def main() -> None:
    """Measures repository by repository, and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("repositories", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--back", type=int, default=300)
    arguments = parser.parse_args()
    name, packages = f"retrieval-{arguments.task}", ["codellama", "tree-sitter"]
    if config.load(None).text("embeddings.model"):
        name, packages = f"{name}-embeddings", [*packages, "sentence-transformers"]
    results: dict[str, Any] = {}
    rows: list[Figure] = []
    for folder in arguments.repositories:
        results[folder.name] = measure(arguments.task, folder, arguments.questions, arguments.back)
        rows += figures(folder.name, results[folder.name])
        more = {"repositories": results, "back": arguments.back}
        print(write(name, rows, packages, more))


if __name__ == "__main__":
    main()
