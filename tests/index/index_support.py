"""What the index's tests share: git without the user's configuration, and all that an index knows."""

import subprocess
from pathlib import Path

from codellama_index import Index


def git(folder: Path, *arguments: str) -> str:
    """Runs git without the user's own configuration."""
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write(folder: Path, path: str, text: str = "def f():\n    return 1\n") -> Path:
    """A file with this text; its folders are made."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def facts(index: Index) -> dict[str, object]:
    """All that an index knows, in an order that does not depend on its history."""
    report = index.status()
    symbols = index.symbols()
    names = sorted({symbol.name for symbol in symbols})
    some = names[:: len(names) // 12 + 1]
    return {
        "files": report.files,
        "skipped": sorted((s.path, s.reason) for s in report.skipped),
        "bytes": report.bytes,
        "symbols": symbols,
        "references": {name: index.references(name) for name in some},
        "search": {name: sorted((h.path, h.start_line) for h in index.search(name, 10_000)) for name in some},
    }
