"""Questions that the index answers exactly: definitions, callers, implementers, importers, tests, changes.

Each answer is a list of places, read again from the disk; none is guessed.
"""

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codellama.assist.citations import Citation, cite
from codellama.assist.planner import Plan
from codellama_index import Index
from codellama_index.rank import is_secondary
from codellama_index.records import Reference, Symbol

_SITES = 24
_COMMITS = 12
_QUOTE_LINES = 14
_TYPES = "class|interface|trait|struct|object|protocol|record|enum|module"
_DECLARES = re.compile(rf"\b({_TYPES}|impl|extension)\b")
_IS_TEST = re.compile(r"test|spec", re.I)
_IMPORTING = re.compile(r"\b(import|from|use|require|include|using|package)\b|^\s*[\w.]*\s*[\"'`]")
_RECEIVER = re.compile(r"func\s*\(\s*(?:\w+\s+)?\*?(\w+)")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with places below it; each with a note such as the function around it. `lines` are
    plain lines, such as commits."""

    heading: str
    places: tuple[tuple[Citation, str], ...]
    lines: tuple[str, ...] = ()


def sections(plan: Plan, index: Index) -> tuple[Section, ...]:
    """The answer to a plan; empty where there is nothing to tell."""
    if plan.kind == "definition":
        return _definitions(plan, index)
    if plan.kind == "changes":
        return _changes(plan, index)
    if plan.kind == "importers":
        return _one(f"{plan.name} is imported by", _importers(index, plan.name))
    if plan.kind == "implementers":
        found = _one(f"{plan.name} is implemented or extended by", _implementers(index, plan))
        return (*found, *_definitions(plan, index)) if found else ()
    uses = _uses(index, plan.name)
    code = [use for use in uses if not is_secondary(use.path)]
    tests = [use for use in uses if is_secondary(use.path) and _IS_TEST.search(use.path)]
    if plan.kind == "tests":
        found = _one(f"{plan.name} is tested by", _sites(index, tests))
        return (*found, *_definitions(plan, index)) if found else ()
    found = _one(f"{plan.name} is used by", _sites(index, code or uses))
    if plan.kind == "impact":
        found += _one("These extend or implement it", _implementers(index, plan))
        found += _one("These tests would tell", _sites(index, tests))
    elif code:
        found += _one("Tests that use it", _sites(index, tests)[: _SITES // 4])
    return (*found, *_definitions(plan, index)) if found else ()


def _one(heading: str, places: Sequence[tuple[Citation, str]]) -> tuple[Section, ...]:
    return (Section(f"{heading}:", tuple(places)),) if places else ()


def _definitions(plan: Plan, index: Index) -> tuple[Section, ...]:
    places: list[tuple[Citation, str]] = []
    for symbol in sorted(plan.symbols, key=lambda s: (is_secondary(s.path), s.path, s.line))[:4]:
        end = min(symbol.end_line, symbol.start_line + _QUOTE_LINES - 1)
        citation = cite(index, symbol.path, symbol.start_line, end)
        if citation.verified and symbol.name in citation.quote:
            places.append((citation, f"{symbol.kind} {qualified(symbol)}"))
    return _one(f"{plan.name} is defined here", places)


def qualified(symbol: Symbol) -> str:
    """A symbol's name with its scope."""
    return f"{symbol.scope}.{symbol.name}" if symbol.scope else symbol.name


def _uses(index: Index, name: str) -> list[Reference]:
    """Uses of a name: calls, then other mentions, then imports; code before tests."""

    def order(use: Reference) -> tuple[bool, bool, bool]:
        called = f"{name}(" in use.text.replace(" ", "")
        return is_secondary(use.path), not called, bool(_IMPORTING.match(use.text))

    return sorted((use for use in index.references(name, limit=400) if name in use.text), key=order)


def _sites(index: Index, uses: Iterable[Reference]) -> list[tuple[Citation, str]]:
    sites: list[tuple[Citation, str]] = []
    for use in uses:
        if len(sites) == _SITES:
            break
        citation = cite(index, use.path, use.line, use.line)
        if use.name in citation.quote:
            around = index.enclosing(use.path, use.line)
            sites.append((citation, f"in {qualified(around)}" if around and around.line != use.line else ""))
    return sites


def _implementers(index: Index, plan: Plan) -> list[tuple[Citation, str]]:
    name = plan.name
    declared = re.compile(rf"\b({_TYPES})\s+{name}\b")
    inherent = re.compile(rf"\bimpl\b(?!.*\b{name}\b.*\bfor\b)")
    found = [
        use
        for use in _uses(index, name)
        if _DECLARES.search(use.text) and not declared.search(use.text) and not inherent.search(use.text)
    ]
    sites = _sites(index, found)
    for symbol in plan.symbols:
        if symbol.kind == "interface" and symbol.path.endswith(".go"):
            sites += _go_implementers(index, symbol)
    return sites


def _go_implementers(index: Index, interface: Symbol) -> list[tuple[Citation, str]]:
    """Go's interfaces are met without saying so: the types that have all of the methods."""
    inside = [
        s
        for s in index.outline(interface.path)
        if s.scope == interface.name and interface.start_line <= s.line <= interface.end_line
    ]
    types: set[str] | None = None
    for method in inside:
        having = set()
        for symbol in index.definitions(method.name, limit=500):
            receiver = _RECEIVER.search(symbol.signature)
            if receiver:
                having.add(receiver.group(1))
        types = having if types is None else types & having
    named = (symbol for name in sorted(types or ()) for symbol in index.definitions(name))
    places = [
        (cite(index, symbol.path, symbol.line, symbol.line), "has all of its methods")
        for symbol in named
        if symbol.kind in ("class", "type")
    ]
    return [place for place in places if place[0].verified]


def _importers(index: Index, module: str) -> list[tuple[Citation, str]]:
    places: list[tuple[Citation, str]] = []
    word = re.compile(rf"(?<![\w$]){re.escape(module)}(?![\w$])")
    for path in sorted(index.importers(module), key=lambda path: (is_secondary(path), path)):
        lines = index.lines(path)
        said = [n for n, line in enumerate(lines, start=1) if word.search(line)]
        at = next((n for n in said if _IMPORTING.search(lines[n - 1])), 0)
        if at and len(places) < _SITES:
            places.append((cite(index, path, at, at), ""))
    return [place for place in places if place[0].verified]


def _changes(plan: Plan, index: Index) -> tuple[Section, ...]:
    command = ["git", "-C", str(index.root), "log", f"-n{_COMMITS}", "--date=short"]
    command.append("--format=%h  %ad  %an  %s")
    if plan.path:
        subject, place = plan.path, []
        command += ["--", plan.path]
    else:
        symbol = plan.symbols[0]
        subject = plan.name
        place = [(cite(index, symbol.path, symbol.start_line, symbol.end_line), qualified(symbol))]
        command += ["-s", f"-L{symbol.start_line},{symbol.end_line}:{symbol.path}"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ()
    commits = tuple(line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip())
    if not commits:
        return ()
    shown = tuple((c, note) for c, note in place if c.verified)
    return (Section(f"The last changes of {subject}:", shown, commits),)
