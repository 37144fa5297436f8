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
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Listen on this port of --host, or of loopback.")
    ] = 0,
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
    serving = repository.serve_settings(settings, repository.checked_model(settings, "completion.model"))
    command = [*daemon.command(serving), "--foreground"]
    command += ["--keys", str(keys)] if keys else []
    command += [part for name in allow_host or () for part in ("--allow-host", name)]
    command += ["--uds", uds] if uds else ["--host", host or "127.0.0.1", "--port", str(port)]
    _make_room()
    sys.exit(_run(command))


def _make_room() -> None:
    """Ends a server that was started on demand: nobody would find it any more, and its model takes memory."""
    from codellama.serve import daemon
    from codellama_cli import output

    running = daemon.find()
    if running is None:
        return
    if running.foreground:
        output.warn(f"another codellama serve runs (process {running.pid}): new requests go to this one.")
        return
    output.note(f"The model server that was started on demand (process {running.pid}) is ended.")
    daemon.end(running)


def _run(command: list[str]) -> int:
    """Runs the server to its end; the exit code. What ends us ends it, as `--stop` does, at whatever it is.

    The terminal would interrupt the server's process as well, whose imports would answer with a traceback.
    """
    import signal
    import subprocess

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the server's process inherits
    try:
        process = subprocess.Popen(command)
    finally:
        signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
