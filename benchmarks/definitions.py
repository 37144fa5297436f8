"""Definitions and references against other readers of the same files, on real repositories.

    python -m benchmarks.definitions python=FOLDER go=FOLDER ...

Definitions are compared with universal-ctags', name by name and line by line. Where the two differ, a
cause is looked for: something that ctags gets wrong or that the contract leaves out (locals), told by
the text of the line and by its place in the syntax tree. `recall` and `precision` are raw; `adjusted`
leaves the named causes out of account. What no rule explains counts against us. References are compared
with the names that Python's own tokenizer finds, elsewhere with the leaves of the syntax tree.
"""

import argparse
import io
import json
import keyword
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ctags import KINDS, SUFFIXES, Key, Tag, plain, tags, version
from benchmarks.differences import extra_cause, missing_cause
from benchmarks.report import RESULTS, Figure, write

from codellama_index.captures import captures, syntax_tree
from codellama_index.extract import decode, extract
from codellama_index.languages import language_of
from codellama_index.records import Symbol

if TYPE_CHECKING:
    from tree_sitter import Node

_MAX_BYTES = 300_000
_REFERENCE_FILES = 120
_WORD = re.compile(r"[^\W\d]\w*\Z")
# Named leaves that are words of the language or text, whatever they look like.
_NO_NAME = re.compile(
    "string|heredoc|comment|content|text|escape|literal|specifier|(?<!_identifier)_type$|predefined"
)


@dataclass
class Comparison:
    """One language's differences; `causes` counts the explained ones by their reason."""

    files: int = 0
    theirs: int = 0
    ours: int = 0
    missing: int = 0
    extra: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        """The figures of the table."""
        not_theirs = sum(n for cause, n in self.causes.items() if cause.startswith("missing"))
        not_ours = sum(n for cause, n in self.causes.items() if cause.startswith("extra"))
        return {
            "files": self.files,
            "ctags": self.theirs,
            "ours": self.ours,
            "recall": _share(self.theirs - self.missing, self.theirs),
            "precision": _share(self.ours - self.extra, self.ours),
            "recall_adjusted": _share(self.theirs - self.missing, self.theirs - not_theirs),
            "precision_adjusted": _share(self.ours - self.extra + not_ours, self.ours),
            "causes": dict(self.causes.most_common()),
        }


def main() -> None:
    """Compares and writes benchmarks/results/definitions.json and .md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", metavar="LANGUAGE=FOLDER")
    parser.add_argument("--limit", type=int, default=700, help="at most this many files of each")
    arguments = parser.parse_args()
    rows = []
    for what in arguments.what:
        language, _, folder = what.partition("=")
        texts = dict(_files(language, Path(folder), arguments.limit))
        comparison = compare(language, texts)
        figures = comparison.figures()
        found, wanted = references(language, texts)
        row = {"language": language, "repository": Path(folder).name, **figures}
        row |= {"references": wanted, "references_recall": _share(found, wanted)}
        rows.append(row)
        print(json.dumps(row), *comparison.unexplained[:40], sep="\n", flush=True)
    packages = ["tree-sitter", *(f"tree-sitter-{name}" for name in KINDS)]
    write("definitions", _figures(rows), packages, {"ctags": version(), "rows": rows})
    with (RESULTS / "definitions.md").open("a", encoding="utf-8") as report:
        report.write(_table(rows))


def compare(language: str, texts: dict[str, str]) -> Comparison:
    """Ours against ctags', keyed by path, line and name."""
    result = Comparison(files=len(texts))
    every = tags(language, texts)
    theirs = {key: tag for key, tag in every.items() if tag.kind in KINDS[language]}
    ours: dict[Key, Symbol] = {}
    for path, text in texts.items():
        for symbol in extract(path, text).symbols:
            ours[path, symbol.line, plain(symbol.name)] = symbol
    result.theirs, result.ours = len(theirs), len(ours)
    locals_of = _Locals(language, texts)
    seen: set[tuple[str, str, str]] = set()
    for key, tag in sorted(theirs.items()):
        path, line, name = key
        again = (path, tag.scope, name) in seen
        seen.add((path, tag.scope, name))
        if key in ours:
            continue
        result.missing += 1
        cause = missing_cause(language, tag, again, locals_of(path), _line(texts, key), (line, name))
        _count(result, "missing", cause, tag, key, texts)
    heads = {(key[0], _joined(symbol.scope, symbol.name)): symbol.signature for key, symbol in ours.items()}
    for key, symbol in ours.items():
        if key not in every:
            result.extra += 1
            around = " ".join(heads.get((key[0], scope), "") for scope in _outer(symbol.scope))
            cause = extra_cause(language, symbol, _line(texts, key), key[2], around)
            _count(result, "extra", cause, symbol, key, texts)
    return result


