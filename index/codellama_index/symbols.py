"""Captures to symbols: which definitions enclose which, what is local, what documents what. Pure.

One sweep over everything captured, in the order of its first bytes, with a stack of what is open.
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from codellama_index.captures import Captures, Definition, Region
from codellama_index.records import Span, Symbol, SymbolKind

_SIGNATURE_LENGTH = 240
_DOCSTRING_LENGTH = 4000

# Definitions whose inside holds locals: variables in them are left out.
_CALLABLE = frozenset({"function", "method", "macro", "local"})
_CONTAINERS = frozenset({"class", "interface", "enum", "scope"})
_VALUES = frozenset({"variable", "constant", "field", "promoted"})

_MARKS = re.compile(
    r"^\s*(?:<!--|/\*+!?|\*+/|\(\*+|///?!?<?|//!|\*(?!\w)|#\||#+!?|--+\s?\||--\[=*\[|--+|\{-\s?\|?"
    r"|=begin|=end|%+)[ \t]?"
    r"|\s*(?:\*+/|\*+\)|-\}|\]=*\]|\|#|-->)\s*$"
)
_QUOTES = re.compile(r"^(?:~[sS]|[rRbBuUfF]*)('''|\"\"\"|'|\")|('''|\"\"\"|'|\")$")


class _Open(NamedTuple):
    """Something that the sweep is inside of; `scope` is the dotted path within it."""

    start: int
    end: int
    kind: str
    scope: str
    name_start: int


@dataclass(slots=True)
class _Docs:
    """Where documentation stands, by row."""

    source: bytes
    before: dict[int, Region]  # comments that begin their line, by their last row
    between: dict[int, Region]  # attributes, likewise
    strings: dict[int, Region]
    inside: dict[int, Region]  # by the first byte of the body that the string stands first in


def symbols(path: str, source: bytes, found: Captures) -> list[Symbol]:
    """The file's symbols in the order of their first bytes; locals, parameters and imports are none."""
    result: list[Symbol] = []
    docs = _docs(source, found.regions)
    outer = _covered(found.regions.get("outer", []), found.definitions)
    events: list[tuple[int, int, Definition | None]] = [(d.start, -d.end, d) for d in found.definitions]
    events += [(region.start, -region.end, None) for region in found.regions.get("local", [])]
    events.sort(key=lambda event: event[:2])
    stack = [_Open(-1, len(source) + 1, "", "", -1)]
    known: set[tuple[int, str, str]] = set()
    for start, end, definition in events:
        while stack[-1].end <= start or stack[-1][:2] == (start, -end):  # several names of one declaration
            stack.pop()
        around = stack[-1]
        if definition is None:
            stack.append(_Open(start, -end, "local", around.scope, start))
            continue
        if definition.kind == "promoted":
            around = _container(stack)
        elif definition.kind in _CONTAINERS and definition.name_start < around.name_start:
            around = stack[-2]  # C's `struct box { ... } only;` and `typedef struct box { ... } box_t;`
        scope = _joined(around.scope, definition.within)
        kind = _kind(definition, around.kind)
        inner = (
            "local" if around.kind in _CALLABLE and definition.kind in _VALUES else kind or definition.kind
        )
        stack.append(_Open(start, -end, inner, _joined(scope, definition.name), definition.name_start))
        if kind is None or definition.name in ("", "_"):
            continue
        if kind in _VALUES:
            if (around.start, definition.name, kind) in known:
                continue  # assigned again: the first place defines it
            known.add((around.start, definition.name, kind))
        whole = outer.get((definition.start, definition.end), definition)
        symbol = _symbol(path, definition, whole, kind, scope, docs)
        if found.clauses and result and _same(result[-1], symbol):
            span = Span(result[-1].span.start, symbol.span.end)
            result[-1] = replace(result[-1], end_line=symbol.end_line, span=span)
        else:
            result.append(symbol)
    return result


def _same(one: Symbol, other: Symbol) -> bool:
    return (one.scope, one.name, one.kind) == (other.scope, other.name, other.kind)


def _container(stack: list[_Open]) -> _Open:
    return next((entry for entry in reversed(stack) if entry.kind not in _CALLABLE), stack[0])


def _joined(scope: str, name: str) -> str:
    name = name.replace("::", ".")
    return f"{scope}.{name}" if scope and name else scope or name


