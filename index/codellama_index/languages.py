"""From a file to its language, its grammar and its queries: a table, `_TABLE`.

The queries are data, `queries/NAME.scm`, in words of our own:

    @definition.KIND  a definition; its name is @name, what it belongs to though it stands elsewhere
                      is @within (a Go receiver), what ends its signature is @body; @_name only serves
                      a predicate
    @scope            encloses definitions without being one (Rust's impl blocks); has a @name as well
    @local            a block in which variables are locals, though no definition encloses it
    @outer            the definition inside with its decorators, `export` or `template` in front
    @comment, @attribute, @doc, @doc.inside
                      documentation before a definition, what may stand between them, a string that is
                      documentation before a definition, and one that stands first in its body
    @reference        a use of a name
    @import           a name or a path that this file imports

A file's first part, up to the line `; Uses`, holds what captures a @name. A definition of kind `none`
only looks like one; one of kind `promoted` is a parameter that becomes a field of the class around.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Language, Query

_SHEBANG = re.compile(r"#!\s*\S*?/?(?:env\s+(?:-\S+\s+)*)?([a-zA-Z]+)[\d.]*\s*(?:$|\s)")
_CPP_HEADER = re.compile(
    r"^[ \t]*(?:class\s+\w|namespace\b|template\s*<|using\s+\w|public:|private:|protected:)"
    r"|\bstd::|\boperator\b",
    re.M,
)


# Macros that hold items (`cfg_net! { pub struct TcpStream { ... } }`): to the grammar their content is mere
# tokens, that of the block which is left of them is not.
_WRAPPERS = (
    re.compile(
        rb"^(\w+!)(?=[ \t]*\{(?:\s|//[^\n]*\n|#\[[^\n]*\n)*"
        rb"(?:pub|fn|struct|enum|impl|mod|use|trait|type|const|static|unsafe|async|extern)\b)",
        re.M,
    ),
)

# Macros where no grammar without a preprocessor expects a word: `class EXPORT Box`, `API void open(...)`.
_MACROS = (
    re.compile(
        rb"\b(?:class|struct|union|enum)[ \t]+([A-Z][A-Z0-9_]{3,})(?:\([^()\n]*\))?[ \t]+(?=[A-Za-z_])"
        rb"|^[ \t]*(?:static[ \t]+)?([A-Z][A-Z0-9_]{3,})[ \t]+"
        rb"(?=[A-Za-z_][\w:]*(?:<[\w:, ]*>)?[ \t*&]+[A-Za-z_(*])",
        re.M,
    ),
    re.compile(rb"^\w[^\n=]*\)[ \t]+([A-Z][A-Z0-9_]{3,})[ \t]*;", re.M),
)


# The scanner writes beyond its buffer at about 250 levels (0.7.2); a level takes at least one of these.
_DATA = frozenset({"html", "css", "sql", "markdown", "json", "yaml", "toml"})
_DEEP_YAML = re.compile(rb"^[ \t?:-]{200}", re.M)


@dataclass(frozen=True, slots=True)
class Entry:
    """One language: which files are in it, who parses it, and how it writes a line comment.

    `comment` is "#" where the language has no line comment. `queries` are joined in order. `trim` are
    the characters around a name that are not part of it; with `clauses` a function that is defined
    again right away is still the same one. What the groups of `noise` find is hidden from the grammar. What
    matches `fatal` would crash it, and the file is text.
    """

    name: str
    suffixes: tuple[str, ...]
    comment: str
    module: str = ""
    function: str = "language"
    queries: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    trim: str = ""
    clauses: bool = False
    noise: tuple[re.Pattern[bytes], ...] = ()
    fatal: re.Pattern[bytes] | None = None


_TABLE = (
    Entry("python", (".py", ".pyi", ".pyw"), "#", interpreters=("python", "pypy")),
    # TypeScript's grammar extends JavaScript's, and so do its queries.
    Entry(
        "javascript",
        (".js", ".jsx", ".mjs", ".cjs"),
        "//",
        queries=("ecmascript", "javascript"),
        interpreters=("node", "bun"),
    ),
    Entry(
        "typescript",
        (".ts", ".mts", ".cts"),
        "//",
        function="language_typescript",
        queries=("ecmascript", "typescript"),
        interpreters=("deno",),
    ),
    Entry(
        "tsx",
        (".tsx",),
        "//",
        module="tree_sitter_typescript",
        function="language_tsx",
        queries=("ecmascript", "typescript"),
    ),
    Entry("go", (".go",), "//"),
    Entry("rust", (".rs",), "//", noise=_WRAPPERS),
    Entry("c", (".c", ".h"), "//", noise=_MACROS),
    Entry(
        "cpp",
        (".cc", ".cpp", ".cxx", ".c++", ".hh", ".hpp", ".hxx", ".h++", ".inl", ".ipp"),
        "//",
        queries=("c", "cpp"),
        noise=_MACROS,
    ),
    Entry("java", (".java",), "//"),
    Entry("c_sharp", (".cs",), "//"),
    Entry(
        "ruby",
        (".rb", ".rake", ".gemspec"),
        "#",
        filenames=("Rakefile", "Gemfile"),
        interpreters=("ruby",),
        trim=":",
    ),
    Entry("php", (".php", ".phtml"), "//", function="language_php", interpreters=("php",)),
    Entry("kotlin", (".kt", ".kts"), "//"),
    Entry("scala", (".scala", ".sc"), "//"),
    Entry("swift", (".swift",), "//"),
    Entry("lua", (".lua",), "--", interpreters=("lua", "luajit")),
    Entry(
        "bash",
        (".sh", ".bash", ".zsh", ".ksh"),
        "#",
        filenames=(".bashrc", ".bash_profile", ".profile", "PKGBUILD"),
        interpreters=("sh", "bash", "dash", "ksh", "zsh"),
        trim="=",
    ),
    Entry("elixir", (".ex", ".exs"), "#", interpreters=("elixir",), clauses=True),
    Entry("haskell", (".hs",), "--", interpreters=("runhaskell",), clauses=True),
    Entry("ocaml", (".ml",), "#", function="language_ocaml", queries=("ocaml", "ocaml_values")),
    Entry(
        "ocaml_interface",
        (".mli",),
        "#",
        module="tree_sitter_ocaml",
        function="language_ocaml_interface",
        queries=("ocaml",),
    ),
    Entry("julia", (".jl",), "#", interpreters=("julia",)),
    Entry("zig", (".zig", ".zon"), "//"),
    Entry("html", (".html", ".htm", ".xhtml"), "#"),
    Entry("css", (".css",), "#"),
    Entry("sql", (".sql",), "--"),
    Entry("markdown", (".md", ".markdown"), "#"),
    Entry("json", (".json", ".jsonc", ".webmanifest"), "#"),
    Entry("yaml", (".yaml", ".yml"), "#", trim="\"'", fatal=_DEEP_YAML),
    Entry("toml", (".toml",), "#", trim="\"'"),
)
_BY_NAME = {entry.name: entry for entry in _TABLE}
_BY_SUFFIX = {suffix: entry for entry in _TABLE for suffix in entry.suffixes}
_BY_FILENAME = {filename: entry for entry in _TABLE for filename in entry.filenames}
_BY_INTERPRETER = {interpreter: entry for entry in _TABLE for interpreter in entry.interpreters}


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled grammar with its queries: `definitions` to match, `uses` to capture.

    `kinds` holds, for each pattern of `definitions`, the capture that is the definition, and its kind.
    """

    language: "Language"
    definitions: "Query"
    uses: "Query"
    kinds: tuple[tuple[str, str], ...]
    entry: Entry


