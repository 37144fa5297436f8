"""`python -m codellama.serve`: the model server's process. The only one that loads torch.

It loads the model, answers on a Unix socket or on loopback, and ends after idling or on SIGTERM.
"""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

import uvicorn

from codellama.runtime.errors import CodellamaError, ServerError
from codellama.serve import daemon
from codellama.serve.app import App
from codellama.serve.connections import MAX_HEAD, BoundedProtocol
from codellama.serve.keys import Keys
from codellama.serve.models import Loading, Models
from codellama.serve.security import Guard
from codellama.serve.worker import Worker

# Seconds: how long a load may hold up the start, how long requests may go on after a signal to end, and how
# long the threads that nobody waits for any more have for the step that they are in.
_LOADING_S = 10.0
_GRACE_S = 2
_STEP_S = 1.0


def main() -> None:
    """Serves until idle or told to stop; exits with the error's code and one sentence on stderr."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(arguments))
    except CodellamaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


async def _serve(arguments: argparse.Namespace) -> None:
    token = os.environ.get("CODELLAMA_TOKEN") or secrets.token_urlsafe(32)
    keys = Keys(token, arguments.keys)
    loads = Loading(
        arguments.device,
        arguments.dtype,
        arguments.quantize,
        arguments.max_context or None,
        int(arguments.memory_gb * 1e9),
        arguments.quantize_cache,
        arguments.draft_model,
    )
    roles = {"completion": arguments.model} | ({"chat": arguments.chat_model} if arguments.chat_model else {})
    worker = Worker(Models(loads, roles, only_roles=keys.shared))
    app = App(worker, log_requests=keys.shared)
    hosts = [*arguments.allow_host, *([arguments.host] if arguments.host else [])]
    config = uvicorn.Config(
        Guard(app.starlette(), keys, hosts),
        http=BoundedProtocol,
        h11_max_incomplete_event_size=MAX_HEAD,
        server_header=False,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    listener = _listen(arguments)  # before the model is loaded: that takes seconds
    loading = asyncio.ensure_future(worker.load(arguments.model))
    # A model that cannot be loaded ends the start with the reason, which the one who starts us reads. One
    # that is slow to load is published already: what clients ask for waits in the queue.
    await asyncio.wait({loading}, timeout=_LOADING_S)
    if loading.done():
        loading.result()

    def leave(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends on them, and then raises them again: that must not end us before the files are gone.
        signal.signal(number, leave)
    listener.listen(128)
    idle = asyncio.ensure_future(_leave_when_idle(server, app, arguments.idle_minutes * 60))
    state = daemon.publish(listener, token, arguments.model, arguments.foreground)
    if arguments.foreground:
        logging.info("listening at %s; the token lies in %s", _address(listener), state[0])
    try:
        await server.serve(sockets=[listener])
    finally:
        idle.cancel()
        daemon.withdraw(state)
        worker.close()
    # Minutes may be left of a load, or of texts to classify, which nothing can stop, and who ended us waits.
    if worker.models.is_loading or not await worker.ended(_STEP_S):
        logging.shutdown()
        os._exit(0)


async def _leave_when_idle(server: uvicorn.Server, app: App, seconds: float) -> None:
    while not server.should_exit:
        await asyncio.sleep(min(seconds / 4, 5.0))
        if not app.busy and time.monotonic() - app.last_used > seconds:
            logging.info("idle for %.0f s, leaving", seconds)
            server.should_exit = True


def _listen(arguments: argparse.Namespace) -> socket.socket:
    """A socket of the address that was asked for; raises ServerError where it cannot be had."""
    try:
        return _bound(arguments)
    except (OSError, OverflowError) as error:
        where = arguments.uds or f"{arguments.host or '127.0.0.1'}, port {arguments.port}"
        raise ServerError(
            f"The model server cannot listen at {where} ({error}): free that address, or name another."
        ) from error


def _bound(arguments: argparse.Namespace) -> socket.socket:
    if arguments.uds:
        path = Path(arguments.uds)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # the socket is born 0600
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    else:
        listener = socket.create_server((arguments.host or "127.0.0.1", arguments.port))
    return listener


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    return name if isinstance(name, str) else f"http://{name[0]}:{name[1]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="codellama.serve", description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--chat-model", default="", help="the model of conversations, where it is another")
    parser.add_argument("--uds", help="listen on this Unix socket")
    parser.add_argument("--host", default="", help="listen on this address instead of loopback")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--allow-host", action="append", default=[], help="a name in the Host header")
    parser.add_argument("--keys", type=Path, help="the clients' names and keys, a line each")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", default="auto")
    parser.add_argument("--quantize-cache", default="none", help="int8 or fp8 keys and values")
    parser.add_argument("--draft-model", default="", help="a smaller one that guesses for --chat-model")
    parser.add_argument("--max-context", type=int, default=0)
    parser.add_argument("--memory-gb", type=float, default=0.0, help="what the models' weights may take")
    parser.add_argument("--idle-minutes", type=float, default=15.0)
    parser.add_argument("--foreground", action="store_true", help="somebody keeps it: no client ends it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
