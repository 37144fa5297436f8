"""`codellama eval`: how good completions are, on a benchmark or on one's own repository."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codellama_cli.ask import Json, Repo
from codellama_cli.retrieval import retrieval

if TYPE_CHECKING:
    from codellama_cli.config import Config
    from codellama_index import Index

evaluate = typer.Typer(no_args_is_help=True, help="Measure how good the answers are.")


evaluate.command()(retrieval)


@evaluate.command("infill")
def infill(
    data: Annotated[
        Path | None, typer.Option(help="HumanEval-Infilling's folder; default: holes in the repository.")
    ] = None,
    repo: Repo = None,
    model: Annotated[str | None, typer.Option(help="Default: completion.model.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Holes at most; default: all, or 200.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the places in the repository.")] = 0,
    json: Json = False,
) -> None:
    """Measure completions: on a benchmark, whose answers are run, or at random places in a repository.

    Example: codellama eval infill --repo ~/src/service --limit 100
    """
    from codellama_cli import output, repository

    given = {"completion.model": model}
    if data is not None:
        settings = repository.settings_for(None, given)
        repository.checked_model(settings, "completion.model")
        report = _on_benchmark(settings, data, limit)
    else:
        with repository.open_repository(repo) as index:
            settings = repository.settings_for(index.root, given)
            repository.checked_model(settings, "completion.model")
            repository.refreshed(index)
            report = _on_repository(settings, index, limit or 200, seed)
    report = {"model": settings.text("completion.model"), **report}
    if json:
        output.print_json(report)
        return
    _print(report)


def _print(report: dict[str, object], indent: str = "") -> None:
    from codellama_cli import output

    for name, value in report.items():
        if isinstance(value, dict):
            output.print_text(f"{indent}{name}")
            _print(value, indent + "  ")
        else:
            output.print_text(f"{indent}{name:18} {value}")


def _on_benchmark(settings: "Config", data: Path, limit: int | None) -> dict[str, object]:
    """Both parts; the single lines' figures also stand at the top, as the command's own."""
    from codellama.assist import human_eval
    from codellama.serve.client import ModelClient
    from codellama_cli import output, repository

    parts = {name: human_eval.read_problems(data, name, limit) for name in human_eval.FILES}

    async def run() -> dict[str, dict[str, object]]:
        name = settings.text("completion.model")
        async with ModelClient(repository.serve_settings(settings, name)) as client:
            reports = {}
            for part, problems in parts.items():
                with output.count_progress(part) as move:
                    reports[part] = human_eval.report(await human_eval.answers(client, problems, part, move))
            return reports

    reports = asyncio.run(run())
    return {**reports["single-line"], "parts": reports}


def _on_repository(settings: "Config", index: "Index", limit: int, seed: int) -> dict[str, object]:
    """Every way of asking; what a completion would show, model and evidence mixed, also stands at the top."""
    from codellama.assist import holes
    from codellama.runtime.errors import InvalidRequest
    from codellama.serve.client import ModelClient
    from codellama_cli import output, repository

    texts = _texts(index)
    chosen = holes.choose(texts, limit, seed)
    if not chosen:
        raise InvalidRequest(f"There is no source file to measure on in {index.root}: name a repository.")

    async def run() -> dict[str, dict[str, object]]:
        name = settings.text("completion.model")
        async with ModelClient(repository.serve_settings(settings, name)) as client:
            with output.count_progress("asking") as move:
                return await holes.measure(client, index, texts, chosen, move)

    ways = asyncio.run(run())
    return {"seed": seed, "n": len(chosen), **ways["mixed"], "ways": ways}


def _texts(index: "Index") -> dict[str, str]:
    """The repository's source files, in the languages that the index knows."""
    from codellama_index.errors import CodeIndexError
    from codellama_index.languages import language_of
    from codellama_index.refusal import by_content
    from codellama_index.walk import walk

    texts = {}
    for file in walk(index.root):
        if file.skip or language_of(file.path) is None:
            continue
        try:
            text = index.read(file.path)
        except CodeIndexError:
            continue
        if not by_content(file.path, text):
            texts[file.path] = text.replace("\r\n", "\n")
    return texts
