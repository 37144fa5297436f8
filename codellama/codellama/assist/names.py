"""Names in a suggestion that exist nowhere: in the file, in the repository's index, in the language.

A name that nobody has written yet is a doubt about a suggestion, never a proof.
"""

import builtins
import keyword
import re
from pathlib import PurePosixPath

from codellama_index import Index
from codellama_index.errors import CodeIndexError

DOUBT = 0.5
"""What one unknown name leaves of the sureness of a suggestion."""

_USED = re.compile(r"(?:(?<=\.)([A-Za-z_]\w{2,})|\b([A-Za-z_]\w{2,})(?=\s*\())")
_WORD = re.compile(r"[A-Za-z_]\w{2,}")
_QUIET = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|(?:#|//)[^\n]*")
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
    if index is None:
        return ()
    quiet = _QUIET.sub("", text)
    used = dict.fromkeys(one or two for one, two in _USED.findall(quiet))
    begun = re.search(r"\w*\Z", prefix)
    first = re.match(r"\w*", text)
    if begun and first and begun[0] and first[0]:  # the first word was begun before the cursor
        whole = begun[0] + first[0]
        used = {whole if name == first[0] else name: None for name in used}
    python = PurePosixPath(path).suffix in (".py", ".pyi", ".pyw")
    known = set(_WORD.findall(prefix)) | set(_WORD.findall(suffix)) | set(_DEFINED.findall(quiet))
    known |= _PYTHON if python else _OTHERS
    if begun and begun[0]:  # what was begun is in the file only as far as it was typed
        known.discard(begun[0])
    doubtful = [name for name in used if name not in known]
    try:
        found = index.known_names(doubtful) if doubtful else set()
    except CodeIndexError:
        return ()
    return tuple(name for name in doubtful if name not in found)
