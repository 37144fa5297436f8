"""`codellama config`: the settings in force."""

import typer

from codellama_cli.ask import Json, Repo

config = typer.Typer(no_args_is_help=True, help="The settings in force.")


@config.callback()
def _group() -> None:
    """Keeps `show` a sub-command while it is the only one."""


@config.command()
def show(repo: Repo = None, json: Json = False) -> None:
    """Print each setting with where it came from, and the file in which yours belong.

    Example: codellama config show
    """
    from codellama_cli import config as files
    from codellama_cli import output, repository
    from codellama_index.walk import find_root

    loaded = repository.settings_for(find_root(repository.place(repo)))
    if json:
        output.print_json(
            {key: {"value": value, "source": loaded.sources[key]} for key, value in loaded.values.items()}
        )
        return
    for key, value in loaded.values.items():
        output.print_text(f"{key} = {value!r}  ({loaded.sources[key]})")
    own = files.user_file()
    output.note(f"Your own settings belong in {own}{'' if own.is_file() else ', which is not there yet'}.")
