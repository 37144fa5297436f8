"""What a question asks for, where the index can answer it exactly; None where it has to be searched. Pure
but for the look-up of names and paths.
"""

import re
from dataclasses import dataclass
from typing import Literal

from codellama_index import Index
from codellama_index.records import Symbol
from codellama_index.words import STOP_WORDS

Kind = Literal["definition", "callers", "implementers", "importers", "tests", "changes", "impact"]

_PATTERNS: tuple[tuple[Kind, str], ...] = (
    (
        "impact",
        r"\b(break|breaks|affected|affect|impact|consequences?)\b.*\b(chang|renam|remov|delet|edit|modif|touch)"
        r"|\b(chang|renam|remov|delet|edit|modif)\w*\b.*\b(break|affect|impact)",
    ),
    ("tests", r"\btests?\b.*\b(cover|test|exercise|check|for|of)\b|\b(tested|covered)\b|\btests (for|of)\b"),
    (
        "changes",
        r"\b(what|who|when|which|recent|last|latest)\b.*\b(changed|changes|commits?|modified|edited|touched)\b"
        r"|\bhistory of\b",
    ),
    (
        "implementers",
        r"\b(implement|implements|implementers?|implementations?|implementors?|subclass|subclasses|subclassed"
        r"|extends?|derived?|derives?|inherits? from|inherited by|override|overrides)\b",
    ),
    ("importers", r"\b(imports?|imported|importers?|includes?|requires?)\b|\bdepends? on\b"),
    (
        "callers",
        r"\b(who|what|which|where)\b.*\b(calls?|called|callers?|uses?|used|users?|usages?|references?|referenced"
        r"|invokes?|invoked)\b|\b(callers?|uses|usages?|users|references|call sites?) (of|to)\b",
    ),
    ("definition", r"\b(where|which file|what)\b.*\b(defin|declar|implemented\b)|^\s*(what is|show|find)\b"),
)
_ABOUT = STOP_WORDS | frozenset(
    """break breaks affected affect impact change changed changes changing rename renamed remove removed test
    tests tested cover covers covered history commit commits recent recently last latest implement implements
    implementation implementations implementer implementers subclass subclasses extend extends inherit
    inherits import imports imported importing importers module package depend depends call calls called
    caller callers reference references usage usages users trait interface types type classes functions
    methods files define defines show who what symbol name variable constant struct object
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)
_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|::|#)[A-Za-z_$][\w$]*)*[?!]?(?=\W|$)")
_PATH = re.compile(r"[\w@.+/-]*[\w-]\.\w{1,5}\b|[\w@.+-]+(?:/[\w@.+-]+)+/?")
_VERBS = (
    "(?:[Cc]alls?|[Uu]ses?|[Cc]allers of|[Uu]sers of|[Uu]sages of|[Rr]eferences to|[Ii]mplements?|[Ee]xtends?"
    "|[Ii]nherits? from|[Ss]ubclass(?:es)?(?: of)?|[Ii]mplementations of|[Tt]ests of|[Tt]ests for|[Cc]overs?"
    "|[Cc]hang(?:e|ed|ing)|[Rr]enam(?:e|ed|ing)|[Rr]emov(?:e|ed|ing)|[Ii]nvokes?)"
)
_NOUNS = "function|method|class|type|trait|interface"
_PARTICIPLES = "(?:used|called|tested|defined|implemented|declared|referenced|covered|changed|invoked)"
_INHERITS = re.compile(r"\bwhat does\b.*\b(inherit|extend|derive|implement)s?\b", re.I)


@dataclass(frozen=True, slots=True)
class Plan:
    """`name` is the symbol or module, `path` the file that the question names ("" for none);
    `symbols` are the definitions of the name."""

    kind: Kind
    name: str
    path: str
    symbols: tuple[Symbol, ...]


def plan(question: str, index: Index) -> Plan | None:
    """The exact question behind the words, or None."""
    kind = _kind(question)
    if kind is None:
        return None
    path = _path(question, index)
    if kind == "changes":
        name, symbols = ("", ()) if path else _named(question, index)
        return Plan(kind, name, path, symbols) if path or symbols else None
    name, symbols = _named(question, index)
    if kind == "importers":
        module = _module(path) if path else name or _plain(question)
        return Plan(kind, module, path, symbols) if module else None
    return Plan(kind, name, path, symbols) if symbols else None


def _kind(question: str) -> Kind | None:
    if _INHERITS.search(question):
        return "definition"
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, question, re.I)), None)


def _named(question: str, index: Index) -> tuple[str, tuple[Symbol, ...]]:
    """The first name that is defined here: quoted ones, those that look like code, plain words last."""
    quoted = [part for n, part in enumerate(question.split("`")) if n % 2]
    words = [match.group().rstrip("?!") for match in _NAME.finditer(question)]
    candidates = [*quoted, *sorted((w for w in words if w.lower() not in _ABOUT), key=_is_plain)]
    for candidate in dict.fromkeys(candidates):
        name = candidate.removesuffix("()")
        found = index.definitions(name)
        code = [s for s in found if s.kind not in ("field", "variable")]
        if found and (not _is_plain(candidate) or (code and _is_meant(candidate, question))):
            return re.split(r"\.|::|#", name)[-1], tuple(code or found)
    return "", ()


def _is_plain(word: str) -> bool:
    return word.islower() and "_" not in word and "." not in word


def _is_meant(word: str, question: str) -> bool:
    """Whether a plain English word is asked about as a name: right beside the verb, or in backquotes."""
    beside = rf"\b{_VERBS}\s+(?:the\s+|a\s+)?{word}\b|\b{word}\s+(?:{_NOUNS})?\s*(?:is\s+)?{_PARTICIPLES}\b"
    return re.search(rf"{beside}|`{word}", question) is not None


def _plain(question: str) -> str:
    """The word that is left when those of the question itself are taken away."""
    words = [match.group().rstrip("?!") for match in _NAME.finditer(question)]
    left = [word for word in words if word.lower() not in _ABOUT]
    return left[-1] if left else ""


def _path(question: str, index: Index) -> str:
    """The file or folder that a question names, whole or by its end."""
    wanted = [match.group().strip("/.") for match in _PATH.finditer(question)]
    if not wanted:
        return ""
    paths = index.sources()
    for name in wanted:
        files = [p for p in paths if p == name or p.endswith(f"/{name}")]
        if files:
            return min(files, key=len)
        if any(p.startswith(f"{name}/") for p in paths):
            return name
    return ""


def _module(path: str) -> str:
    """What importers call a file: its name without suffix, or its folder's where it stands for that."""
    stem = path.rsplit("/", 1)[-1].split(".", maxsplit=1)[0]
    if stem in ("__init__", "index", "mod", "lib") and "/" in path:
        return path.rsplit("/", 2)[-2]
    return stem
