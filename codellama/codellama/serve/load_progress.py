"""Shows a load that takes a while: a bar on a terminal, else every tenth in the log."""

import logging
import sys
from collections.abc import Callable

LARGE = 10**9  # bytes of weights from which a load is told step by step


def load_progress(name: str) -> Callable[[int, int], None]:
    """Called with the bytes of weights that are loaded, and all there are."""
    return _bar(name) if sys.stderr.isatty() else _tenths(name)


def _bar(name: str) -> Callable[[int, int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (f"loading {name}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("")

    def report(done: int, of: int) -> None:
        if of < LARGE:
            return
        if not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=of)
        if done >= of:
            bar.stop()

    return report


def _tenths(name: str) -> Callable[[int, int], None]:
    told = 0

    def report(done: int, of: int) -> None:
        nonlocal told
        tenths = 10 * done // of
        if of >= LARGE and tenths > told:
            told = tenths
            logging.info("loading the model %s: %d %% of %.1f GB", name, 10 * tenths, of / 1e9)

    return report
