"""`codellama ask`: a question about a repository, answered with citations."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

Repo = Annotated[Path | None, typer.Option(help="The repository; default: the one around here.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def ask(
    question: Annotated[str, typer.Argument(help="The question, in words.")],
    repo: Repo = None,
    model: Annotated[str | None, typer.Option(help="An instruct model; default: chat.model.")] = None,
    max_context: Annotated[int, typer.Option(min=256, help="Tokens of context to use at most.")] = 8192,
    generate: Annotated[bool, typer.Option(help="Let the model answer, if one is set.")] = True,
    json: Json = False,
) -> None:
    """Answer a question about a repository, with citations that were read again.

    Example: codellama ask "where is the retry delay decided?" --repo ~/src/service
    """
    from codellama.assist.answer import answer
    from codellama.runtime.errors import InvalidRequest
    from codellama.runtime.locate import locate
    from codellama.serve.client import ModelClient
    from codellama_cli import output, repository

    if not question.strip():
        raise InvalidRequest('The question is empty: ask something, such as "where is X decided?".')
    with repository.open_repository(repo) as index:
        settings = repository.settings_for(index.root, {"chat.model": model})
        name = settings.text("chat.model") if generate else ""
        if name:
            locate(name)
        repository.refreshed(index)

        async def run() -> None:
            client = ModelClient(repository.serve_settings(settings, name)) if name else None
            try:
                say = (lambda text: None) if json else (lambda text: output.print_text(text, end=""))
                found = await answer(question, index, client, max_context=max_context, on_text=say)
            finally:
                if client is not None:
                    await client.aclose()
            if json:
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
                return
            output.print_text("\n")
            for citation in found.citations:
                if citation.quote and citation.quote.strip() in found.answer:
                    continue
                mark = "" if citation.verified else "  (not verified: these lines do not exist)"
                output.print_text(f"{citation.path}:{citation.start_line}-{citation.end_line}{mark}")
                if citation.verified:
                    output.print_code(citation.quote, citation.path, citation.start_line)
            seconds = ", ".join(f"{name[:-2]} {value * 1000:.0f} ms" for name, value in found.timings.items())
            output.print_text(f"\n{seconds}")

        asyncio.run(run())
