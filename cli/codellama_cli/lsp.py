"""`codellama lsp`: the language server on stdio."""

from typing import Annotated

import typer

# What the language server has settings of; the others are for commands.
_GROUPS = ("completion", "chat", "engine", "index")


def lsp(
    stdio: Annotated[bool, typer.Option("--stdio", help="Accepted for editors that pass it.")] = True,
) -> None:
    """Run the language server on stdin and stdout; editors start it.

    Example: codellama lsp
    """
    from codellama_cli import repository
    from codellama_lsp.__main__ import main

    options: dict[str, dict[str, object]] = {}
    for key, value in repository.settings_for(None).values.items():
        group, _, name = key.partition(".")
        if group in _GROUPS:
            options.setdefault(group, {})[name] = value
    main([], options)
