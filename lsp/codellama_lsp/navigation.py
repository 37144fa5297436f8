"""Definitions, references, symbols and hovers from the index, for languages without a server of their own.

Names are matched, not types: of several definitions the nearest come first. Pure but for the index that is
asked; an open document's own text counts before what the index read of it. Runs in threads.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from lsprotocol import types

from codellama_index.records import Symbol
from codellama_lsp.positions import Encoding, units

if TYPE_CHECKING:
    from codellama_index import Index

_MOST = 200
_WORD = re.compile(r"[^\W\d]\w*")
_DOC_LINES = 30

_KINDS = {
    "function": types.SymbolKind.Function,
    "method": types.SymbolKind.Method,
    "class": types.SymbolKind.Class,
    "interface": types.SymbolKind.Interface,
    "enum": types.SymbolKind.Enum,
    "type": types.SymbolKind.Struct,
    "constant": types.SymbolKind.Constant,
    "variable": types.SymbolKind.Variable,
    "field": types.SymbolKind.Field,
    "module": types.SymbolKind.Module,
    "macro": types.SymbolKind.Function,
}


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a file: `line` from 0, `start` and `end` in the client's units."""

    path: str
    line: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Where texts come from: open documents by path, then the index's files on disk."""

    index: "Index | None"
    open_texts: dict[str, str]
    encoding: Encoding

    def lines(self, path: str) -> Sequence[str]:
        """A file's lines; none where it cannot be read."""
        if path in self.open_texts:
            return re.split(r"\r\n|\n|\r", self.open_texts[path])
        return self.index.lines(path) if self.index else ()

    def symbols(self, path: str) -> tuple[Symbol, ...]:
        """The definitions in an open document, as it stands."""
        from codellama_index.extract import extract

        return extract(path, self.open_texts[path].replace("\r\n", "\n")).symbols


def name_at(line: str, column: int) -> str:
    """The name that a cursor stands in or right behind (`column` in characters); "" for none."""
    return next((m[0] for m in _WORD.finditer(line) if m.start() <= column <= m.end()), "")


def definitions(sources: Sources, path: str, name: str) -> list[Symbol]:
    """The definitions of a name: of this file first, then the nearest ones."""
    own = [symbol for symbol in sources.symbols(path) if symbol.name == name]
    others: list[Symbol] = []
    for other in sources.open_texts:
        if other != path:
            others += [symbol for symbol in sources.symbols(other) if symbol.name == name]
    if sources.index is not None:
        found = sources.index.definitions(name)
        others += [symbol for symbol in found if symbol.path not in sources.open_texts]
    return own + sorted(others, key=lambda symbol: _farness(path, symbol))


def references(sources: Sources, path: str, name: str, *, with_definitions: bool) -> list[Place]:
    """The uses of a name in the whole repository, by file and line."""
    whole = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])")
    defined = {(symbol.path, symbol.line - 1) for symbol in definitions(sources, path, name)}
    places: list[Place] = []
    found = sources.index.references(name, _MOST) if sources.index else []
    rows = dict.fromkeys((r.path, r.line - 1) for r in found if r.path not in sources.open_texts)
    for open_path in sources.open_texts:
        lines = sources.lines(open_path)
        rows |= dict.fromkeys((open_path, n) for n, line in enumerate(lines) if whole.search(line))
    rows |= dict.fromkeys(defined)
    for where, line in sorted(rows):
        if with_definitions or (where, line) not in defined:
            places += _named(sources, where, line, whole)
    return places[:_MOST]


def place_of(sources: Sources, symbol: Symbol) -> Place:
    """Where a definition's name stands; its line's beginning where the file has changed meanwhile."""
    whole = re.compile(rf"(?<![\w$]){re.escape(symbol.name)}(?![\w$])")
    found = _named(sources, symbol.path, symbol.line - 1, whole)
    return found[0] if found else Place(symbol.path, symbol.line - 1, 0, 0)


def hover(sources: Sources, symbols: Sequence[Symbol]) -> str:
    """The first definition's head and documentation, and where it and the others stand, as Markdown."""
    first = symbols[0]
    fence = PurePosixPath(first.path).suffix.lstrip(".")
    parts = [f"```{fence}\n{first.signature}\n```"]
    if first.docstring:
        parts.append("\n".join(first.docstring.splitlines()[:_DOC_LINES]))
    more = f", and {len(symbols) - 1} more" if len(symbols) > 1 else ""
    scope = f" in {first.scope}" if first.scope else ""
    parts.append(f"{first.kind}{scope}, {first.path}:{first.line}{more}")
    return "\n\n".join(parts)


def outline(sources: Sources, path: str) -> list[types.DocumentSymbol]:
    """A document's definitions, each inside the one that holds it."""
    lines = sources.lines(path)
    roots: list[types.DocumentSymbol] = []
    around: list[tuple[int, types.DocumentSymbol]] = []
    for symbol in sources.symbols(path):
        place = place_of(sources, symbol)
        last = min(symbol.end_line, len(lines)) - 1
        name = types.Range(types.Position(place.line, place.start), types.Position(place.line, place.end))
        end = types.Position(last, units(lines[last], sources.encoding))
        whole = types.Range(types.Position(symbol.start_line - 1, 0), end)
        entry = types.DocumentSymbol(symbol.name, _KINDS[symbol.kind], whole, name, detail=symbol.signature)
        while around and around[-1][0] < symbol.end_line:
            around.pop()
        if around:
            parent = around[-1][1]
            parent.children = [*(parent.children or ()), entry]
        else:
            roots.append(entry)
        around.append((symbol.end_line, entry))
    return roots


def everywhere(
    query: str, all_sources: Iterable[tuple[Sources, Callable[[str], str]]]
) -> list[types.SymbolInformation]:
    """Definitions in all repositories by a part of their name; each comes with the URIs of its files."""
    found = []
    for sources, uri_of in all_sources:
        for symbol in sources.index.symbols(query, _MOST) if sources.index else ():
            location = location_of(place_of(sources, symbol), uri_of)
            kind, scope = _KINDS[symbol.kind], symbol.scope or symbol.path
            found.append(types.SymbolInformation(location, symbol.name, kind, container_name=scope))
    return found


def location_of(place: Place, uri_of: Callable[[str], str]) -> types.Location:
    """A place as the protocol names it."""
    start, end = types.Position(place.line, place.start), types.Position(place.line, place.end)
    return types.Location(uri_of(place.path), types.Range(start, end))


def _named(sources: Sources, path: str, line: int, whole: "re.Pattern[str]") -> list[Place]:
    """Where a name stands in a line."""
    lines = sources.lines(path)
    text = lines[line] if 0 <= line < len(lines) else ""
    count = sources.encoding
    return [
        Place(path, line, units(text[: m.start()], count), units(text[: m.end()], count))
        for m in whole.finditer(text)
    ]


def _farness(path: str, symbol: Symbol) -> tuple[bool, int, str, int]:
    """Of the same kind of file first, then by how much of the folder they share."""
    here, there = PurePosixPath(path), PurePosixPath(symbol.path)
    shared = sum(a == b for a, b in zip(here.parts, there.parts, strict=False))
    return (here.suffix != there.suffix, -shared, symbol.path, symbol.line)
