"""`codellama lsp`, or `python -m codellama_lsp`: the language server on standard input and output.

Nothing but messages may reach standard output: what stray code prints goes to standard error.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn


def main(
    argv: Sequence[str] | None = None,
    options: Mapping[str, object] | None = None,
    problems: tuple[str, ...] = (),
) -> NoReturn:
    """Serve until the client leaves, then end the process: 0 after `shutdown`, else 1.

    `options` are settings shaped like the client's `initializationOptions`, which override them:
    the command line passes what the configuration file says, and as `problems` what is wrong in it,
    a sentence each, to be shown to the person.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(message)s")
    if arguments.log_level != "debug":
        # pygls logs tracebacks of what it has answered already.
        logging.getLogger("pygls").setLevel(logging.CRITICAL)
    from codellama_lsp.server import create_server
    from codellama_lsp.settings import Settings, read

    stdin, stdout = _take_over_stdio()
    defaults, refused = read(options, Settings())
    stream = os.fdopen(stdout, "wb")
    server = create_server(defaults, (*problems, *refused))
    code = asyncio.new_event_loop().run_until_complete(server.serve(stdin, stream))
    logging.shutdown()
    # Not by returning: a thread may still be waiting for a model server to start, for a minute.
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codellama lsp", description="The language server, on standard input and output."
    )
    parser.add_argument("--stdio", action="store_true", help="the only transport; may be left out")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")
    return parser


def _take_over_stdio() -> tuple[int, int]:
    """Private descriptors of both streams; children and stray prints get none of them."""
    sys.stdout.flush()
    stdin, stdout = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return stdin, stdout


if __name__ == "__main__":
    main()
