"""The command's tree. The modules it imports import nothing heavy before they run."""

from typing import Annotated

import typer

import codellama
from codellama_cli.ask import ask
from codellama_cli.complete import complete
from codellama_cli.doctor import doctor
from codellama_cli.evaluate import evaluate
from codellama_cli.index import index
from codellama_cli.infill import infill
from codellama_cli.lsp import lsp
from codellama_cli.models import models
from codellama_cli.serve import serve
from codellama_cli.settings import config

app = typer.Typer(
    name="codellama",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: importing rich would double the time to show it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from codellama_cli import output

        output.print_text(f"codellama {codellama.__version__}")
        raise typer.Exit


@app.callback()
def codellama_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A code assistant that runs entirely on this machine.

    Example: codellama ask "where is the configuration read?"
    """


for command in (ask, complete, infill, serve, lsp, doctor):
    app.command()(command)
app.add_typer(index, name="index")
app.add_typer(models, name="models")
app.add_typer(config, name="config")
app.add_typer(evaluate, name="eval")
