"""What stands around a cursor, by the grammar of its language.

Whether a block is wanted there or one line, and whether what was suggested can stand there. It asks no
model, and text without a grammar passes as it is.
"""

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codellama_index.languages import grammar, language_of

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Tree

Within = Literal["code", "string", "comment"]

# What is parsed around the cursor, in characters: enough for a function, and parsed in a few milliseconds.
_BEFORE, _AFTER = 12_000, 4_000
_LARGEST = 400_000  # characters of a file that is parsed whole
_LINES = 8  # of a suggestion that are tried one by one
_CLOSERS = re.compile(r"[\s)\]}\"'`;:,>]*")
_OPENS_BLOCK = re.compile(r"([{(\[:]|=>|->|\b(do|then|else|begin|try))\s*$")
_UNPARSED = frozenset({"yaml"})  # the grammar's scanner crashes on deep nesting
_NO_BLOCKS = frozenset({"markdown", "json", "yaml", "toml", "html", "css", "sql"})
_COMMENT, _STRING = (
    re.compile(r"comment"),
    re.compile(r"string|char_literal|rune_literal|heredoc|template_str"),
)

_parsers: dict[str, "Parser"] = {}
_turn = threading.Lock()  # a parser serves one thread at a time


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the cursor stands within, and whether a whole block is wanted there."""

    within: Within
    block: bool


def surroundings(path: str, prefix: str, suffix: str) -> Surroundings:
    """By syntax: a block where one begins or its body is empty; one line elsewhere."""
    within = _within(path, prefix, suffix)
    rest = suffix.split("\n", 1)[0]
    if within != "code" or _CLOSERS.fullmatch(rest) is None or language_of(path) in _NO_BLOCKS:
        return Surroundings(within, block=False)
    before = prefix.split("\n")
    current = before[-1]
    if current.strip():
        return Surroundings(within, block=not rest.strip() and bool(_OPENS_BLOCK.search(_code(current))))
    above = next((line for line in reversed(before[:-1]) if line.strip()), None)
    if above is None:
        return Surroundings(within, block=not suffix.strip())
    following = next((line for line in suffix.split("\n")[1:] if line.strip()), "")
    empty = _depth(following) <= _depth(above) or not following
    return Surroundings(within, block=empty and bool(_OPENS_BLOCK.search(_code(above))))


def sound(path: str, text: str, prefix: str, suffix: str) -> tuple[str, bool]:
    """The longest beginning of a suggestion, in whole lines, that breaks no syntax; and whether there is one.

    A text that breaks it from its first line on comes back whole, with False: the file itself may be broken
    at the cursor, so this is a doubt and no proof.
    """
    language = language_of(path)
    if language is None or not text:
        return text, True
    before, after = prefix[-_BEFORE:], suffix[:_AFTER]
    lines = text.split("\n")
    allowed = _errors(language, before + after)
    if allowed is None:
        return text, True
    for n in range(len(lines), max(0, len(lines) - _LINES), -1):
        part = "\n".join(lines[:n])
        found = _errors(language, before + part + after)
        if part.strip() and found is not None and found <= allowed:
            return part.rstrip(), True
    return text, False


def breaks(path: str, old: str, new: str) -> bool:
    """Whether a file's new text has more places that its grammar cannot read than the old one."""
    language = language_of(path, new)
    if language is None or len(new) > _LARGEST:
        return False
    before, after = _errors(language, old), _errors(language, new)
    return before is not None and after is not None and after > before


def _within(path: str, prefix: str, suffix: str) -> Within:
    language = language_of(path)
    tree = None if language is None else _tree(language, prefix[-_BEFORE:] + suffix[:_AFTER])
    if tree is None:
        return "code"
    offset = len(prefix[-_BEFORE:].encode("utf-8", "replace"))
    # The character before the cursor decides: at the end of a comment one is still in it.
    node: Node | None = tree.root_node.descendant_for_byte_range(max(0, offset - 1), offset)
    while node is not None:
        if _COMMENT.search(node.type):
            return "comment" if "block" not in node.type or offset < node.end_byte else "code"
        if _STRING.search(node.type) and node.start_byte < offset < node.end_byte:
            return "string"
        node = node.parent
    return "code"


def _errors(language: str, source: str) -> int | None:
    """How many places of a source its grammar cannot read; None where it was not parsed."""
    tree = _tree(language, source)
    if tree is None:
        return None
    if not tree.root_node.has_error:
        return 0
    found, waiting = 0, [tree.root_node]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            found += 1
        elif node.has_error:
            waiting += node.children
    return found


def _tree(language: str, source: str) -> "Tree | None":
    if language in _UNPARSED:
        return None
    with _turn:
        if language not in _parsers:
            from tree_sitter import Parser

            try:
                _parsers[language] = Parser(grammar(language).language)
            except ImportError:
                return None
        return _parsers[language].parse(source.encode("utf-8", "replace"))


def _code(line: str) -> str:
    """A line without the comment at its end."""
    return re.sub(r"\s+(#|//).*$", "", line).rstrip()


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())