def _kind(definition: Definition, around: str) -> SymbolKind | None:
    """The kind as the contract names it, or None for locals and for what is no symbol."""
    kind, name = definition.kind, definition.name
    if kind == "function" and (around in _CONTAINERS or definition.within):
        return "method"
    if kind == "scope" or (kind in _VALUES and around in _CALLABLE):
        return None
    if kind == "promoted" or (kind == "variable" and around in _CONTAINERS):
        return "field"
    if kind == "variable" and name.isupper():
        return "constant"
    return cast(SymbolKind, kind)  # the queries' kinds are the contract's: tested


def _covered(outer: list[Region], definitions: list[Definition]) -> dict[tuple[int, int], Region]:
    """What stands around a definition and nothing else: its decorators, `export`, `template`."""
    covered: dict[tuple[int, int], Region] = {}
    waiting: list[Region] = []
    place = 0
    for definition in definitions:
        while place < len(outer) and outer[place].start <= definition.start:
            waiting.append(outer[place])
            place += 1
        fitting = [o for o in waiting if 0 <= o.end - definition.end <= 2]
        if fitting:
            covered[definition.start, definition.end] = fitting[0]
        waiting.clear()  # what comes next is not the first inside of these
    return covered


def _symbol(
    path: str, definition: Definition, whole: Definition | Region, kind: SymbolKind, scope: str, docs: _Docs
) -> Symbol:
    docstring, start, start_row = _documentation(docs, definition, whole)
    return Symbol(
        path=path,
        name=definition.name,
        kind=kind,
        line=definition.name_row + 1,
        start_line=start_row + 1,
        end_line=max(definition.end_row, definition.name_row) + 1,
        span=Span(start, whole.end),
        scope=scope,
        signature=_signature(docs.source, definition),
        docstring=docstring,
    )


def _signature(source: bytes, definition: Definition) -> str:
    end = min(definition.head_end, definition.start + 4 * _SIGNATURE_LENGTH)
    head = source[definition.start : end]
    if definition.head_end == definition.end:
        head = head.partition(b"\n")[0]  # no body that a query knows: the first line says what it is
    text = " ".join(head.decode("utf-8", "replace").split())
    return text[:_SIGNATURE_LENGTH].rstrip().rstrip("{:=;").rstrip()


def _docs(source: bytes, regions: dict[str, list[Region]]) -> _Docs:
    return _Docs(
        source,
        {r.end_row: r for r in regions.get("comment", ()) if _begins_its_line(source, r.start)},
        {r.end_row: r for r in regions.get("attribute", ())},
        {r.end_row: r for r in regions.get("doc", ())},
        {r.start: r for r in regions.get("doc.inside", ())},
    )


def _begins_its_line(source: bytes, start: int) -> bool:
    before = source[source.rfind(b"\n", max(0, start - 200), start) + 1 : start]
    return not before.strip()


def _documentation(docs: _Docs, definition: Definition, whole: Definition | Region) -> tuple[str, int, int]:
    """The documentation, and the byte and the row where the definition begins with it."""
    inside = docs.inside.get(definition.head_end)
    if inside is not None:
        return _unquoted(docs.source, inside), whole.start, whole.start_row
    if not _begins_its_line(docs.source, whole.start):
        return "", whole.start, whole.start_row
    comments: list[Region] = []
    row = whole.start_row - 1
    while True:
        comment = docs.before.get(row)
        passed = comment or docs.between.get(row)
        if passed is None or passed.start >= definition.start:
            break
        if comment is not None:
            comments.append(comment)
        row = passed.start_row - 1
    string = docs.strings.get(row)
    if string is not None and not comments:
        return _unquoted(docs.source, string), string.start, string.start_row
    if not comments:
        return "", whole.start, whole.start_row
    comments.reverse()
    texts = [docs.source[c.start : c.end].decode("utf-8", "replace") for c in comments]
    lines = [_MARKS.sub("", line) for text in texts for line in text.splitlines()]
    return _tidy("\n".join(lines)), comments[0].start, comments[0].start_row


def _unquoted(source: bytes, region: Region) -> str:
    text = source[region.start : region.end].decode("utf-8", "replace").strip()
    return _tidy(_QUOTES.sub("", text))


def _tidy(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())[:_DOCSTRING_LENGTH]
