"""A text and its language to what the queries capture in it, as plain tuples of bytes and rows. Pure.

The only module that touches syntax trees. Nothing here recurses or asks a node for its parent or its
siblings: tree-sitter answers those by descending from the root, which makes large flat files quadratic.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from codellama_index.languages import Grammar, grammar

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Query, QueryCursor, Tree

# Some grammars (Lua's, Scala's) take minutes for what no person writes. A megabyte of real code takes less
# than one second; bytes alone can't be parsed with a deadline, a source that is read in pieces can.
_CPU_SECONDS = 3.0
_PIECE = 4096

# A query takes time in the square of the depth it looks into, and of a row of bare brackets and commas.
_MAX_DEPTH = 1000
_LARGE = 20_000
_BARE = re.compile(rb"(?:[\[\](){}<>,;]\s?){2000}")


class Mention(NamedTuple):
    """A use of a name: its 1-based line and its first byte."""

    name: str
    line: int
    start: int


@dataclass(slots=True)
class Mentions:
    """Uses of names in the order of their bytes, column by column: there are hundreds of thousands."""

    names: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[Mention]:
        return map(Mention, self.names, self.lines, self.starts)

    def __len__(self) -> int:
        return len(self.starts)


class Definition(NamedTuple):
    """A definition as captured: bytes and 0-based rows; `head_end` is where its signature ends."""

    start: int
    end: int
    kind: str
    name: str
    name_start: int
    name_row: int
    start_row: int
    end_row: int
    head_end: int
    within: str


class Region(NamedTuple):
    """A stretch of the text with a meaning of its own."""

    start: int
    end: int
    start_row: int
    end_row: int


@dataclass(slots=True)
class Captures:
    """All that the queries found, definitions and regions in the order of their first bytes.

    `clauses` as in the language's entry.
    """

    clauses: bool = False
    definitions: list[Definition] = field(default_factory=list)
    references: Mentions = field(default_factory=Mentions)
    imports: list[str] = field(default_factory=list)
    regions: dict[str, list[Region]] = field(default_factory=dict)


def captures(language: str, source: bytes) -> Captures:
    """What stands in a source; nothing at all where the grammar does not come to an end with it."""
    compiled = grammar(language)
    found = Captures(compiled.entry.clauses)
    fatal = compiled.entry.fatal
    if (fatal and fatal.search(source)) or (len(source) > _LARGE and _BARE.search(source)):
        return found
    quiet, hidden = _hidden(compiled.entry.noise, source)
    tree = syntax_tree(language, quiet)
    if tree is None:
        return found
    root = tree.root_node
    found.definitions = _definitions(compiled, root, source)
    uses = _cursor(compiled.uses).captures(root)
    names = {definition.name_start for definition in found.definitions}
    found.references = _mentions(uses.pop("reference", []), names, source)
    if hidden:
        every = sorted([*found.references, *hidden], key=lambda mention: mention.start)
        found.references = Mentions(*map(list, zip(*every, strict=True)))
    imports = sorted(uses.pop("import", ()), key=lambda node: node.start_byte)
    found.imports = [_text(node, source).strip("\"'<>`") for node in imports]
    for capture, nodes in uses.items():
        if capture.startswith("_"):
            continue
        regions = [Region(n.start_byte, n.end_byte, n.start_point[0], _last_row(n)) for n in nodes]
        found.regions[capture] = sorted(set(regions), key=lambda region: (region.start, -region.end))
    return found


def syntax_tree(language: str, source: bytes) -> "Tree | None":
    """The tree of a source, or None where the grammar did not come to an end with it in time."""

    parser = _parser(language)
    if len(source) <= _LARGE:  # it ends soon with any grammar, and asking costs a fifth
        return parser.parse(source)
    deadline, soonest = time.process_time() + _CPU_SECONDS, time.monotonic() + _CPU_SECONDS
    calls = count()

    def read(start: int, _: object) -> bytes:
        return source[start : start + _PIECE]

    def is_late(*_: object) -> bool:
        # Processor time is slow to ask for, and never ahead of the clock on the wall.
        return not next(calls) % 32 and time.monotonic() > soonest and time.process_time() > deadline

    try:
        return parser.parse(read, progress_callback=is_late)
    except ValueError:  # it was late
        parser.reset()
        return None


def _hidden(noise: tuple[re.Pattern[bytes], ...], source: bytes) -> tuple[bytes, list[Mention]]:
    """The source with its noise blanked out, byte for byte, and the uses of names that this hid."""
    matches = sorted(
        match.span(match.lastindex or 0) for pattern in noise for match in pattern.finditer(source)
    )
    if not matches:
        return source, []
    quiet = bytearray(source)
    hidden: list[Mention] = []
    line, counted = 1, 0
    for start, end in matches:
        quiet[start:end] = b" " * (end - start)
        line, counted = line + source.count(b"\n", counted, start), start
        hidden.append(Mention(source[start:end].decode("utf-8", "replace").rstrip("!"), line, start))
    return bytes(quiet), hidden


@cache
def _parser(language: str) -> "Parser":
    from tree_sitter import Parser

    return Parser(grammar(language).language)


def _cursor(query: "Query") -> "QueryCursor":
    from tree_sitter import QueryCursor

    cursor = QueryCursor(query)
    cursor.set_max_start_depth(_MAX_DEPTH)
    return cursor


# Where several patterns match one name, the more telling kind wins, and among equals the first.
_PRECEDENCE = {"none": 1, "variable": -2, "field": -1, "type": -1, "constant": -1}


def _definitions(compiled: Grammar, root: "Node", source: bytes) -> list[Definition]:
    found: dict[int, tuple[int, int, Definition]] = {}  # by the name's first byte
    for pattern, nodes in _cursor(compiled.definitions).matches(root):
        capture, kind = compiled.kinds[pattern]
        node = nodes[capture][0]
        precedence = _PRECEDENCE.get(kind, 0)
        for name in nodes["name"]:
            key = name.start_byte
            known = found.get(key)
            if known is None or (precedence, -pattern) > known[:2]:
                found[key] = (precedence, -pattern, _definition(compiled, kind, node, name, nodes, source))
    real = [definition for _, _, definition in found.values() if definition.kind != "none"]
    return sorted(real, key=lambda d: (d.start, -d.end, d.name_start))


def _definition(
    compiled: Grammar, kind: str, node: "Node", name: "Node", nodes: dict[str, list["Node"]], source: bytes
) -> Definition:
    within = [_text(part, source) for part in nodes.get("within", ())]
    text = _text(name, source)
    if name.type == "operator_cast":
        text = text.partition("(")[0].strip()  # the node holds the parameters as well
    elif "::" in text:  # C++'s `namespace a::b`
        *within, text = text.split("::")
    body = nodes["body"][0] if "body" in nodes else _body(node)
    trim = compiled.entry.trim
    return Definition(
        node.start_byte,
        node.end_byte,
        kind,
        text.strip(trim) if trim else text,
        name.start_byte,
        name.start_point[0],
        node.start_point[0],
        _last_row(node),
        body.start_byte if body is not None else node.end_byte,
        ".".join(within),
    )


def _last_row(node: "Node") -> int:
    """The row of its last byte: some grammars let a node end with its line break."""
    row, column = node.end_point
    return row - (column == 0 and row > node.start_point[0])


def _body(node: "Node") -> "Node | None":
    body = node.child_by_field_name("body")
    if body is None:
        value = node.child_by_field_name("value") or node.child_by_field_name("right")
        body = value.child_by_field_name("body") if value is not None else None
    return body


def _mentions(nodes: list["Node"], names: set[int], source: bytes) -> Mentions:
    # Captures come in the order of a hash table.
    by_start = {node.start_byte: node for node in nodes}
    starts = sorted(by_start.keys() - names)
    nodes = [by_start[start] for start in starts]
    raw = [source[start : node.end_byte] for start, node in zip(starts, nodes, strict=True)]
    known = {name: name.decode("utf-8", "replace") for name in set(raw)}
    return Mentions([known[name] for name in raw], [node.start_point[0] + 1 for node in nodes], starts)


def _text(node: "Node", source: bytes) -> str:
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")
