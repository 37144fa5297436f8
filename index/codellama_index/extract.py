"""A file's bytes to what the index keeps of it: symbols, references, imports, chunks. Pure.

Broken source yields what can be read of it. Nothing here touches the disk or the store.
"""

import bisect
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from codellama_index.languages import grammar, language_of
from codellama_index.records import Span, Symbol, SymbolKind

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

CHUNK_LINES = 60
WINDOW_LINES = 40
_SIGNATURE_LENGTH = 240

# Definitions whose inside holds locals: variables in them are left out.
_CALLABLE = frozenset({"function", "method"})
_CONTAINERS = frozenset({"class", "interface", "enum", "scope"})


class Mention(NamedTuple):
    """A use of a name: its 1-based line and its bytes (a tuple: there are hundreds of thousands)."""

    name: str
    line: int
    start: int
    end: int


class Chunk(NamedTuple):
    """A passage to search: 1-based lines, inclusive, and the name of the definition it is, if it is one."""

    start_line: int
    end_line: int
    name: str


@dataclass(frozen=True, slots=True)
class Extract:
    """All that the index keeps of one file's content."""

    symbols: tuple[Symbol, ...]
    references: tuple[Mention, ...]
    imports: tuple[str, ...]
    chunks: tuple[Chunk, ...]


@dataclass(slots=True)
class _Definition:
    kind: str
    node: "Node"
    name: "Node"


