"""`codellama lsp`: the language server on stdio."""

from typing import Annotated

import typer


def lsp(
    stdio: Annotated[bool, typer.Option("--stdio", help="Accepted for editors that pass it.")] = True,
) -> None:
    """Run the language server on stdin and stdout; editors start it.

    Example: codellama lsp
    """
    from codellama_cli import repository
    from codellama_lsp.__main__ import main
    from codellama_lsp.settings import Settings

    options: dict[str, dict[str, object]] = {}
    for key, value in repository.settings_for(None).values.items():
        group, _, name = key.partition(".")
        if hasattr(getattr(Settings(), group, None), name):  # the others are for commands
            options.setdefault(group, {})[name] = value
    main([], options)
