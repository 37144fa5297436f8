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
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "log", *options, f"-n{COMMITS}"]
    command += ["--format=%x01%H%x02%B%x02", f"{since.hex()}..HEAD" if since else "HEAD", "--"]
    environment = os.environ | {"GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE_S, env=environment)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found = [_commit(record) for record in done.stdout.split(b"\x01")[1:]]
    return found[::-1]


def _commit(record: bytes) -> Commit:
    digest, _, rest = record.partition(b"\x02")
    message, _, names = rest.partition(b"\x02")
    paths = tuple(os.fsdecode(name) for name in names.strip(b"\0\n").split(b"\0") if name)
    words = " ".join(query_terms(message.decode("utf-8", "replace")[:_LONGEST]))
    return Commit(bytes.fromhex(digest.decode("ascii")), words, paths if len(paths) <= _FILES else ())
