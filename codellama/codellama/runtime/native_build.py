"""Compiles `native.c` once for a machine, where it has a C compiler, and loads what came of it.

The library lies in the user's cache folder, named after all that it depends on: source, compiler, processor,
torch. Nobody waits for the compiler longer than two seconds: what takes longer is there at the next start.
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
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("native.c")
PATIENCE_S = 2.0
_COMPILERS = ("cc", "gcc", "clang")


def cache_folder() -> Path:
    """Where what is made once for a machine lies; `CODELLAMA_NATIVE` names another place, as tests do."""
    import platformdirs

    named = os.environ.get("CODELLAMA_NATIVE")
    return Path(named) if named else platformdirs.user_cache_path("codellama") / "native"


def native_library(folder: Path | None = None, patience_s: float = PATIENCE_S) -> ctypes.CDLL | None:
    """The compiled code; None where there is no compiler, where it fails, and while it still runs."""
    compiler = _compiler()
    if compiler is None:
        return None
    folder = folder or cache_folder()
    library = folder / f"native-{_key(compiler)}.so"
    refusal = library.with_suffix(".log")
    try:
        if not library.exists() and not refusal.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            build = threading.Thread(target=_build, args=(compiler, library, refusal), daemon=True)
            build.start()
            build.join(None if patience_s == math.inf else patience_s)
        return ctypes.CDLL(str(library)) if library.exists() else None
    except OSError as error:
        logging.warning("The compiled kernels cannot be used (%s): going on with torch's.", error)
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


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False, timeout=10).stdout
    parts = (SOURCE.read_bytes(), version, processor().encode(), torch.__version__.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _build(compiler: str, library: Path, refusal: Path) -> None:
    """Makes the library, or a log that says why not and keeps the next start from trying again."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, report = Path(folder) / library.name, ""
        for threads in (_thread_flags(), None):  # without threads where OpenMP is missing
            ran = [
                subprocess.run(command, capture_output=True, text=True, check=False)
                for command in _commands(compiler, Path(folder) / "native.o", made, threads)
            ]
            report = "\n".join(run.stderr for run in ran)
            if made.exists():
                os.replace(made, library)
                return
        refusal.write_text(report, encoding="utf-8")


def _commands(compiler: str, middle: Path, made: Path, threads: list[str] | None) -> list[list[str]]:
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    flags = ["-O3", native, "-fPIC", *(["-fopenmp"] if threads is not None else [])]
    return [
        [compiler, *flags, "-c", str(SOURCE), "-o", str(middle)],
        [compiler, "-shared", str(middle), *(threads or []), "-lm", "-o", str(made)],
    ]


def _thread_flags() -> list[str]:
    """OpenMP for the linker: torch's own where it brings one; two would keep each other's cores busy."""
    root = Path(torch.__file__).parent
    own = sorted([*root.glob("lib/libgomp*"), *root.glob("../torch.libs/libgomp*")])
    return [str(own[0])] if own else ["-fopenmp"]
