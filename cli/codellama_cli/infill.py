"""`codellama infill`: fills <FILL_ME> in a file or on stdin."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from codellama_cli.ask import Json

MARK = "<FILL_ME>"


def infill(
    file: Annotated[Path | None, typer.Argument(help="The file; default: stdin.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: completion.model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Default: completion.max_tokens.")] = None,
    single_line: Annotated[bool, typer.Option("--single-line", help="One line at most.")] = False,
    json: Json = False,
) -> None:
    """Fill <FILL_ME> in a file or on stdin, and print what belongs there.

    Example: echo 'def add(a, b): return <FILL_ME>' | codellama infill --single-line
    """
    from codellama.runtime.errors import InvalidRequest
    from codellama.runtime.records import InfillRequest
    from codellama.serve.client import ModelClient
    from codellama_cli import loading, output, repository

    text = _read(file)
    prefix, mark, suffix = text.partition(MARK)
    if not mark:
        raise InvalidRequest(f"There is no {MARK} in the text: write it where something is missing.")
    given = {"completion.model": model, "completion.max_tokens": max_tokens}
    settings = repository.settings_for(None, given)
    name = repository.checked_model(settings, "completion.model")
    most, stop = settings.whole("completion.max_tokens"), ("\n",) if single_line else ()
    request = InfillRequest(prefix, suffix, max_tokens=most, stop=stop)

    async def run() -> None:
        asked = ModelClient(repository.serve_settings(settings, name))
        async with asked as client, loading.shown(client):
            result = await client.infill(request)
        if json:
            output.print_json({"text": result.text, "stats": result.stats})
        else:
            output.print_text(result.text)

    asyncio.run(run())


def _read(file: Path | None) -> str:
    from codellama_cli import output
    from codellama_index.errors import NotText, PathNotFound
    from codellama_index.extract import decode

    if file is not None and not file.is_file():
        raise PathNotFound(f"There is no file {file}: name a file that exists.")
    try:
        if file is None and sys.stdin.isatty():
            output.note(f"Type the text with {MARK} in it; Ctrl-D ends it.")
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as error:
        raise PathNotFound(f"{file} cannot be read ({error.strerror}).") from error
    text = decode(content)
    if text is None:
        raise NotText(f"{file or 'stdin'} is not text: give source code.")
    return text