def language_of(path: str, text: str = "") -> str | None:
    """The language of a file, or None where it is only text to us.

    Suffix and name tell; `text` tells a script by its first line, and whether a `.h` is C++.
    """
    pure = PurePosixPath(path)
    suffix = pure.suffix.lower()
    entry = _BY_SUFFIX.get(suffix) or _BY_FILENAME.get(pure.name)
    if entry is None:
        shebang = _SHEBANG.match(text[:200]) if not suffix and text.startswith("#!") else None
        entry = _BY_INTERPRETER.get(shebang[1]) if shebang else None
    elif suffix == ".h" and _CPP_HEADER.search(text):
        return "cpp"
    return entry.name if entry else None


def is_code(path: str) -> bool:
    """Whether a file is a program's source, told by its name: not data, not a document."""
    return (language_of(path) or "") not in _DATA | {""}


def comment_prefix(path: str) -> str:
    """What begins a line comment in this file's language ("#" where there is none)."""
    language = language_of(path)
    return _BY_NAME[language].comment if language else "#"


def query_source(language: str) -> str:
    """The queries' text, which is part of the index's version."""
    return "\n".join(_query_sources(language))


@cache
def grammar(language: str) -> Grammar:
    """The grammar of one of `languages()`; imports its wheel on first use, and no other."""
    from tree_sitter import Language, Query

    entry = _BY_NAME[language]
    wheel = import_module(entry.module or f"tree_sitter_{language}")
    compiled = Language(getattr(wheel, entry.function)())
    # Two queries: matching, which pairs a definition with its name, costs several times what capturing
    # does, and most of a file's nodes are only uses.
    parts = [source.partition("\n; Uses\n") for source in _query_sources(language)]
    source = "\n".join(part[0] for part in parts)
    definitions, uses = Query(compiled, source), Query(compiled, "\n".join(part[2] for part in parts))
    return Grammar(compiled, definitions, uses, _kinds(definitions, source.encode()), entry)


def _query_sources(language: str) -> list[str]:
    folder = files("codellama_index") / "queries"
    names = _BY_NAME[language].queries or (language,)
    return [(folder / f"{name}.scm").read_text(encoding="utf-8") for name in names]


def _kinds(query: "Query", source: bytes) -> tuple[tuple[str, str], ...]:
    """Each pattern's capture that is the definition, and the kind it names."""
    kinds = []
    for pattern in range(query.pattern_count):
        text = source[query.start_byte_for_pattern(pattern) : query.end_byte_for_pattern(pattern)]
        (capture,) = re.findall(rb"@(scope|definition\.[a-z]+)\b", text)
        kinds.append((capture.decode(), capture.decode().removeprefix("definition.")))
    return tuple(kinds)


def languages() -> tuple[str, ...]:
    """Every language that is more than text to us."""
    return tuple(sorted(_BY_NAME))


def suffixes() -> tuple[str, ...]:
    """Every suffix of theirs."""
    return tuple(_BY_SUFFIX)


def wheels() -> tuple[str, ...]:
    """The distributions that the grammars come from."""
    return ("tree_sitter", *sorted({e.module or f"tree_sitter_{name}" for name, e in _BY_NAME.items()}))
