"""What goes to the terminal: JSON alone on stdout, or text; progress and warnings on stderr."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.runtime.errors import CodellamaError

if TYPE_CHECKING:
    from codellama_index.sync import Step


_PLACE = re.compile(r"([\w.@+/-]*[\w-]):\d+(?:-\d+)?")


def print_json(data: object) -> None:
    """The one JSON document of a command with --json."""
    try:
        _write(json.dumps(data, ensure_ascii=False, default=_plain) + "\n")
    except UnicodeEncodeError:  # stdout is not UTF-8, or the text holds what UTF-8 cannot
        _write(json.dumps(data, default=_plain) + "\n")


def print_text(text: str, end: str = "\n") -> None:
    """Text that may come from files or a model: characters that a terminal obeys are dropped."""
    from codellama.assist.filters import strip_escapes

    clean = strip_escapes(text) + end
    try:
        _write(clean)
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        encoding = sys.stdout.encoding or "ascii"
        _write(clean.encode(encoding, "replace").decode(encoding))


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {message}", file=sys.stderr)


def note(message: str) -> None:
    """One line on stderr that is no warning; what a terminal obeys is dropped."""
    from codellama.assist.filters import strip_escapes

    print(strip_escapes(message), file=sys.stderr)


def print_linked(text: str, root: Path) -> None:
    """Text in which each `path:line` of an existing file is a link, on a terminal that is asked nothing else.

    The link is OSC 8 to the file, written after the text's own escapes were dropped.
    """
    from codellama.assist.filters import strip_escapes

    clean = strip_escapes(text)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        clean = _PLACE.sub(lambda match: _link(match.group(), root / match.group(1)), clean)
        _write(f"{clean}\n".encode(sys.stdout.encoding or "ascii", "replace").decode(sys.stdout.encoding))
        return
    print_text(clean)


def _link(text: str, file: Path) -> str:
    return f"\x1b]8;;{file.absolute().as_uri()}\x1b\\{text}\x1b]8;;\x1b\\" if file.is_file() else text


def print_code(text: str, path: str, start_line: int) -> None:
    """A quote with line numbers; coloured on a terminal, plain when piped or under NO_COLOR.

    A line that is wider than the terminal goes on below: none is cut.
    """
    from codellama.assist.filters import strip_escapes

    clean = strip_escapes(text)
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        for n, line in enumerate(clean.split("\n"), start=start_line):
            print_text(f"{n:6}  {line}")
        return
    from rich.console import Console
    from rich.syntax import Syntax

    lexer = Syntax.guess_lexer(path, clean)
    Console().print(
        Syntax(
            clean,
            lexer,
            line_numbers=True,
            start_line=start_line,
            background_color="default",
            word_wrap=True,
        )
    )


@contextmanager
def progress(label: str) -> Iterator[Callable[["Step"], None]]:
    """A bar on stderr that an index's sync moves; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[files]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        # The path gets what is left of the line and never wraps it.
        TextColumn(
            "[dim]{task.fields[path]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(label, total=None, files="", rate="", path="looking for changes")
        began = time.monotonic()

        def move(step: "Step") -> None:
            rate = step.bytes / 1e6 / max(time.monotonic() - began, 0.1)
            bar.update(
                task,
                completed=step.bytes,
                total=step.all_bytes,
                files=f"{step.files}/{step.all_files} files",
                rate=f"{rate:.1f} MB/s",
                path=escape(step.path),
            )

        yield move


@contextmanager
def bytes_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that a long job moves by the bytes done and in all; nothing where it is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


@contextmanager
def large_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr by bytes that appears when it is first moved, and goes when all is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=None)

    def move(done: int, of: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=of)
        if done >= of:
            bar.stop()

    try:
        yield move
    finally:
        bar.stop()


@contextmanager
def count_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr by the things done and in all; nothing where it is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _write(text: str) -> None:
    """All that is ever written to stdout; a reader that left ends the command, a full disk is told."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered goes nowhere: at exit Python would try, and fail, to write it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as in `codellama index symbols | head`
            raise SystemExit(0) from error
        raise CodellamaError(
            f"The output cannot be written ({error.strerror}): free some space, or write it elsewhere."
        ) from error


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
