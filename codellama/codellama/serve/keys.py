"""Whose bearer token it is: the server's own, or one of a team's from a file.

The file has a line for each client, its name and its key, and is for its owner's eyes alone. It is read
again when it changes, so that a key can be given or taken back while the server runs.
"""

import hmac
import logging
import os
from pathlib import Path

from codellama.runtime.errors import InvalidRequest

OWNER = "owner"
_SHORTEST_KEY = 16


class Keys:
    """The server's token and, where there is one, the file of the clients' keys."""

    def __init__(self, token: str, file: Path | None = None) -> None:
        self._token = token.encode()
        self._file = file
        self._read_at: tuple[int, int, int] | None = None
        self._clients: dict[str, bytes] = {}
        if file is not None:
            self._clients = read_keys(file)
            self._read_at = _state(file)

    @property
    def shared(self) -> bool:
        """Whether others than the server's owner may have keys."""
        return self._file is not None

    def client(self, token: bytes) -> str | None:
        """The name of the client whose key it is; None where it is nobody's."""
        self._refresh()
        found = None
        # All are compared, so that the time taken tells nothing.
        for name, key in [(OWNER, self._token), *self._clients.items()]:
            if hmac.compare_digest(token, key):
                found = name
        return found

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            state = _state(self._file)
            if state == self._read_at:
                return
            self._clients, self._read_at = read_keys(self._file), state
            logging.info("read %d keys from %s", len(self._clients), self._file)
        except (InvalidRequest, OSError) as error:
            if self._read_at is not None:
                logging.error("nobody but the owner is let in until this is mended: %s", error)
            self._clients, self._read_at = {}, None


def read_keys(file: Path) -> dict[str, bytes]:
    """Keys by the client's name; raises InvalidRequest for what is wrong with the file."""
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The keys file {file} cannot be read ({error}): mend it.") from error
    if hasattr(os, "getuid") and mode & 0o077:
        raise InvalidRequest(f"The keys file {file} can be read by others: chmod 600 {file}.")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < _SHORTEST_KEY:
            raise InvalidRequest(
                f"Line {number} of the keys file {file} is no name and key of at least {_SHORTEST_KEY} "
                "characters: write them with a space between."
            )
        if words[0] in keys or words[0] == OWNER or words[1].encode() in keys.values():
            raise InvalidRequest(
                f"Line {number} of the keys file {file} has a name or key that is taken: choose another."
            )
        keys[words[0]] = words[1].encode()
    return keys


def _state(file: Path) -> tuple[int, int, int]:
    facts = file.stat()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
