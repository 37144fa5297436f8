"""Which files of a repository are considered, and why the others are not.

Git decides where there is git (`git ls-files`: tracked files and new ones that it does not ignore, so
`.gitignore`, `.git/info/exclude` and the user's global ignores); a `.codellamaignore` takes more away.
Submodules that are checked out are listed through their own git. Elsewhere the folders are walked with
`.gitignore` files honoured. Links are never followed, neither to files nor to folders.
"""

import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from codellama_index.errors import RepositoryNotFound
from codellama_index.refusal import by_name

_NEVER = frozenset(
    {".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache"}
)
IGNORE_FILES = frozenset({".gitignore", ".codellamaignore", ".gitmodules"})
_OURS = ".codellamaignore"
_DEPTH = 8  # of submodules in submodules


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
    """The repository around `path`: git's top folder, else the folder itself.

    Git may be missing, refuse a repository of another owner's, or stand inside of `.git`: then the nearest
    folder that holds a repository counts.
    """
    if not path.exists():
        raise RepositoryNotFound(f"There is no folder {path}: name one that exists.")
    folder = (path if path.is_dir() else path.parent).resolve()
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top:
        return Path(os.fsdecode(top.rstrip(b"\n")))
    around = (each for each in (folder, *folder.parents) if _holds_repository(each / ".git"))
    return next(around, folder)


def _holds_repository(git: Path) -> bool:
    """Whether a `.git` is one: a folder with a HEAD, or the file that worktrees and submodules have."""
    return os.path.isfile(git) or os.path.isfile(git / "HEAD")


def git_common_dir(root: Path) -> Path | None:
    """The folder that all worktrees of a repository share, or None where there is no git."""
    out = _git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Path(os.fsdecode(out.rstrip(b"\n"))) if out else None


def git_dir(root: Path) -> Path | None:
    """The folder that holds this worktree's HEAD, or None where there is no git."""
    out = _git(root, "rev-parse", "--absolute-git-dir")
    return Path(os.fsdecode(out.rstrip(b"\n"))) if out else None


def walk(root: Path, submodules: bool = True) -> Iterator[FoundFile]:
    """Every file to consider, in the order of their paths."""
    names = _tracked(root, "", submodules, _DEPTH)
    yield from _found(root, set(_walked(root)) if names is None else names)


def look(root: Path, paths: Iterable[str], known: Iterable[str]) -> list[FoundFile]:
    """Of these paths, those to consider; git is not asked of `known` ones. Folders are gone through."""
    wanted, old = set(paths), set(known)
    unknown = sorted(wanted - old)
    names = wanted & old
    if unknown:
        listed = _git(
            root, "--literal-pathspecs", "ls-files", "-co", "--exclude-standard", "-z", "--", *unknown
        )
        if listed is None:
            names |= {n for n in _walked(root) if n in wanted or any(n.startswith(f"{w}/") for w in unknown)}
        else:
            names |= set(_listed(listed))
    return list(_found(root, names))


def folders(root: Path, paths: Iterable[str]) -> list[Path]:
    """The folders that hold these files, and all above them up to the root."""
    found = {""}
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return [root / folder for folder in sorted(found)]


def is_ignored(root: Path, folder: Path) -> bool:
    """Whether a folder without files is one that the walk would not go into."""
    if _NEVER & set(folder.relative_to(root).parts):
        return True
    return _git(root, "check-ignore", "-q", "--", str(folder)) is not None


def _found(root: Path, names: Iterable[str]) -> Iterator[FoundFile]:
    ours = _ignore_file(root / _OURS)
    real: dict[str, bool] = {"": True}
    for name in sorted(names):
        if ours is not None and ours.match_file(name):
            continue
        if not _in_real_folder(str(root), name, real):
            continue
        found = _stat(str(root), name)
        if found is not None:
            yield found


def _in_real_folder(root: str, name: str, real: dict[str, bool]) -> bool:
    """Whether no folder on the way is a link: git still lists what lay there before."""
    folder = name.rstrip("/").rpartition("/")[0]
    if folder not in real:
        real[folder] = _in_real_folder(root, folder, real) and not os.path.islink(f"{root}/{folder}")
    return real[folder]


def _stat(root: str, name: str) -> FoundFile | None:
    try:
        facts = os.lstat(f"{root}/{name}")
    except (OSError, ValueError):
        return None  # deleted meanwhile, or listed by git only
    skip = ""
    readable = os.fsencode(name).decode("utf-8", "backslashreplace")
    if readable != name:
        name, skip = readable, "name is not UTF-8"
    elif stat.S_ISDIR(facts.st_mode):
        name = name.rstrip("/")
        skip = "another repository inside" if os.path.lexists(f"{root}/{name}/.git") else "submodule, empty"
    elif stat.S_ISLNK(facts.st_mode):
        skip = "symbolic link"
    elif not stat.S_ISREG(facts.st_mode):
        skip = "no regular file"
    else:
        skip = by_name(name, facts.st_size)
    return FoundFile(name, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, skip)


def _tracked(root: Path, prefix: str, submodules: bool, depth: int) -> set[str] | None:
    """The names that git lists, those of submodules in place of the submodules; None without git."""
    listed = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    if listed is None:
        return None
    names = set(_listed(listed))
    for inside in _submodules(root) if submodules and depth else ():
        # In an empty submodule's folder git would answer for the repository around it.
        if inside in names and os.path.lexists(root / inside / ".git"):
            listed_inside = _tracked(root / inside, f"{inside}/", submodules, depth - 1)
            if listed_inside is not None:
                names = (names - {inside}) | listed_inside
    return {prefix + name for name in names} if prefix else names


def _submodules(root: Path) -> list[str]:
    if not os.path.lexists(root / ".gitmodules"):
        return []
    staged = _git(root, "ls-files", "-s", "-z") or b""
    return [os.fsdecode(e.split(b"\t", 1)[1]) for e in staged.split(b"\0") if e.startswith(b"160000 ")]


def _listed(output: bytes) -> Iterator[str]:
    for name in output.split(b"\0"):
        if name:
            yield os.fsdecode(name)


def _walked(root: Path) -> Iterator[str]:
    specs: dict[str, GitIgnoreSpec] = {}
    for folder, inner, names in os.walk(root):
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        spec = _ignore_file(Path(folder) / ".gitignore")
        if spec is not None:
            specs[str(relative)] = spec
        inner[:] = sorted(
            name
            for name in inner
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
    """Git's output, or None where it fails: no git, no repository.

    `core.fsmonitor` names a program to run, and a repository's configuration is data of a stranger.
    """
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
