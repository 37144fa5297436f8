"""Runs a generated program and says whether it passes: in a process of its own, with little to break.

The program gets a time limit, a memory limit, an empty folder, no network (a network namespace where the
system gives one, and in any case no sockets), no other programs and no files to write. That stops
accidents of generated code, not an attacker.
"""

import subprocess
import sys
import tempfile

TIME_S = 5.0
_MEMORY_BYTES = 1 << 30

# Runs before the program, which comes on stdin. CLONE_NEWUSER | CLONE_NEWNET leave it no network.
_GUARD = f"""
import sys
try:
    import ctypes, resource
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)
    for kind, most in (("AS", {_MEMORY_BYTES}), ("CPU", {int(TIME_S) + 1}), ("FSIZE", 0), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (most, most))
except (ImportError, AttributeError, OSError, ValueError):
    pass
def guard(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork",
                         "os.remove", "os.rename", "os.rmdir", "os.kill", "shutil.", "ctypes.")):
        raise PermissionError(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise PermissionError(event)
program = sys.stdin.read()
sys.stdin = open("/dev/null") if sys.platform != "win32" else None
sys.addaudithook(guard)
exec(compile(program, "program", "exec"), {{"__name__": "__main__"}})
"""


def passes(program: str, time_s: float = TIME_S) -> bool:
    """Whether the program ends by itself, in time and without an error."""
    try:
        compile(program, "program", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    with tempfile.TemporaryDirectory(prefix="codellama-eval-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", _GUARD],
                input=program.encode("utf-8", "replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=time_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
