"""Where the corpus comes from: the standard library and pinned packages, with the licence of each.

`fetch` lets the ordinary package clients bring the archives that `corpus-python.txt` and `corpus-npm.txt`
pin into a cache folder; nothing of them is installed or run. `read_packages` opens what lies there. What
names no permissive licence, or a copyleft one beside it, is left out.
"""

import email
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath

PINS = Path(__file__).parent
SUFFIXES = frozenset({".py", ".js", ".mjs", ".ts"})

PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|0BSD|Zlib|CC0|Unlicense|HPND)\b", re.I
)
RESTRICTED = re.compile(r"GPL|MPL|Mozilla|EPL|CDDL|EUPL|proprietary|commercial", re.I)


@dataclass(frozen=True, slots=True)
class Package:
    """One source of files, (path, bytes) each, with the licence that its metadata names."""

    name: str
    version: str
    licence: str
    files: tuple[tuple[str, bytes], ...]


def fetch(cache: Path) -> None:
    """Brings every pinned archive that the cache lacks, by pip and npm."""
    cache.mkdir(parents=True, exist_ok=True)
    for pin in _pins("corpus-python.txt"):
        if not any(_same(pin.partition("==")[0], path) for path in cache.glob("*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--only-binary", ":all:", "--dest", str(cache), pin], check=True)
    for pin in _pins("corpus-npm.txt"):
        name, _, version = pin.rpartition("@")
        if not (cache / f"{name}-{version}.tgz").exists():
            subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", pin], check=True, cwd=cache)


def read_packages(cache: Path) -> Iterator[Package]:
    """The permissively licensed archives in the cache, by file name."""
    for archive in sorted(cache.iterdir()):
        package = {".whl": _wheel, ".tgz": _npm}.get(archive.suffix, lambda _: None)(archive)
        if package is not None:
            yield package


def standard_library() -> Package:
    """The running interpreter's own modules."""
    root = Path(sysconfig.get_path("stdlib"))
    files = tuple(
        (path.relative_to(root).as_posix(), path.read_bytes()) for path in sorted(root.rglob("*.py"))
    )
    return Package("python", sysconfig.get_python_version(), "PSF-2.0", files)


def licence_of(metadata: Message) -> str | None:
    """The licence that a distribution's metadata names, if that is permissive and nothing else."""
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    stated = metadata["License-Expression"] or " ".join(
        [
            str(metadata["License"] or "").strip().split("\n")[0],
            *(c.split("::")[-1].strip() for c in classifiers),
        ]
    )
    return _permissive(str(stated))


def _permissive(stated: str) -> str | None:
    stated = stated.strip()
    return stated if PERMISSIVE.search(stated) and not RESTRICTED.search(stated) else None


def _wheel(path: Path) -> Package | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        described = next((n for n in names if n.endswith(".dist-info/METADATA")), None)
        if described is None:
            return None
        metadata = email.message_from_bytes(archive.read(described))
        licence = licence_of(metadata)
        if licence is None:
            return None
        files = tuple((n, archive.read(n)) for n in names if PurePosixPath(n).suffix == ".py")
    return Package(str(metadata["Name"]), str(metadata["Version"]), licence, files)


def _npm(path: Path) -> Package | None:
    with tarfile.open(path) as archive:
        files = {}
        for member in archive:
            name = member.name.removeprefix("package/")
            wanted = PurePosixPath(name).suffix in SUFFIXES or name == "package.json"
            content = archive.extractfile(member) if wanted and member.isfile() else None
            if content is not None:
                files[name] = content.read()
    about = json.loads(files.pop("package.json", b"{}"))
    stated = about.get("license", "")
    licence = _permissive(stated if isinstance(stated, str) else str(stated.get("type", "")))
    if licence is None:
        return None
    return Package(f"npm:{about['name']}", str(about["version"]), licence, tuple(files.items()))


def _pins(name: str) -> list[str]:
    lines = (PINS / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _same(name: str, wheel: Path) -> bool:
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() == re.sub(r"[-_.]+", "-", name).lower()
