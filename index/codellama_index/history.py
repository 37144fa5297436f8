"""The repository's last commits: what each message said, which files it changed. Reads git, writes nothing.

A question that sounds like an old message is likely about the files that were changed then.
"""

import os
import subprocess
from pathlib import Path

from codellama_index.records import Commit
from codellama_index.words import query_terms

COMMITS = 3000
_FILES = 20  # a sweep over more files says little about each
_LONGEST = 4000  # characters of a message
_PATIENCE_S = 20.0


def commits(root: Path, since: bytes) -> list[Commit] | None:
    """The commits up to HEAD that `since` (a hash, or empty for none) has not, the oldest first.

    At most COMMITS, without merges. None where git cannot tell: no repository, or `since` is gone.
    """
    # A repository's configuration is a stranger's: it may not name programs to run, nor fetch anything.
    options = ["--no-merges", "--no-renames", "--no-ext-diff", "--no-show-signature", "--name-only", "-z"]
    options += ["--encoding=UTF-8"]  # UTF-16 would put zeros into messages
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "log", *options, f"-n{COMMITS}"]
    command += ["--format=%x00%H%x00%B%x00", f"{since.hex()}..HEAD" if since else "HEAD", "--"]
    environment = os.environ | {"GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE_S, env=environment)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return _parsed(done.stdout.split(b"\0"))[::-1]


def _parsed(fields: list[bytes]) -> list[Commit]:
    """Commits from what git wrote between its zeros, which no message and no name can hold.

    Each is an empty field, the hash, the message, an empty field and the names, none of which is empty.
    """
    found, at = [], 0
    while at + 4 <= len(fields):
        _, digest, message, _ = fields[at : at + 4]
        first = at = at + 4
        while at < len(fields) and fields[at]:
            at += 1
        found.append(_commit(digest, message, fields[first:at]))
    return found


def _commit(digest: bytes, message: bytes, names: list[bytes]) -> Commit:
    # git puts a line's end before the first name.
    paths = tuple(os.fsdecode(name.removeprefix(b"\n") if n == 0 else name) for n, name in enumerate(names))
    words = " ".join(query_terms(message.decode("utf-8", "replace")[:_LONGEST]))
    return Commit(bytes.fromhex(digest.decode("ascii")), words, paths if len(paths) <= _FILES else ())
