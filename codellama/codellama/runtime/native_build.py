"""Compiles `native.c` once for a machine, where it has a C compiler, and loads what came of it.

The library lies in the user's cache folder, named after all that it depends on: source, compiler, processor,
torch. Once a machine somebody waits for the compiler, two seconds as a rule and ten at most, since a server
that goes on without is half as fast until its next start, and chooses among no lines. What is loaded runs as
the user, so nothing is loaded that another user could have put there.
"""

import contextlib
import ctypes
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("native.c")
PATIENCE_S = 10.0
# How long a failed build is not repeated: a full disk or a lack of memory passes.
REFUSAL_S = 24 * 3600.0
# What a compiler may take to tell its version.
_VERSION_S = 10.0
_COMPILERS = ("cc", "gcc", "clang")


def cache_folder() -> Path:
    """Where what is made once for a machine lies; `CODELLAMA_NATIVE` names another place, as tests do."""
    if named := os.environ.get("CODELLAMA_NATIVE"):
        return Path(named)
    try:
        import platformdirs
    except ModuleNotFoundError:  # run from its sources beside a torch that was there, not installed
        return Path.home() / ".cache" / "codellama" / "native"
    return platformdirs.user_cache_path("codellama") / "native"


def native_library(folder: Path | None = None, patience_s: float = PATIENCE_S) -> ctypes.CDLL | None:
    """The compiled code; None where there is no compiler, where it fails, and while it still runs."""
    compiler = _compiler()
    if compiler is None:
        return None
    folder = folder or cache_folder()
    try:
        library = folder / f"native-{_key(compiler)}.so"
        refusal = library.with_suffix(".log")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder)
        if not library.exists() and not _refused(refusal):
            build = threading.Thread(target=_build, args=(compiler, library, refusal), daemon=True)
            build.start()
            build.join(None if patience_s == math.inf else patience_s)
        if not library.exists():
            return None
        _check_private(library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        _warn(error)
        return None


def processor() -> str:
    """What distinguishes the machine's processor from others: its name and what it can."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        telling = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(telling)}))
    return f"{platform.machine()} {platform.processor()}"


def _compiler() -> str | None:
    """The compiler that CC names, or the first of the usual ones."""
    return next(
        (path for name in (os.environ.get("CC"), *_COMPILERS) if name and (path := shutil.which(name))), None
    )


def _check_private(path: Path) -> None:
    """Raises PermissionError where another user owns a file or folder, or may write to it."""
    facts = path.stat()
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o022):
        raise PermissionError(f"{path} has to be yours, and writable for nobody else")


def _refused(refusal: Path) -> bool:
    """Whether a build has failed lately."""
    try:
        return time.time() - refusal.stat().st_mtime < REFUSAL_S
    except FileNotFoundError:
        return False


def _warn(error: Exception) -> None:
    logging.warning("The compiled kernels cannot be used (%s): going on with torch's.", error)


def _key(compiler: str) -> str:
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=False, timeout=_VERSION_S
    ).stdout
    parts = (SOURCE.read_bytes(), version, processor().encode(), torch.__version__.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _build(compiler: str, library: Path, refusal: Path) -> None:
    """Makes the library, or a log that says why not and keeps the next starts from trying again."""
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            report = _compile(compiler, Path(folder) / "native.o", made)
            if report is None:
                made.chmod(0o700)
                os.replace(made, library)
            else:
                refusal.write_text(report, encoding="utf-8")
    except OSError as error:
        _warn(error)


def _compile(compiler: str, middle: Path, made: Path) -> str | None:
    """None once `made` is a library that loads, else what the compiler said."""
    report = ""
    for threads in (_thread_flags(), None):  # without threads where OpenMP is missing
        for command in _commands(compiler, middle, made, threads):
            ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            report += ran.stderr
            if ran.returncode:
                break
        else:
            try:
                ctypes.CDLL(str(made))  # a compiler's calls may be for another OpenMP than torch's
            except OSError as error:
                report += f"{error}\n"
            else:
                return None
    return report


def _commands(compiler: str, middle: Path, made: Path, threads: list[str] | None) -> list[list[str]]:
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    # A compiler that fused products and sums as it likes could do so differently for one row and for six.
    flags = ["-O3", native, "-ffp-contract=off", "-fPIC", *(["-fopenmp"] if threads is not None else [])]
    return [
        [compiler, *flags, "-c", str(SOURCE), "-o", str(middle)],
        [compiler, "-shared", str(middle), *(threads or []), "-lm", "-o", str(made)],
    ]


def _thread_flags() -> list[str]:
    """OpenMP for the linker: torch's own where it brings one; two would keep each other's cores busy."""
    root = Path(torch.__file__).parent
    own = sorted([*root.glob("lib/libgomp*"), *root.glob("../torch.libs/libgomp*")])
    return [str(own[0])] if own else ["-fopenmp"]
