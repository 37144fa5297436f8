"""The entry point: runs the command and turns its errors into one sentence and an exit code."""

import sys

from codellama.runtime.errors import CodellamaError
from codellama_cli.app import app
from codellama_index.errors import CodeIndexError

_INTERRUPTED = 130


def main() -> None:
    """Runs `codellama`; exits 0 done, 1 findings, 2 bad input, 3 the environment failed, 130 interrupted."""
    try:
        app()
    except (CodellamaError, CodeIndexError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:  # typer's way to pass on a KeyboardInterrupt
            print("interrupted", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
