"""`codellama eval retrieval`: how often what is asked for is found, in the user's own repository."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codellama_cli.ask import Json, Repo

if TYPE_CHECKING:
    from collections.abc import Mapping

Tasks = Annotated[str, typer.Option(help="docstrings, commits or both, with a comma between.")]


def retrieval(
    repo: Repo = None,
    tasks: Tasks = "docstrings,commits",
    questions: Annotated[int, typer.Option(min=1, help="At most so many of each task.")] = 200,
    back: Annotated[int, typer.Option(min=1, help="Ask for the last so many commits.")] = 300,
    seed: Annotated[int, typer.Option(help="Chooses the questions.")] = 0,
    json: Json = False,
) -> None:
    """Measure how often retrieval finds what was asked for, beside plain BM25 and without each signal.

    Docstrings ask for their functions, in a copy without documentation; commit messages ask for the files
    that they changed, in the tree before them.

    Example: codellama eval retrieval --repo ~/src/service --questions 100
    """
    from codellama.assist.retrieval import TASKS, evaluate_retrieval
    from codellama.runtime.errors import InvalidRequest
    from codellama_cli import output, repository

    wanted = tuple(task.strip() for task in tasks.split(",") if task.strip())
    if not wanted or not set(wanted) <= set(TASKS):
        raise InvalidRequest(f"--tasks {tasks} names no task: choose of {' and '.join(TASKS)}.")
    with repository.open_repository(repo) as index:
        if "docstrings" in wanted:
            repository.refreshed(index)
        meaning = repository.meaning_for(repository.settings_for(index.root))
        with meaning.blocking() if meaning else nullcontext() as model:
            results = evaluate_retrieval(
                index, tasks=wanted, questions=questions, back=back, seed=seed, meaning=model
            )
    if json:
        output.print_json(results)
        return
    for task, result in results.items():
        _show(task, result)


def _show(task: str, result: "Mapping[str, Any]") -> None:
    from codellama_cli import output

    output.print_text(f"{task}: {result['n']} questions about {result['files']} files")
    if not result["n"]:
        output.print_text("  nothing to ask: no documented function, or no commit with a telling message")
        return
    depths = list(next(iter(result["recall"].values())))
    output.print_text(f"  {'recall at':18}" + "".join(f"{depth:>8}" for depth in depths))
    for way, recall in result["recall"].items():
        output.print_text(f"  {way:18}" + "".join(f"{recall[depth]:8.3f}" for depth in depths))
    for way, margin in result["margin"].items():
        output.print_text(
            f"  above {way} by {margin['mean']:+.3f} at {result['depth']}"
            f" (95 %: {margin['low']:+.3f} to {margin['high']:+.3f})"
        )
    output.print_text(f"  {result['p50_ms']:.0f} ms a question, {result['p95_ms']:.0f} ms at p95")
