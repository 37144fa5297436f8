"""The index's error tree; it is a stranger to the runtime's and shaped alike.

CodeIndexError             one sentence: what is wrong and what to do
├── RepositoryNotFound     the path does not exist or is no folder
├── PathNotFound           a file asked about is not there, or lies outside the repository
├── PositionOutOfRange     a line, column or offset past the end of the file
├── NotText                the file is binary, so there is nothing to read
└── StoreError             the index file cannot be opened, written or read
"""


class CodeIndexError(Exception):
    """Base of all index errors; its text is one sentence that says what to do."""

    exit_code = 2


class RepositoryNotFound(CodeIndexError):
    """The folder to index does not exist or is not a folder."""


class PathNotFound(CodeIndexError):
    """A file is missing, unreadable, or outside of the repository."""


class PositionOutOfRange(CodeIndexError):
    """A position lies past the end of the file; the text names the last valid one."""


class NotText(CodeIndexError):
    """The file holds binary data."""


class StoreError(CodeIndexError):
    """The index's database failed: disk full, no permission, or made by a newer version."""

    exit_code = 3
