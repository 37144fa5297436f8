"""An answer without a model: what the index knows, put in order, with every line read again.

The text is Markdown: places as `path:start-end`, quotes in fences whose info string is the place. A
quote is shown only as it stands on the disk now.
"""

import re
from collections.abc import Sequence

from codellama.assist.citations import Citation, cite
from codellama.assist.exact import Section, is_of, qualified
from codellama.assist.filters import strip_escapes
from codellama_index import Index
from codellama_index.rank import is_secondary
from codellama_index.records import Hit, Symbol

_SHOWN = 5
_WEAK = 0.45  # a passage scored below this share of the best one is not evidence
_QUOTE_LINES = 14
_USERS = 3

NOTHING = "Nothing in this repository matches the question: try the words that its code uses."


def composed(
    index: Index, found: Sequence[Section], hits: Sequence[Hit], reason: str
) -> tuple[str, tuple[Citation, ...]]:
    """The text and its citations: exact answers if there are any, else the passages found.

    `reason` says why no model wrote it.
    """
    citations: list[Citation] = []
    blocks: list[str] = []
    for section in found:
        blocks.append(_section(section, len(found) == 1 or section is found[-1]))
        citations += [citation for citation, _ in section.places]
    if not found:
        for hit, citation in _chosen(index, hits):
            blocks.append(_passage(index, hit, citation))
            citations.append(citation)
    if not blocks:
        return NOTHING, ()
    how = "answered exactly from the index" if found else "composed from the repository's own text"
    text = "\n\n".join([*blocks, f"({how[0].upper()}{how[1:]}: {reason}.)"])
    return strip_escapes(text), tuple(citations)


def mark(citation: Citation) -> str:
    """How a place is written in an answer."""
    if citation.start_line == citation.end_line:
        return f"{citation.path}:{citation.start_line}"
    return f"{citation.path}:{citation.start_line}-{citation.end_line}"


def _section(section: Section, quoted: bool) -> str:
    lines = [section.heading]
    for citation, note in section.places:
        one_line = citation.start_line == citation.end_line
        said = "  ".join(part for part in (note, citation.quote.strip() if one_line else "") if part)
        lines.append(f"- {mark(citation)}  {said}".rstrip())
        if quoted and not one_line:
            lines += ["", _fence(citation)]
    return "\n".join([*lines, *section.lines])


def _chosen(index: Index, hits: Sequence[Hit]) -> list[tuple[Hit, Citation]]:
    """The best passages that still stand; after them a second one of a file, and what says `mod x;` alone."""
    first: list[tuple[Hit, Citation]] = []
    second: list[tuple[Hit, Citation]] = []
    for hit in hits:
        if len(first) == _SHOWN or hit.score < _WEAK * hits[0].score:
            break
        citation = _evidence(index, hit)
        if citation.verified:
            later = any(h.path == hit.path for h, _ in first) or _only_names_a_module(hit)
            (second if later else first).append((hit, citation))
    return [*first, *second][:_SHOWN]


def _only_names_a_module(hit: Hit) -> bool:
    return hit.symbol is not None and hit.symbol.kind == "module" and hit.start_line == hit.end_line


def _evidence(index: Index, hit: Hit) -> Citation:
    """The first lines of a passage, read again; what no longer holds its symbol is no evidence of it.

    Documentation that would fill them is left out: its beginning is told beside them.
    """
    symbol = hit.symbol if hit.symbol is not None and hit.symbol.start_line == hit.start_line else None
    lines = hit.text.split("\n")
    skipped = symbol.line - hit.start_line if symbol is not None else 0
    if not _QUOTE_LINES <= skipped < len(lines):
        skipped = 0
    start = hit.start_line + skipped
    head = "\n".join(lines[skipped : skipped + _QUOTE_LINES]).rstrip("\n")
    end = start + head.count("\n")
    if not head.strip() or (symbol is not None and symbol.name not in head):
        return Citation(hit.path, start, end, "", verified=False)
    return cite(index, hit.path, start, end, expected=head)


def _passage(index: Index, hit: Hit, citation: Citation) -> str:
    symbol = hit.symbol
    lines = [mark(citation)]
    if symbol is not None:
        lines[0] += f"  {symbol.kind} {qualified(symbol)}"
        if symbol.docstring:
            lines.append(" ".join(symbol.docstring.split("\n\n")[0].split()))
        users = _users(index, symbol)
        if users:
            lines.append(f"used in {users}")
    return "\n".join([*lines, "", _fence(citation)])


def _users(index: Index, symbol: Symbol) -> str:
    uses = [r for r in index.references(symbol.name, limit=60) if r.path != symbol.path]
    uses = [use for use in uses if symbol.name in use.text]
    if not _is_telling(index, symbol):
        owner = symbol.scope.rpartition(".")[2]
        uses = [use for use in uses if owner and is_of(owner, use, index)]
    uses.sort(key=lambda use: (is_secondary(use.path), f"{symbol.name}(" not in use.text))
    places: dict[str, str] = {}
    for use in uses:
        places.setdefault(use.path, f"{use.path}:{use.line}")
    return ", ".join(list(places.values())[:_USERS])


def _is_telling(index: Index, symbol: Symbol) -> bool:
    """Whether a name by itself says which definition is meant: `read` of many classes does not."""
    same = {(s.path, s.scope) for s in index.definitions(symbol.name) if not is_secondary(s.path)}
    of_words = re.search(r"[^_]_[^_]|[a-z][A-Z]", symbol.name) is not None
    return len(same) <= 1 and symbol.kind != "module" and (of_words or not symbol.scope)


def _fence(citation: Citation) -> str:
    longest = "```"
    while longest in citation.quote:
        longest += "`"
    return f"{longest}{mark(citation)}\n{citation.quote}\n{longest}"
