"""What of a repository goes to the model with a question: whole files first, outlines of the rest.

More is sent than may fit; the server counts tokens and keeps what has priority. The order does not depend
on the question where it need not: the repository's outline comes first, then the files by path, so that
the server reuses what two prompts share. Lines are numbered, since the model has to cite them.
"""

from collections.abc import Sequence

from codellama.runtime.records import Extra
from codellama_index import Index
from codellama_index.errors import CodeIndexError
from codellama_index.records import Hit

BYTES_PER_TOKEN = 2.8  # of numbered code; a rough figure that errs on the safe side
_OUTLINE_SHARE = 0.2
_FILES = 20
_FILE_SHARE = 0.5  # of the room; a longer file goes in by its passages
_MARGIN_LINES = 3  # around a passage


def documents(index: Index, question: str, hits: Sequence[Hit], room: int) -> tuple[Extra, ...]:
    """As much as fits `room` bytes: the files of the hits, those that the question is about as wholes, and
    then the most central ones.

    The best passage is always in it, whatever the room, and has the highest priority.
    """
    outline = _outline(index, int(room * _OUTLINE_SHARE))
    left = room - len(outline)
    central = [entry.path for entry in index.map(int(room / BYTES_PER_TOKEN))]
    about = [file.path for file in index.retrieve_files(question, _FILES)]
    wanted = list(dict.fromkeys([*(hit.path for hit in hits), *about, *central]))
    chosen: dict[str, str] = {}
    for path in wanted:
        text = _whole_file(index, path)
        size = len(text.encode("utf-8", "replace"))
        if not text or size > left or (size > _FILE_SHARE * room and len(wanted) > 1):
            text = _passages(index, [hit for hit in hits if hit.path == path], left)
            size = len(text.encode("utf-8", "replace"))
        if text and size <= left:
            chosen[path] = text
            left -= size
    if not chosen and hits:
        chosen[hits[0].path] = _numbered(hits[0].text.split("\n"), hits[0].start_line)
    files = [Extra(path, chosen[path], round(1 / (1 + wanted.index(path)), 4)) for path in sorted(chosen)]
    return (Extra("outline of the repository", outline, 0.3), *files) if outline else tuple(files)


def _outline(index: Index, room: int) -> str:
    tokens = int(room / BYTES_PER_TOKEN)
    if tokens < 64:
        return ""
    lines: list[str] = []
    for entry in index.map(tokens):
        lines.append(entry.path)
        lines += [f"  {symbol.signature}" for symbol in entry.symbols]
    text = "\n".join(lines)
    return text if len(text) <= room else ""


def _whole_file(index: Index, path: str) -> str:
    try:
        lines = index.read(path).replace("\r\n", "\n").rstrip("\n").split("\n")
    except CodeIndexError:
        return ""
    return _numbered(lines, 1)


def _passages(index: Index, hits: Sequence[Hit], room: int) -> str:
    """The passages of a file in the order of the file, as many as fit, the best first."""
    lines = index.lines(hits[0].path) if hits else []
    chosen: set[int] = set()
    for hit in hits:
        first, last = max(1, hit.start_line - _MARGIN_LINES), min(len(lines), hit.end_line + _MARGIN_LINES)
        more = chosen | set(range(first, last + 1))
        if sum(len(lines[n - 1].encode("utf-8", "replace")) + 8 for n in more) <= room:
            chosen = more
    parts: list[str] = []
    for n in sorted(chosen):
        if n - 1 not in chosen and parts:
            parts.append("...")
        parts.append(_numbered([lines[n - 1]], n))
    return "\n".join(parts)


def _numbered(lines: Sequence[str], first: int) -> str:
    return "\n".join(f"{n} {line}" for n, line in enumerate(lines, start=first))
