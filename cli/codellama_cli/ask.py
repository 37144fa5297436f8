"""`codellama ask`: a question about a repository, answered with citations."""

import asyncio
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from codellama.assist.answer import Answer, Turn
    from codellama.assist.meaning import Meaning
    from codellama.serve.client import ModelClient
    from codellama_index import Index

Repo = Annotated[Path | None, typer.Option(help="The repository; default: the one around here.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

# Most questions wait no longer for changes on the disk: see `glanced`.
_REFRESH_S = 0.15


def ask(
    question: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION", help="The question, quoted or not; with --chat it may be left out."
        ),
    ] = None,
    repo: Repo = None,
    model: Annotated[str | None, typer.Option(help="An instruct model; default: chat.model.")] = None,
    max_context: Annotated[int, typer.Option(min=256, help="Tokens of context to use at most.")] = 100_000,
    generate: Annotated[bool, typer.Option(help="Let the model answer, if one is set.")] = True,
    chat: Annotated[bool, typer.Option("--chat", help="Go on with questions from stdin.")] = False,
    json: Json = False,
) -> None:
    """Answer a question about a repository, with citations that were read again.

    Example: codellama ask "where is the retry delay decided?" --repo ~/src/service
    """
    from codellama.runtime.errors import InvalidRequest
    from codellama.serve.client import ModelClient
    from codellama_cli import repository

    asked = " ".join(question or ()).strip()
    if chat and json:
        raise InvalidRequest("--chat talks and --json prints one document: choose one of them.")
    if not chat and not asked:
        raise InvalidRequest('The question is empty: ask something, such as "where is X decided?".')
    with repository.open_repository(repo) as index:
        settings = repository.settings_for(index.root, {"chat.model": model})
        name = settings.text("chat.model") if generate else ""
        if name:
            repository.checked_model(settings, "chat.model")
        repository.glanced(index, _REFRESH_S)
        client = ModelClient(repository.serve_settings(settings, name)) if name else None
        meaning = repository.meaning_for(settings)
        answered = partial(_answered, index, client, meaning, max_context, json)
        with asyncio.Runner() as runner:
            try:
                if chat:
                    _converse(lambda *turn: runner.run(answered(*turn)), asked)
                else:
                    runner.run(answered(asked, []))
            finally:
                if client is not None:
                    runner.run(client.aclose())


def _converse(answered: "Callable[[str, list[Turn]], Answer]", question: str) -> None:
    """Question by question to the end of stdin.

    Questions are waited for outside of the event loop, which would keep Ctrl-C from the wait. Of an answer to
    somebody at a terminal, Ctrl-C or a failure ends the answer alone.
    """
    from codellama.assist.answer import Turn
    from codellama.runtime.errors import CodellamaError
    from codellama_cli import output
    from codellama_index.errors import CodeIndexError

    history: list[Turn] = []
    asked: str | None = question
    while asked is not None:
        if asked:
            try:
                history.append(Turn(asked, answered(asked, history).answer))
            except (KeyboardInterrupt, CodellamaError, CodeIndexError) as error:
                if not sys.stdin.isatty():
                    raise
                output.note("\ninterrupted" if isinstance(error, KeyboardInterrupt) else f"error: {error}")
        asked = _next_question()


def _next_question() -> str | None:
    """The next line from stdin, with a prompt where somebody types it; None at its end."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        return line.strip() if line else None
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` lets lines be edited and recalled where it is there
    try:
        return input("> ").strip()
    except EOFError:
        print(file=sys.stderr)
        return None


async def _answered(
    index: "Index",
    client: "ModelClient | None",
    meaning: "Meaning | None",
    room: int,
    json: bool,
    question: str,
    history: "list[Turn]",
) -> "Answer":
    from codellama.assist.answer import answer
    from codellama_cli import loading, output
    from codellama_cli.reading import AnswerPrinter

    printer = AnswerPrinter(index.root)
    say = (lambda text: None) if json else printer.feed
    async with loading.shown(client):
        found = await answer(
            question,
            index,
            client,
            max_context=room,
            on_text=say,
            history=tuple(history),
            meaning=meaning,
            warn=output.warn,
        )
    if json:
        _print_json(found)
    else:
        printer.end()
        _print_sources(found, index.root)
    return found


def _print_json(found: "Answer") -> None:
    from codellama_cli import output

    output.print_json(
        {
            "answer": found.answer,
            "citations": found.citations,
            "retrieved": [
                {"path": h.path, "start_line": h.start_line, "end_line": h.end_line}
                | {"score": h.score, "why": h.why}
                for h in found.retrieved
            ],
            "model": found.model,
            "timings": found.timings,
        }
    )


def _print_sources(found: "Answer", root: Path) -> None:
    """The quotes that the answer does not show itself, and how long it took."""
    from codellama.assist.evidence import mark
    from codellama_cli import output

    for citation in found.citations:
        if citation.verified and citation.quote.strip() not in found.answer:
            output.print_linked(f"\n{mark(citation)}", root)
            output.print_code(citation.quote, citation.path, citation.start_line)
    seconds = ", ".join(f"{name[:-2]} {value * 1000:.0f} ms" for name, value in found.timings.items())
    output.print_text(f"\n{seconds}")
