"""Why ctags and the index differ at a name: by the text of the line and by the place in the syntax tree.

A cause is a short sentence; "" where no rule explains the difference, which then counts against us.
"""

import re

from benchmarks.ctags import Tag

from codellama_index.records import Symbol


def missing_cause(
    language: str,
    tag: Tag,
    again: bool,
    place: tuple[set[tuple[int, str]], set[int]],
    line: str,
    where: tuple[int, str],
) -> str:
    """Why we do not list what ctags lists; `place` are the names that our queries capture, listed or not,
    and the rows of strings and comments."""
    number, name = where
    captured, quoted = place
    word = re.escape(name)
    if not re.search(rf"(?<!\w){word}(?!\w)", line):
        return "ctags finds a name that does not stand in that line"
    for cause, languages, kinds, pattern in _NOT_THERE:
        fits = language in languages and (not kinds or tag.kind in kinds)
        if fits and re.search(pattern.replace("NAME", word), line):
            return cause
    if again:
        return "assigned again: the first place is the definition"
    if (number, name) in captured:
        return "a local of a function"
    return "inside a string or a comment" if number in quoted else ""


_JS = ("javascript", "typescript")
_C = ("c", "cpp")
# A cause, the languages it is known in, the kinds that ctags gives it, and what the line looks like.
_NOT_THERE: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...] = (
    ("_ names nothing", ("python", "go"), (), r"(?<!\w)NAME(?!\w)(?<=(?<!\w)_)"),
    ("a prototype with its name in parentheses", _C, (), r"\(\s*NAME\s*\)\s*\("),
    ("the call of a macro", _C, (), r"^\s*(?=[A-Z][A-Z0-9_]+\s*\()NAME\s*\("),
    ("an expression, not a declaration", ("cpp",), (), r"\bco_(await|yield|return)\b|\breturn\b"),
    ("the outer part of a nested namespace", ("cpp",), (), r"namespace\s+(\w+::)*NAME\s*::"),
    ("a word of the language", _JS, (), r"\b(?=(const|let|if|for|return|export|default|await|new)\b)NAME\b"),
    ("an object, not a class", _JS, ("class",), r"\bNAME[\"']?\s*[:=]\s*\{"),
    ("a parameter, not a member", _JS, ("field", "property"), r"\(.*\bNAME\b.*\)|^\s*NAME,?$"),
    (
        "a type or a value in an expression",
        _JS,
        ("constant", "variable"),
        r"\b(satisfies|as|extends)\b.*\bNAME\b|[?(=].*\bNAME\(",
    ),
    ("a variable of a loop or of a condition", _JS, (), r"\b(for|if|while|catch)\b.*\bNAME\b"),
    (
        "a key of an object without a name, or deeper than three levels",
        _JS,
        (),
        r"(^|[{,])\s*[\"']?NAME[\"']?\s*:",
    ),
    ("a type in an expression", ("rust",), (), r"&'static\s+NAME"),
    ("a value or an annotation, not a member", ("java",), (), r"@\s*NAME|default\s.*NAME|\(.*\bNAME\b.*\)"),
    ("a part of a type", ("go",), (), r"func\(?.*\)\s*NAME|\[func\(\)\s*NAME"),
)


def extra_cause(language: str, symbol: Symbol, line: str, name: str, around: str) -> str:
    """Why ctags does not list what we list: the line declares that name, in a way that it does not know.

    `around` are the heads of what encloses it.
    """
    word = re.escape(name)
    needed = _AROUND.get(language)
    if needed and not re.search(needed, f"{around} {symbol.signature}"):
        return ""
    for cause, languages, kinds, pattern in _MISSED:
        fits = language in languages and (not kinds or symbol.kind in kinds)
        if fits and re.search(pattern.replace("NAME", word), line):
            return cause
    return ""


# What must stand around a difference for its cause to be believed: type parameters or a function, a method.
_AROUND = {"go": r"\w\[|\bfunc\b", "java": r"\)"}
_MISSED: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...] = (
    ("ctags skips annotated names without a value", ("python",), (), r"^\s*NAME\s*:\s*[^=]*(=|\(|\[|$|#)"),
    (
        "ctags skips the second name of an assignment",
        ("python",),
        (),
        r"^\s*[\w.\[\], ()*]*\bNAME\b[\w.,() ]*=",
    ),
    ("ctags skips the second name of an assignment", ("python",), (), r"^\s*\(?\*?NAME\s*,\s*$"),
    (
        "ctags skips this def",
        ("python",),
        ("method", "function", "class"),
        r"^\s*(async\s+)?(def|class)\s+NAME\b",
    ),
    ("ctags does not know constants", ("rust",), ("constant",), r"\bconst\s+NAME\s*:"),
    ("ctags loses a struct or an enum", ("rust",), ("field",), r"^\s*(pub(\(\w+\))?\s+)?NAME\s*:"),
    (
        "ctags does not know type parameters, nor types in functions",
        ("go",),
        (),
        r"^\s*(?:[\w, ]*\bNAME\b|type\s+NAME|func\s*(\(.*\)\s*)?NAME)",
    ),
    ("ctags does not look into a method's body", ("java",), (), r"\bNAME\s*\(|class\s+NAME|\bNAME\s*(=|;)"),
    (
        "ctags does not know the macro around it",
        ("ruby",),
        (),
        r"(alias|attr\w*|define\w*method|alias_method)\b.*NAME",
    ),
    (
        "ctags does not know `using` and `concept`",
        ("cpp",),
        ("type",),
        r"\b(using|concept)\s+NAME\b|\bNAME\s*;",
    ),
    ("ctags loses a function", ("cpp",), ("method", "function"), r"(?<![.>\w])NAME\s*\([^;]*(\)|,|\(|\{|$)"),
    ("ctags loses an operator", ("cpp",), ("method", "function"), r"\boperator\b"),
    ("ctags loses a class", ("cpp",), ("class", "enum"), r"\b(class|struct|union|enum)\b.*NAME"),
    (
        "ctags loses a constant or a member",
        ("cpp",),
        ("variable", "constant", "field"),
        r"^\s*(inline|static|constexpr|const|extern|alignas\(\w+\))\b.*\bNAME\b|^\s*NAME\s*(=|,|$)|^\w.*\bNAME\b.*[;={]",
    ),
    ("ctags names the macro instead", ("c", "cpp"), ("function",), r"^[A-Z][A-Z0-9_]+\s*\(\s*NAME"),
    ("ctags loses a function", ("c",), ("function",), r"^NAME\s*\(|^\w[\w *]*\bNAME\s*\("),
    ("a member declared by a macro", ("c",), ("field",), r"^\s*\w+\(.*\)\s*NAME\s*;"),
    (
        "ctags loses a constant or a member",
        ("c",),
        ("field", "constant", "macro"),
        r"^\s*NAME\b|#\s*define\s+NAME\b|^\s+\w[\w \t*]*\bNAME\b[\w\[\]]*\s*[;,]",
    ),
    (
        "ctags loses a method or a function",
        _JS,
        ("method", "function"),
        r"[\"'`]?(?<![\w$])NAME[\"'`]?\s*(\??\s*[(:=<]|$)",
    ),
    (
        "ctags loses a class or a type",
        _JS,
        ("class", "interface", "enum", "type", "module"),
        r"\b(class|interface|enum|type|namespace|module)\s+[\"']?NAME|NAME\s*=\s*class",
    ),
    (
        "ctags loses a member or a constant",
        _JS,
        ("field", "constant", "variable"),
        r"[\"']?(?<![\w$])NAME[\"']?\s*([?!]?\s*[:=;,]|$)",
    ),
)
