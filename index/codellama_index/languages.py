"""From a file's name to its language, its grammar and its queries.

The queries are data: `queries/LANGUAGE.scm`. A capture `@definition.KIND` marks a definition whose name
is captured as `@name`; `@scope` marks what encloses definitions without being one (Rust's impl blocks),
`@reference` a use of a name, `@import` a name that this file imports.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Query

_SUFFIXES = {
    ".py": "python",
    ".pyi": "python",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".ts": "typescript",
    ".mts": "typescript",
    ".cts": "typescript",
    ".tsx": "tsx",
    ".go": "go",
    ".rs": "rust",
}

# TypeScript's grammar extends JavaScript's, and so do its queries.
_QUERY_FILES = {
    "typescript": ("javascript", "typescript"),
    "tsx": ("javascript", "typescript"),
}


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled grammar with its query."""

    language: "Language"
    query: "Query"


def language_of(path: str) -> str | None:
    """The language of a file by its suffix, or None where it is only text to us."""
    return _SUFFIXES.get(PurePosixPath(path).suffix.lower())


def comment_prefix(path: str) -> str:
    """What begins a line comment in this file's language."""
    return "#" if language_of(path) in (None, "python") else "//"


def query_source(language: str) -> str:
    """The query's text, which is part of the index's version."""
    folder = files("codellama_index") / "queries"
    names = _QUERY_FILES.get(language, (language,))
    return "\n".join((folder / f"{name}.scm").read_text(encoding="utf-8") for name in names)


@cache
def grammar(language: str) -> Grammar:
    """The grammar of one of `_SUFFIXES`' languages; imports its wheel on first use."""
    from tree_sitter import Language, Query

    compiled = Language(_pointer(language))
    return Grammar(compiled, Query(compiled, query_source(language)))


def _pointer(language: str) -> object:
    # Imported one by one: a process that meets only Python never loads the others.
    if language == "python":
        import tree_sitter_python

        return tree_sitter_python.language()
    if language == "javascript":
        import tree_sitter_javascript

        return tree_sitter_javascript.language()
    if language in ("typescript", "tsx"):
        import tree_sitter_typescript

        if language == "tsx":
            return tree_sitter_typescript.language_tsx()
        return tree_sitter_typescript.language_typescript()
    if language == "go":
        import tree_sitter_go

        return tree_sitter_go.language()
    import tree_sitter_rust

    return tree_sitter_rust.language()


def languages() -> tuple[str, ...]:
    """Every language with symbols."""
    return tuple(sorted(set(_SUFFIXES.values())))