class _Locals:
    """What our queries capture in a file, kept or not, and what stands in its strings and comments."""

    def __init__(self, language: str, texts: dict[str, str]) -> None:
        self._language, self._texts = language, texts
        self._known: dict[str, tuple[set[tuple[int, str]], set[int]]] = {}

    def __call__(self, path: str) -> tuple[set[tuple[int, str]], set[int]]:
        if path not in self._known:
            source = self._texts[path].encode("utf-8", "replace")
            language = language_of(path, self._texts[path]) or self._language
            named = {(d.name_row + 1, d.name) for d in captures(language, source).definitions}
            quoted = {
                row + 1
                for node in _leaves(language, source)
                if re.search("string|heredoc|comment|content", node.type)
                for row in range(node.start_point[0], node.end_point[0] + 1)
            }
            self._known[path] = (named, quoted)
        return self._known[path]


def references(language: str, texts: dict[str, str]) -> tuple[int, int]:
    """How many of the oracle's names we have as references or as definitions, and how many it has."""
    found = wanted = 0
    step = max(1, len(texts) // _REFERENCE_FILES)
    for path, text in list(texts.items())[::step]:
        own = {(mention.line, mention.name) for mention in extract(path, text).references}
        source = text.encode("utf-8", "replace")
        kind = language_of(path, text) or language
        own |= {(d.name_row + 1, d.name) for d in captures(kind, source).definitions}
        names = set(_tokens(text) if language == "python" else _names(kind, source))
        wanted += len(names)
        found += len(names & own)
    return found, wanted


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                yield token.start[0], token.string
    except (tokenize.TokenError, SyntaxError):
        return


def _names(language: str, source: bytes) -> Iterator[tuple[int, str]]:
    for node in _leaves(language, source):
        text = source[node.start_byte : node.end_byte].decode("utf-8", "replace")
        words = _NO_NAME.search(node.type)
        if _WORD.match(text) and node.type != text and not words:
            yield node.start_point[0] + 1, text


def _leaves(language: str, source: bytes) -> Iterator["Node"]:
    tree = syntax_tree(language, source)
    if tree is None:
        return
    cursor = tree.walk()
    while True:
        node = cursor.node
        if node is not None and node.is_named and not node.child_count:
            yield node
        if cursor.goto_first_child() or cursor.goto_next_sibling():
            continue
        while cursor.goto_parent():
            if cursor.goto_next_sibling():
                break
        else:
            return


def _files(language: str, folder: Path, limit: int) -> Iterator[tuple[str, str]]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES[language] or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size < _MAX_BYTES:
            found.append(path)
    for path in found[:: max(1, len(found) // limit)]:
        text = decode(path.read_bytes())
        if text is not None and language_of(str(path), text) == language:
            yield str(path), text


def _count(
    result: Comparison, side: str, cause: str, what: Tag | Symbol, key: Key, texts: dict[str, str]
) -> None:
    if cause:
        result.causes[f"{side}: {cause}"] += 1
    else:
        result.unexplained.append(f"{side} {what.kind} {key[2]} | {_line(texts, key).strip()[:90]}")


def _joined(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _outer(scope: str) -> Iterator[str]:
    parts = scope.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _line(texts: dict[str, str], key: Key) -> str:
    lines = texts[key[0]].split("\n")
    return lines[key[1] - 1] if key[1] <= len(lines) else ""


def _share(part: int, whole: int) -> float:
    return round(part / max(1, whole), 4)


def _figures(rows: list[dict[str, object]]) -> Iterator[Figure]:
    goals = {"recall_adjusted": 0.97, "precision_adjusted": 0.97, "references_recall": 0.95}
    for row in rows:
        for name, goal in goals.items():
            value = row[name]
            assert isinstance(value, float)
            raw = row.get(name.removesuffix("_adjusted"))
            note = f"raw {raw}" if name.endswith("_adjusted") else ""
            label = f"{row['language']}, {row['repository']}: {name.replace('_', ' ')}"
            yield Figure(label, value, "", f"at least {goal}", value >= goal, note)


def _table(rows: list[dict[str, object]]) -> str:
    head = ("language", "repository", "files", "ctags", "ours", "recall", "precision")
    head += ("recall_adjusted", "precision_adjusted", "references", "references_recall")
    lines = ["", "| " + " | ".join(head).replace("_", " ") + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in rows]
    for row in rows:
        causes = row["causes"]
        assert isinstance(causes, dict)
        lines += ["", f"{row['language']}:", ""]
        lines += [f"- {count} {cause}" for cause, count in causes.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
