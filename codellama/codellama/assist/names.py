"""Names in a suggestion that exist nowhere: in the file, in the repository's index, in the language.

A name that nobody has written yet is a doubt about a suggestion, never a proof.
"""

import builtins
import keyword
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import PurePosixPath

from codellama_index import Index
from codellama_index.errors import CodeIndexError

DOUBT = 0.5
"""What one unknown name leaves of the sureness of a suggestion."""

_USED = re.compile(r"(?<=\.)[A-Za-z_]\w{2,}|\b[A-Za-z_]\w{2,}(?=\s*\()")
_WORD = re.compile(r"[A-Za-z_]\w{2,}")
_TEXT = r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
_QUIET = re.compile(rf"{_TEXT}|(?:#|//)[^\n]*")
_QUIET_PYTHON = re.compile(rf"(?P<fields>\b(?:[fF][rR]?|[rR][fF]))?(?:{_TEXT})|#[^\n]*")
_DEFINED = re.compile(r"\b(?:def|class|fn|func|function|let|const|var|as|for|import)\s+([A-Za-z_]\w*)")

_METHODS = {name for kind in (str, bytes, list, dict, set, tuple, int, float) for name in dir(kind)}
_PYTHON = frozenset(dir(builtins)) | frozenset(keyword.kwlist) | _METHODS | {"self", "cls"}
_COMMON = """
if for while switch catch return function sizeof typeof match new delete await super this print println
printf log error warn map filter reduce push pop length len append make panic toString require import
assert defer forEach keys values entries includes indexOf join split replace trim slice concat then
unwrap clone iter collect into from format vec Some None Ok Err Box Vec String get set insert remove
"""
_OTHERS = frozenset(_COMMON.split())


def unknown(path: str, text: str, prefix: str, suffix: str, index: Index | None) -> tuple[str, ...]:
    """The names that a suggestion calls or takes from something, and that exist nowhere; in their order.

    Without an index nothing can be said to exist nowhere, so there are none.
    """
    if index is None or not text:
        return ()
    python = PurePosixPath(path).suffix in (".py", ".pyi", ".pyw")
    before, after = prefix.rpartition("\n")[2], suffix.partition("\n")[0]
    quiet = (_QUIET_PYTHON if python else _QUIET).sub(_blank, before + text + after)
    start, end = len(before), len(before) + len(text)
    # A name is the suggestion's if a letter of it is, wherever the others, its dot and its bracket stand.
    used = dict.fromkeys(
        found[0] for found in _USED.finditer(quiet) if found.start() < end and found.end() > start
    )
    # What was begun before the cursor, or goes on behind it, is in the file only as far as it was typed.
    begun = _letters(reversed(before)) if _letters(text[:1]) else 0
    rest = _letters(after) if _letters(text[-1:]) else 0
    known = set(_WORD.findall(prefix[: len(prefix) - begun])) | set(_WORD.findall(suffix[rest:]))
    known |= set(_DEFINED.findall(quiet)) | (_PYTHON if python else _OTHERS)
    doubtful = [name for name in used if name not in known]
    try:
        found = index.known_names(doubtful) if doubtful else set()
    except CodeIndexError:
        return ()
    return tuple(name for name in doubtful if name not in found)


def _blank(quiet: re.Match[str]) -> str:
    """Spaces for a text or a comment, so that all else stays in its place; fields of a text hold code."""
    if quiet.groupdict().get("fields"):
        return re.sub(
            r"\{([^{}]*)\}|.", lambda part: f" {part[1]} " if part[1] is not None else " ", quiet[0]
        )
    return " " * len(quiet[0])


def _letters(text: Iterable[str]) -> int:
    """With how many letters of a word a text begins."""
    return sum(1 for _ in takewhile(lambda letter: letter.isalnum() or letter == "_", text))
