"""The entry point: runs the command and turns its errors into one sentence and an exit code."""

import sys
from typing import NoReturn

from codellama.runtime.errors import CodellamaError
from codellama_index.errors import CodeIndexError

_INTERRUPTED = 130


def main() -> None:
    """Runs `codellama`; exits 0 done, 1 findings, 2 bad input, 3 the environment failed, 130 interrupted."""
    try:
        from codellama_cli.app import app

        app()
    except (CodellamaError, CodeIndexError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:  # typer's way to pass on a KeyboardInterrupt
            _end_interrupted()
        raise


def _end_interrupted() -> NoReturn:
    print("interrupted", file=sys.stderr)
    sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
