"""`codellama serve`: the model server in the foreground, its status, its end."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from codellama_cli.ask import Json


def serve(  # noqa: PLR0913, PLR0917 - one for each option
    model: Annotated[str | None, typer.Option(help="Default: completion.model.")] = None,
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "",
    port: Annotated[int, typer.Option(help="Listen on this port of --host, or of loopback.")] = 0,
    uds: Annotated[str, typer.Option(help="Listen on this Unix socket.")] = "",
    keys: Annotated[Path | None, typer.Option(help="A file of clients' names and keys, for a team.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name besides this machine's that requests may give it.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Tell about the running server.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the running server.")] = False,
    json: Json = False,
) -> None:
    """Run the model server in the foreground; the other commands start one by themselves.

    Example: codellama serve --status --json
    """
    from codellama.runtime.errors import ServerError
    from codellama.runtime.locate import locate
    from codellama.serve import daemon
    from codellama_cli import output, repository

    if stop:
        ended = daemon.stop()
        if json:
            output.print_json({"stopped": ended})
        else:
            output.print_text("stopped" if ended else "no server was running")
        return
    if status:
        running = daemon.status()
        if running is None:
            if json:
                output.print_json({"running": False})
                return
            raise ServerError("No model server is running: the next completion starts one.")
        if json:
            output.print_json({"running": True, "models": [running.model], **asdict(running)})
        else:
            output.print_text("\n".join(f"{name}: {value}" for name, value in asdict(running).items()))
        return
    settings = repository.settings_for(None, {"completion.model": model})
    locate(settings.text("completion.model"))
    serving = repository.serve_settings(settings, settings.text("completion.model"))
    command = [*daemon.command(serving), "--foreground"]
    command += ["--keys", str(keys)] if keys else []
    command += [part for name in allow_host or () for part in ("--allow-host", name)]
    command += ["--uds", uds] if uds else ["--host", host or "127.0.0.1", "--port", str(port)]
    import subprocess

    sys.exit(subprocess.run(command, check=False).returncode)