def decode(content: bytes) -> str | None:
    """A file's text, line breaks as they are: UTF-8, UTF-16 with its mark, else Latin-1; None if binary."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            return None
    if b"\0" in content[:8192]:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def extract(path: str, text: str) -> Extract:
    """Symbols, references, imports and chunks of a text; `path` tells the language."""
    lines = text.count("\n") + (not text.endswith("\n") and bool(text))
    language = language_of(path)
    if language is None:
        return Extract((), (), (), tuple(_chunks((), lines)))
    source = text.encode("utf-8", "replace")
    captured = _captures(language, source)
    symbols = tuple(_symbols(path, source, captured.definitions))
    names = {definition.name.start_byte for definition in captured.definitions}
    references = tuple(
        Mention(_text(node), node.start_point[0] + 1, node.start_byte, node.end_byte)
        for node in captured.references
        if node.start_byte not in names and node.end_byte - node.start_byte > 1
    )
    imports = tuple(dict.fromkeys(_text(node) for node in captured.imports))
    return Extract(symbols, references, imports, tuple(_chunks(symbols, lines)))


@dataclass(slots=True)
class _Captures:
    definitions: list[_Definition]
    references: list["Node"]
    imports: list["Node"]


@cache
def _parser(language: str) -> "Parser":
    from tree_sitter import Parser

    return Parser(grammar(language).language)


def _captures(language: str, source: bytes) -> _Captures:
    from tree_sitter import QueryCursor

    tree = _parser(language).parse(source)
    found = _Captures([], [], [])
    seen: dict[int, int] = {}  # a name's first byte to its definition's place: the first pattern wins
    for _, captures in QueryCursor(grammar(language).query).matches(tree.root_node):
        found.references += captures.get("reference", ())
        found.imports += captures.get("import", ())
        for name in captures.get("name", ()):
            capture = next(key for key in captures if key.startswith(("definition.", "scope")))
            kind = capture.removeprefix("definition.")
            definition = _Definition(kind, captures[capture][0], name)
            place = seen.get(name.start_byte)
            if place is None:
                seen[name.start_byte] = len(found.definitions)
                found.definitions.append(definition)
            elif _PRECEDENCE.get(kind, 0) > _PRECEDENCE.get(found.definitions[place].kind, 0):
                found.definitions[place] = definition
    return found


# Where several patterns match one name, the more telling kind wins.
_PRECEDENCE = {"variable": -1, "type": -1}


def _symbols(path: str, source: bytes, definitions: list[_Definition]) -> list[Symbol]:
    symbols: list[Symbol] = []
    open_ones: list[tuple[int, str, str]] = []  # end byte, kind, name of what encloses the next
    known: set[tuple[str, str, str]] = set()
    for definition in sorted(definitions, key=lambda d: (d.node.start_byte, -d.node.end_byte)):
        node = definition.node
        while open_ones and open_ones[-1][0] <= node.start_byte:
            open_ones.pop()
        name = _text(definition.name)
        around = open_ones[-1][1] if open_ones else ""
        kind = _kind(definition.kind, around, name)
        scope = ".".join(entry[2] for entry in open_ones)
        if definition.kind not in ("variable", "field", "constant"):
            open_ones.append((node.end_byte, kind or definition.kind, name))
        if kind is None or name == "_":
            continue
        if kind in ("variable", "constant", "field"):
            if (scope, name, kind) in known:
                continue  # assigned again: the first place defines it
            known.add((scope, name, kind))
        symbols.append(_symbol(path, source, definition, kind, scope))
    return symbols


def _kind(kind: str, around: str, name: str) -> SymbolKind | None:
    """The kind as the contract names it, or None for locals and for what is no symbol."""
    if kind == "scope":
        return None
    if kind == "function" and around in _CONTAINERS:
        return "method"
    if kind in ("variable", "constant"):
        if around in _CALLABLE:
            return None
        if around in ("class", "interface"):
            return "field"
        if kind == "variable" and name.isupper():
            return "constant"
    return kind  # type: ignore[return-value] # the queries' kinds are the contract's: tested


def _symbol(path: str, source: bytes, definition: _Definition, kind: SymbolKind, scope: str) -> Symbol:
    node = _outermost(definition.node)
    return Symbol(
        path=path,
        name=_text(definition.name),
        kind=kind,
        line=definition.name.start_point[0] + 1,
        start_line=node.start_point[0] + 1,
        end_line=node.end_point[0] + (1 if node.end_point[1] else 0) or 1,
        span=Span(node.start_byte, node.end_byte),
        scope=scope,
        signature=_signature(source, definition.node),
        docstring=_docstring(source, node, definition.node),
    )


def _outermost(node: "Node") -> "Node":
    """The definition with its decorators, `export` and declaration keyword."""
    wrappers: tuple[str, ...] = (
        "decorated_definition",
        "export_statement",
        "lexical_declaration",
        "type_declaration",
    )
    wrappers += ("const_declaration", "var_declaration")
    while node.parent is not None and node.parent.type in wrappers and node.parent.named_child_count <= 2:
        node = node.parent
    return node


def _signature(source: bytes, node: "Node") -> str:
    body = node.child_by_field_name("body")
    if body is None:
        value = node.child_by_field_name("value") or node.child_by_field_name("right")
        body = value.child_by_field_name("body") if value is not None else None
    end = body.start_byte if body is not None else node.end_byte
    head = source[node.start_byte : min(end, node.start_byte + 4 * _SIGNATURE_LENGTH)]
    text = " ".join(head.decode("utf-8", "replace").split())
    return text[:_SIGNATURE_LENGTH].rstrip().rstrip("{:").rstrip()


def _docstring(source: bytes, outer: "Node", node: "Node") -> str:
    body = node.child_by_field_name("body")
    first = body.named_children[0] if body is not None and body.named_child_count else None
    if first is not None and first.type == "expression_statement":
        first = first.named_children[0] if first.named_child_count else None
    if first is not None and first.type == "string":
        text = source[first.start_byte : first.end_byte].decode("utf-8", "replace")
        return _tidy(re.sub(r"^[rRbBuUfF]*('''|\"\"\"|'|\")|('''|\"\"\"|'|\")$", "", text))
    comments: list[str] = []
    before = outer.prev_sibling
    line = outer.start_point[0]
    while before is not None and "comment" in before.type and before.end_point[0] >= line - 1:
        if before.start_point[0] == before.end_point[0] == line:
            break
        comments.insert(0, source[before.start_byte : before.end_byte].decode("utf-8", "replace"))
        line, before = before.start_point[0], before.prev_sibling
    marks = re.compile(r"^\s*(///?!?|//|#+!?|/\*+!?|\*+/|\*)\s?|\*+/\s*$")
    return _tidy("\n".join(marks.sub("", part) for text in comments for part in text.splitlines()))


def _tidy(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _chunks(symbols: tuple[Symbol, ...], lines: int) -> list[Chunk]:
    """Definitions, cut to at most CHUNK_LINES, and windows over the lines that none of them covers."""
    chunks: list[Chunk] = []
    covered = [False] * (lines + 2)
    starts = sorted(s.start_line for s in symbols if s.kind in (*_CALLABLE, "class", "interface", "enum"))
    for symbol in symbols:
        if symbol.kind in ("variable", "constant", "field", "module"):
            continue
        end = symbol.end_line
        if symbol.kind in ("class", "interface", "enum"):
            # A class's own chunk is its head; its members have theirs.
            place = bisect.bisect_right(starts, symbol.start_line)
            if place < len(starts) and starts[place] <= end:
                end = max(symbol.start_line, starts[place] - 1)
        chunks += [
            Chunk(start, min(start + CHUNK_LINES - 1, end), symbol.name)
            for start in range(symbol.start_line, end + 1, CHUNK_LINES)
        ]
        covered[symbol.start_line : end + 1] = [True] * (end + 1 - symbol.start_line)
    start = 0
    for line in range(1, lines + 2):
        free = line <= lines and not covered[line]
        if free and not start:
            start = line
        elif start and (not free or line - start >= WINDOW_LINES):
            chunks.append(Chunk(start, line - 1, ""))
            start = line if free else 0
    return chunks


def _text(node: "Node") -> str:
    return (node.text or b"").decode("utf-8", "replace")
