"""`codellama complete`: what an editor would show at a position."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from codellama_cli.ask import Json, Repo

# A completion is wanted now: what the index does not know by then, the next one may use.
_REFRESH_S = 1.0


def complete(
    position: Annotated[str, typer.Argument(metavar="FILE:LINE:COL", help="1-based, column in characters.")],
    repo: Repo = None,
    model: Annotated[str | None, typer.Option(help="Default: completion.model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Default: completion.max_tokens.")] = None,
    single_line: Annotated[bool, typer.Option("--single-line", help="One line at most.")] = False,
    json: Json = False,
) -> None:
    """Complete the code at a position, as the editor would.

    Example: codellama complete src/app.py:42:9
    """
    from codellama.assist.completion import CompletionQuery
    from codellama.assist.completion import complete as ask_model
    from codellama.serve.client import ModelClient
    from codellama_cli import loading, output, repository

    file, line, column = _position(position)
    with repository.open_repository(repo if repo is not None else file) as index:
        given = {"completion.model": model, "completion.max_tokens": max_tokens}
        settings = repository.settings_for(index.root, given)
        name = repository.checked_model(settings, "completion.model")
        path = _inside(file, index.root)
        text = index.read(path)
        offset = _offset(text, path, line, column)
        # A file in the home folder completes from itself alone.
        around = None if repo is None and repository.holds_everything(index.root) else index
        if around is not None:
            repository.refreshed(around, within_s=_REFRESH_S)
        query = CompletionQuery(
            path=path,
            text=text,
            offset=offset,
            max_tokens=settings.whole("completion.max_tokens"),
            single_line=True if single_line else None,
            budget_bytes=settings.whole("completion.budget_bytes"),
        )

        async def run() -> None:
            asked = ModelClient(repository.serve_settings(settings, name))
            async with asked as client, loading.shown(client):
                done = await ask_model(client, around, query)
            stats = done.stats
            numbers = {
                "prompt_tokens": stats.prompt_tokens,
                "reused_tokens": stats.reused_tokens,
                "prefill_ms": round(stats.prefill_s * 1000, 1),
                "decode_ms": round(stats.decode_s * 1000, 1),
                "tokens": stats.tokens,
                "mean_logprob": stats.mean_logprob,
            }
            if json:
                output.print_json({"text": done.text, "sources": done.sources, "stats": numbers})
                return
            secret = next((f": {reason}" for reason in done.filters if "secret" in reason), "")
            output.print_text(done.text or f"(no completion here{secret})")
            for source in done.sources:
                output.print_text(f"  {source.path}:{source.start_line}-{source.end_line}  {source.why}")
            if done.guess:
                output.print_text(
                    f"  as in {done.guess.source}" if not done.guess.own else "  as elsewhere here"
                )
            output.print_text(
                f"  {stats.tokens} tokens, prompt {stats.prompt_tokens} ({stats.reused_tokens} reused), "
                f"prefill {numbers['prefill_ms']} ms, decode {numbers['decode_ms']} ms"
            )

        asyncio.run(run())


def _position(position: str) -> tuple[Path, int, int]:
    from codellama.runtime.errors import InvalidRequest
    from codellama_index.errors import PathNotFound

    name, _, rest = position.rpartition(":")
    name, _, line = name.rpartition(":")
    if not name or not line.isdecimal() or not rest.isdecimal():
        raise InvalidRequest(f"{position!r} is no position: write FILE:LINE:COL, such as src/app.py:42:9.")
    file = Path(name)
    if not file.is_file():
        raise PathNotFound(f"There is no file {name}: name a file that exists.")
    return file, int(line), int(rest)


def _inside(file: Path, root: Path) -> str:
    from codellama_index.errors import PathNotFound

    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError as error:
        raise PathNotFound(f"{file} lies outside of {root}: name a file inside it.") from error


def _offset(text: str, path: str, line: int, column: int) -> int:
    """Bytes of UTF-8 before a 1-based line and column; a line's end is one past its last character."""
    from codellama_index.errors import PositionOutOfRange

    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise PositionOutOfRange(f"{path} has {len(lines)} lines, so there is no line {line} in it.")
    width = len(lines[line - 1].rstrip("\r"))
    if not 1 <= column <= width + 1:
        raise PositionOutOfRange(
            f"Line {line} of {path} has columns 1 to {width + 1}, so there is no column {column} in it."
        )
    before = "\n".join([*lines[: line - 1], lines[line - 1][: column - 1]])
    return len(before.encode("utf-8", "replace"))
