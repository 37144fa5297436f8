"""How an answer looks: links and coloured quotes on a terminal, plain lines where it is piped.

It is printed line by line as it comes. A fence whose info string is a place (`path:start-end`) is a quote
of that place.
"""

import re
from pathlib import Path

from codellama_cli import output

_FENCE = re.compile(r"^(`{3,})(\S+):(\d+)(?:-\d+)?$")


class AnswerPrinter:
    """Prints the pieces of one answer about the repository at `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pending = ""
        self._fence = ""
        self._path = ""
        self._start = 1
        self._quote: list[str] = []

    def feed(self, piece: str) -> None:
        """Prints what is whole by now: text by lines, quotes as a whole."""
        *lines, self._pending = (self._pending + piece).split("\n")
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """Prints the rest."""
        if self._pending:
            self._line(self._pending)
            self._pending = ""
        if self._fence:
            self._close()

    def _line(self, line: str) -> None:
        if self._fence:
            if line == self._fence:
                self._close()
            else:
                self._quote.append(line)
            return
        opened = _FENCE.match(line)
        if opened:
            self._fence, self._path, self._start = opened.group(1), opened.group(2), int(opened.group(3))
            return
        output.print_linked(line, self._root)

    def _close(self) -> None:
        output.print_code("\n".join(self._quote), self._path, self._start)
        self._fence, self._quote = "", []
