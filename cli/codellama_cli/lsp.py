"""`codellama lsp`: the language server on stdio."""

import sys
from typing import Annotated

import typer


def lsp(
    stdio: Annotated[bool, typer.Option("--stdio", help="Accepted for editors that pass it.")] = True,
) -> None:
    """Run the language server on stdin and stdout; editors start it.

    Example: codellama lsp
    """
    from codellama.runtime.errors import InvalidRequest
    from codellama_cli import output, repository
    from codellama_lsp.__main__ import main
    from codellama_lsp.settings import Settings

    if sys.stdin.isatty():
        output.note(
            "The language server waits for an editor on standard input: docs/editors.md. Ctrl-C ends it."
        )
    options: dict[str, dict[str, object]] = {}
    try:
        values = repository.settings_for(None).values
    except InvalidRequest as error:  # an editor would only say that its server had ended
        main([], problems=(f"{error} Until then your settings are left out.",))
    for key, value in values.items():
        group, _, name = key.partition(".")
        if hasattr(getattr(Settings(), group, None), name):  # the others are for commands
            options.setdefault(group, {})[name] = value
    main([], options)
