"""Leave when the editor that started us is gone, even where it left our standard input open.

A thread, so that it works while the event loop is busy. It never ends anybody else's process.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

POLL_S = 1.0
GRACE_S = 2.0


def watch(process_id: int, on_death: Callable[[], None]) -> None:
    """Call `on_death` (from another thread) once the process is gone, then leave after a grace.

    A process that cannot be seen from here to begin with is not watched: an editor outside of our
    container sends a number that means nothing inside.
    """
    is_parent = sys.platform != "win32" and os.getppid() == process_id

    def alive() -> bool:
        # A parent that nobody reaps stays in the process table; that we got another one tells.
        return os.getppid() == process_id if is_parent else _exists(process_id)

    def poll() -> None:
        while alive():
            time.sleep(POLL_S)
        on_death()
        time.sleep(GRACE_S)
        os._exit(1)

    if alive():
        threading.Thread(target=poll, name="parent", daemon=True).start()


def _exists(process_id: int) -> bool:
    if sys.platform == "win32":
        import ctypes

        synchronize, timeout = 0x00100000, 0x102
        handle = ctypes.windll.kernel32.OpenProcess(synchronize, False, process_id)
        if not handle:
            return False
        running = ctypes.windll.kernel32.WaitForSingleObject(handle, 0) == timeout
        ctypes.windll.kernel32.CloseHandle(handle)
        return bool(running)
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
