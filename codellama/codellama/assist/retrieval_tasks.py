"""Questions with known answers, made from a repository itself, to measure retrieval on.

Docstrings: what a function says of itself asks for it, in a copy of the tree without any documentation.
Commits: a message asks for the files that its commit changed, in the tree as it was before them all. The
copies are written to a temporary folder, never to the repository.
"""

import ast
import random
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codellama.runtime.errors import InvalidRequest
from codellama_index import Index
from codellama_index.errors import CodeIndexError
from codellama_index.extract import extract
from codellama_index.languages import language_of
from codellama_index.rank import is_secondary
from codellama_index.records import Symbol

_MIN_WORDS = 5  # of a docstring; "Return it." asks for nothing
_MIN_MESSAGE_WORDS = 8
_MAX_FILES = 3  # of a commit; a sweep over many files answers no question
_COMMENT = re.compile(r"^\s*(//|/?\*|#(?!\[))")
_TRAILER = re.compile(
    r"^\s*([A-Z][\w-]*-by|Change-Id|Closes|Fixes|Related|Implements|Cc|Signed-off)\b.*", re.I
)
_FILE_NAME = re.compile(
    r"[\w./\\-]*\w\.(?:[ch](?:pp|s)?|cc|hpp|[cm]?[jt]sx?|py[ix]?|go|rs|rb|java|kt|swift|php|"
    r"scala|lua|sh|exs?|hs|ml|jl|zig|html?|s?css|json|ya?ml|toml|md|rst|txt|cfg|ini|sql)\b"
)
_MODULE = re.compile(r"\b\w+(?:\.\w+){2,}\b|\b\w+(?:/\w+)+\b")
_NUMBER = re.compile(r"\(?#\d+\)?|https?://\S+|\b[0-9a-f]{10,40}\b")


@dataclass(frozen=True, slots=True)
class Question:
    """`answers` are paths, or path:scope.name of functions; any of a docstring's, all of a commit's."""

    text: str
    answers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Task:
    """Questions about the tree at `root`."""

    name: str
    root: Path
    questions: tuple[Question, ...]


def key_of(symbol: Symbol) -> str:
    """How a function is named as an answer."""
    return f"{symbol.path}:{symbol.scope}.{symbol.name}"


def docstrings(index: Index, folder: Path, count: int, seed: int) -> Task:
    """`count` documented functions, chosen by `seed`, of a copy of the repository below `folder`.

    Left out are tests, vendored and generated code, and docstrings of fewer than five words. A sentence
    that several functions say is one question, and each of them answers it.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for path in index.sources():
        try:
            text = index.read(path).replace("\r\n", "\n")
        except CodeIndexError:
            continue
        if language_of(path):
            symbols = extract(path, text).symbols
            if not is_secondary(path):
                for symbol in symbols:
                    said = _first_paragraph(symbol)
                    if symbol.kind in ("function", "method") and len(said.split()) >= _MIN_WORDS:
                        answers[said].add(key_of(symbol))
            text = without_documentation(path, text, symbols)
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="replace")
    questions = [Question(text, frozenset(keys)) for text, keys in sorted(answers.items())]
    random.Random(seed).shuffle(questions)  # noqa: S311 - a sample, not a secret
    return Task("docstrings", folder, tuple(questions[:count]))


def commits(root: Path, folder: Path, back: int, count: int, seed: int) -> Task:
    """Up to `count` of the last `back` commits, asked of the tree before them, written below `folder`.

    A commit counts if it changed one to three source files that stood there before (tests, vendored and
    generated ones aside), and if its message has eight words besides file names, numbers and trailers.
    Raises InvalidRequest where there is no such history.
    """
    base = _git(root, "rev-list", "--first-parent", "-n", "1", "--skip", str(back), "HEAD").strip()
    if not base:
        raise InvalidRequest(f"{root} has fewer than {back} commits: ask for fewer with --back.")
    _check_out(root, base, folder)
    log = _git(
        *(root, "log", "--no-merges", "--no-renames", "--name-status", "--format=%x01%B%x02", f"{base}..HEAD")
    )
    questions: list[Question] = []
    for record in log.split("\x01")[1:]:
        message, _, names = record.partition("\x02")
        changed = [line.partition("\t")[2] for line in names.splitlines() if line.startswith("M\t")]
        files = [p for p in changed if language_of(p) and not is_secondary(p) and (folder / p).is_file()]
        text = struck(message)
        if 1 <= len(files) <= _MAX_FILES and len(re.findall(r"[A-Za-z]{2,}", text)) >= _MIN_MESSAGE_WORDS:
            questions.append(Question(text, frozenset(files)))
    random.Random(seed).shuffle(questions)  # noqa: S311 - a sample, not a secret
    return Task("commits", folder, tuple(questions[:count]))


def struck(message: str) -> str:
    """A commit's message without trailers, numbers, addresses and the names of files and modules."""
    lines = [line for line in message.splitlines() if not _TRAILER.match(line)]
    text = "\n".join(lines)
    for pattern in (_NUMBER, _FILE_NAME, _MODULE):
        text = pattern.sub(" ", text)
    return text.strip()


def without_documentation(path: str, text: str, symbols: Iterable[Symbol]) -> str:
    """The text with docstrings, and comments before documented definitions, as empty lines."""
    lines = text.split("\n")
    if language_of(path) == "python":
        return "\n".join(_without_docstrings(text, lines))
    for symbol in symbols:
        if symbol.docstring:
            first = symbol.start_line
            while first > 1 and _COMMENT.match(lines[first - 2]):
                first -= 1
            for n in range(first - 1, symbol.line - 1):  # a definition may begin with its comment
                if _COMMENT.match(lines[n]):
                    lines[n] = ""
    return "\n".join(lines)


def _without_docstrings(text: str, lines: list[str]) -> list[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return lines
    for node in ast.walk(tree):
        documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
        if isinstance(node, documented) and node.body and ast.get_docstring(node, clean=False) is not None:
            said = node.body[0]
            own = isinstance(node, ast.Module) or said.lineno > getattr(node, "lineno", 0)
            if own and said.end_lineno is not None:
                lines[said.lineno - 1 : said.end_lineno] = [""] * (said.end_lineno - said.lineno + 1)
                lines[said.lineno - 1] = " " * said.col_offset + "..."
    return lines


def _first_paragraph(symbol: Symbol) -> str:
    return " ".join(symbol.docstring.split("\n\n")[0].split())


def _check_out(root: Path, commit: str, folder: Path) -> None:
    """A clone below `folder` at that commit, which knows the history before it and shares the objects."""
    _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root.resolve()), str(folder))
    _git(folder, "checkout", "--quiet", "--detach", commit, check=False)


def _git(root: Path, *arguments: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            check=check,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidRequest(f"The history of {root} cannot be read: name a git repository.") from error
    return done.stdout.decode("utf-8", "replace")
