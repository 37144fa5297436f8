"""Which files of a repository are indexed, and why the others are not.

Git decides where there is git (`git ls-files`: tracked files and new ones that it does not ignore); a
`.codellamaignore` takes more away. Elsewhere the folders are walked with `.gitignore` files honoured.
Links are never followed. What a file holds is judged when it is read: see `refusal`.
"""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from codellama_index.errors import RepositoryNotFound

MAX_BYTES = 1_000_000
_MAX_LINE = 20_000
_NEVER = frozenset(
    {".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache"}
)
_SECRET_NAME = re.compile(
    r"(^|/)(\.env(\.[^/]*)?|\.netrc|\.pypirc|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?"
    r"|[^/]*\.(pem|key|p12|pfx|keystore|jks))$",
    re.I,
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*\n[A-Za-z0-9+/=]{40}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36}\b"
)
_EXAMPLE_NAMES = (".env.example", ".env.sample", ".env.template")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A candidate: its path and what `stat` says; `skip` is why it is left out unread, or ""."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    skip: str


def find_root(path: Path) -> Path:
    """The repository around `path`: git's top folder, else the folder itself."""
    if not path.exists():
        raise RepositoryNotFound(f"There is no folder {path}: name one that exists.")
    folder = (path if path.is_dir() else path.parent).resolve()
    top = _git(folder, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(top.rstrip(b"\n"))) if top else folder


def git_common_dir(root: Path) -> Path | None:
    """The folder that all worktrees of a repository share, or None where there is no git."""
    out = _git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Path(os.fsdecode(out.rstrip(b"\n"))) if out else None


def walk(root: Path) -> Iterator[FoundFile]:
    """Every file to consider, in the order of their paths."""
    listed = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    names = set(_listed(listed)) if listed is not None else set(_walked(root))
    ours = _ignore_file(root / ".codellamaignore")
    for name in sorted(names):
        if ours is not None and ours.match_file(name):
            continue
        found = _stat(root, name)
        if found is not None:
            yield found


def refusal(path: str, text: str | None) -> str:
    """Why a file's content is left out, or "" where it is not."""
    if text is None:
        return "binary"
    if _SECRET_TEXT.search(text):
        return "holds a secret"
    if len(text) > _MAX_LINE and max(map(len, text.splitlines()), default=0) > _MAX_LINE:
        return "minified"
    return ""


def _stat(root: Path, name: str) -> FoundFile | None:
    try:
        facts = os.lstat(root / name)
    except (OSError, ValueError):
        return None  # deleted meanwhile, or listed by git only
    if stat.S_ISDIR(facts.st_mode):
        return None  # a submodule
    skip = ""
    if not name.isprintable() and name != _readable(name):
        name, skip = _readable(name), "name is not UTF-8"
    elif stat.S_ISLNK(facts.st_mode):
        skip = "symbolic link"
    elif not stat.S_ISREG(facts.st_mode):
        skip = "no regular file"
    elif _SECRET_NAME.search(name) and not name.endswith(_EXAMPLE_NAMES):
        skip = "secret by its name"
    elif facts.st_size > MAX_BYTES:
        skip = f"larger than {MAX_BYTES} bytes"
    return FoundFile(name, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, skip)


def _readable(name: str) -> str:
    """The name with U+FFFD where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _listed(output: bytes) -> Iterator[str]:
    for name in output.split(b"\0"):
        if name:
            yield os.fsdecode(name)


def _walked(root: Path) -> Iterator[str]:
    specs: dict[str, GitIgnoreSpec] = {}
    for folder, folders, names in os.walk(root):
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        spec = _ignore_file(Path(folder) / ".gitignore")
        if spec is not None:
            specs[str(relative)] = spec
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NEVER
            and not Path(folder, name).is_symlink()
            and not _ignored(specs, f"{relative / name}/")
        )
        for name in names:
            path = str(relative / name)
            if not _ignored(specs, path):
                yield path


def _ignored(specs: dict[str, GitIgnoreSpec], path: str) -> bool:
    for folder, spec in specs.items():
        inside = path if folder == "." else path.removeprefix(f"{folder}/")
        if (folder == "." or path.startswith(f"{folder}/")) and spec.match_file(inside):
            return True
    return False


def _ignore_file(path: Path) -> GitIgnoreSpec | None:
    try:
        return GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except (OSError, ValueError):
        return None


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Git's output, or None where it fails: no git, no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
