"""Questions that the index answers exactly: definitions, callers, implementers, importers, tests, changes.

Each answer is a list of places, read again from the disk; none is guessed.
"""

import math
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
_DEFINITIONS = 4
_COMMITS = 12
_QUOTE_LINES = 14
_TYPES = "class|interface|trait|struct|object|protocol|record|enum|module"
_TYPE_KINDS = frozenset({"class", "interface", "type", "enum"})
_DECLARES = re.compile(rf"\b({_TYPES}|impl|extension)\b")
_IS_TEST = re.compile(r"test|spec", re.I)
_IMPORTING = re.compile(r"\b(import|from|use|require|include|using|package)\b|^\s*[\w.]*\s*[\"'`]")
_ITSELF = frozenset({"self", "this", "cls", "super"})
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
    owner = _owner(plan, index)
    code = [use for use in uses if not is_secondary(use.path)]
    tests = [use for use in uses if is_secondary(use.path) and _IS_TEST.search(use.path)]
    if owner:
        tests.sort(key=lambda use: not is_of(owner, use, index))
    if plan.kind == "tests":
        found = _listed(f"{plan.name} is tested by", index, tests)
        return (*found, *_definitions(plan, index)) if found else ()
    found = _used(plan, owner, index, code or uses)
    if plan.kind == "impact":
        found += _one("These extend or implement it", _implementers(index, plan))
        found += _listed("These tests would tell", index, tests)
    elif code:
        found += _listed("Tests that use it", index, tests, _SITES // 4)
    return (*found, *_definitions(plan, index)) if found else ()


def _one(heading: str, places: Sequence[tuple[Citation, str]]) -> tuple[Section, ...]:
    more = (f"- and {len(places) - _SITES} more",) if len(places) > _SITES else ()
    return (Section(f"{heading}:", tuple(places[:_SITES]), more),) if places else ()


def _listed(heading: str, index: Index, uses: Sequence[Reference], most: int = _SITES) -> tuple[Section, ...]:
    """The first `most` of the lines that use a name, and how many more there are."""
    lines = list({(use.path, use.line): use for use in reversed(uses)}.values())[::-1]
    sites, looked_at = _sites(index, lines, most)
    left = len(lines) - looked_at
    more = (f"- and {left} more: codellama index refs {lines[0].name}",) if left else ()
    return (Section(f"{heading}:", tuple(sites), more),) if sites else ()


def _used(plan: Plan, owner: str, index: Index, uses: Sequence[Reference]) -> tuple[Section, ...]:
    """The uses of a name; what is said where they may be another definition's."""
    if owner:
        own: list[Reference] = []
        others: list[Reference] = []
        for use in uses:
            (own if is_of(owner, use, index) else others).append(use)
        return (
            *_listed(f"{owner}.{plan.name} is used by", index, own),
            *_listed(f"Uses of a {plan.name} that may be another's", index, others, _SITES // 2),
        )
    shared = len({(s.path, s.scope) for s in plan.symbols if not is_secondary(s.path)})
    said = f", a name that is defined in {shared} places," if shared > 1 else ""
    return _listed(f"{plan.name}{said} is used by", index, uses)


def _owner(plan: Plan, index: Index) -> str:
    """Whose name is asked about, where others have one of that name too; else ""."""
    known = set(plan.symbols)
    same = [s for s in index.definitions(plan.name) if s.kind not in ("field", "variable")]
    owners = {symbol.scope.rpartition(".")[2] for symbol in plan.symbols}
    return owners.pop() if len(owners) == 1 and not known.issuperset(same) else ""


def is_of(owner: str, use: Reference, index: Index) -> bool:
    """Whether what stands before a name sounds like its owner, or the function around declares it as one.

    Names are matched, not types.
    """
    before = re.search(rf"(\w+)(?:\([^()]*\))?\s*(?:\?\.|\.|->|::)\s*{re.escape(use.name)}\b", use.text)
    receiver = before[1] if before else "self"
    said, wanted = re.sub(r"[_\d]", "", receiver).lower(), re.sub(r"[_\d]", "", owner).lower()
    if said.endswith(wanted) or (len(said) > 2 and wanted.endswith(said)):
        return True
    around = index.enclosing(use.path, use.line)
    if around is None:
        return False
    if receiver.lower() in _ITSELF:
        return owner in qualified(around).split(".")
    one, other = re.escape(receiver), re.escape(owner)
    declared = rf"\b{one}\b[^,;()]*\b{other}\b|\b{other}\b[^,;()]*\b{one}\b"  # Go's order, and Java's
    return re.search(declared, around.signature) is not None


def _definitions(plan: Plan, index: Index) -> tuple[Section, ...]:
    def order(symbol: Symbol) -> tuple[bool, bool, str, int]:
        """Code before tests, and types before the methods that have the same name."""
        return is_secondary(symbol.path), symbol.kind not in _TYPE_KINDS, symbol.path, symbol.line

    places: list[tuple[Citation, str]] = []
    for symbol in sorted(plan.symbols, key=order)[:_DEFINITIONS]:
        documented = (
            symbol.line - symbol.start_line >= _QUOTE_LINES
        )  # so much that nothing else would be quoted
        start = symbol.line if documented else symbol.start_line
        citation = cite(index, symbol.path, start, min(symbol.end_line, start + _QUOTE_LINES - 1))
        if citation.verified and symbol.name in citation.quote:
            places.append((citation, f"{symbol.kind} {qualified(symbol)}"))
    left = len(plan.symbols) - _DEFINITIONS
    more = (f"- and {left} more: codellama index symbols {plan.name}",) if left > 0 else ()
    return (Section(f"{plan.name} is defined here:", tuple(places), more),) if places else ()


def qualified(symbol: Symbol) -> str:
    """A symbol's name with its scope."""
    return f"{symbol.scope}.{symbol.name}" if symbol.scope else symbol.name


def _uses(index: Index, name: str) -> list[Reference]:
    """Uses of a name: calls, then other mentions, then imports; code before tests."""

    def order(use: Reference) -> tuple[bool, bool, bool]:
        called = f"{name}(" in use.text.replace(" ", "")
        return is_secondary(use.path), not called, bool(_IMPORTING.match(use.text))

    return sorted((use for use in index.references(name, limit=400) if name in use.text), key=order)


def _sites(
    index: Index, uses: Iterable[Reference], most: float = math.inf
) -> tuple[list[tuple[Citation, str]], int]:
    """At most so many places, each with what is around it, and how many uses were looked at for them."""
    sites: list[tuple[Citation, str]] = []
    looked_at = 0
    for use in uses:
        if len(sites) == most:
            break
        looked_at += 1
        citation = cite(index, use.path, use.line, use.line)
        if use.name in citation.quote:
            around = index.enclosing(use.path, use.line)
            sites.append((citation, f"in {qualified(around)}" if around and around.line != use.line else ""))
    return sites, looked_at


def _implementers(index: Index, plan: Plan) -> list[tuple[Citation, str]]:
    name = plan.name
    declared = re.compile(rf"\b({_TYPES})\s+{name}\b")
    inherent = re.compile(rf"\bimpl\b(?!.*\b{name}\b.*\bfor\b)")
    whole = re.compile(rf"\b{name}\b")
    found: dict[tuple[str, int], Reference] = {}
    for use in _uses(index, name):
        head = _without_bounds(use.text)
        if (
            _DECLARES.search(head)
            and whole.search(head)
            and not (declared.search(head) or inherent.search(head))
        ):
            found.setdefault((use.path, use.line), use)
    sites, _ = _sites(index, found.values())
    for symbol in plan.symbols:
        if symbol.kind == "interface" and symbol.path.endswith(".go"):
            sites += _go_implementers(index, symbol)
    return sites


def _without_bounds(text: str) -> str:
    """A declaration without what stands in its brackets or behind `where`: a bound implements nothing."""
    text, before = re.sub("[-=]>", "", text), ""
    while text != before:
        text, before = re.sub(r"(?<=\w)<[^<>]*>|\[[^\[\]]*\]", "", text), text
    return re.sub(r"(?<=\w)<.*|\bwhere\b.*", "", text)  # Ruby's `class Dog < Animal` has a space before


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
        if at:
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
        start, end = _committed(index, symbol)
        if start > end:
            return ()
        command += ["-s", f"-L{start},{end}:{symbol.path}"]
    commits = tuple(line for line in _output(command).splitlines() if line.strip())
    if not commits:
        return ()
    shown = tuple((c, note) for c, note in place if c.verified)
    return (Section(f"The last changes of {subject}:", shown, commits),)


def _committed(index: Index, symbol: Symbol) -> tuple[int, int]:
    """Where a symbol's lines stood in the last commit, as git counts; start > end where none of them did."""
    diff = _output(["git", "-C", str(index.root), "diff", "--no-ext-diff", "-U0", "HEAD", "--", symbol.path])
    hunks = [
        (int(old), int(lost or 1), int(new), int(won or 1))
        for old, lost, new, won in re.findall(r"^@@ -(\d+),?(\d*) \+(\d+),?(\d*) @@", diff, re.M)
    ]

    def before(line: int, at_end: bool) -> int:
        moved = 0
        for old, lost, new, won in hunks:
            first = new + (won == 0)  # of no lines, git names the one before them
            if line < first:
                break
            if line < first + won:
                return old + (lost == 0) + (lost - 1) * at_end
            moved += lost - won
        return line + moved

    return before(symbol.start_line, False), before(symbol.end_line, True)


def _output(command: Sequence[str]) -> str:
    """What git says; nothing where it fails."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")
