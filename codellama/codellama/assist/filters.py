"""What is done to a completion before it is shown. Pure functions, each on (text, prefix, suffix).

A filter returns the text that may be shown, "" for none. `apply` runs them in order and names those
that changed something, so that a suggestion's history can be told.
"""

import re
from collections.abc import Callable
from itertools import pairwise

Filter = Callable[[str, str, str], str]

# Control pieces of the families that a server may run, Llama's and those of other infilling models.
_CONTROL_PIECES = re.compile(
    r"\s?<(?:PRE|SUF|MID|EOT)>"
    r"|<\|(?:bos|eos|pre|suf|mid|eot|fim_\w+|endoftext|eot_id|eom_id|begin_of_text|end_of_text|im_start|im_end"
    r"|start_header_id|end_header_id|file_sep\w*|repo_name|cursor)\|>"
    r"|<(?:fim_(?:prefix|suffix|middle|pad)|file_sep|filename|reponame|gh_stars|commit_\w+)>"
    r"|</?s>(?=\s|\Z)|\[/?INST\]|<</?SYS>>|<\uff5c[^\uff5c\n]{1,40}\uff5c>"
)
_STRING = r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\n\x90\x98\x9c-\x9f]*"  # OSC, DCS, SOS, PM, APC
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI
    rf"|{_STRING}(?:\x07|\x1b\\|\x9c)"  # one that does not end on its line loses its introducer only
    r"|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_OPEN_ESCAPE = re.compile(rf"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*|{_STRING}\x1b?|\x1b[ -/]*)\Z")
_PATH_HEADER = re.compile(r"^[ \t]*(?:#|//) Path: ", re.M)
_CIRCLE = re.compile(r"(\S.{1,23}?)\1{5,}")  # a ruler such as ---- is none: its unit is one character
_OPENERS = {")": "(", "]": "[", "}": "{"}
_BLOCK_LINES = 6  # of a block that is looked for twice running
_NEAR_LINES = 40  # before the cursor, in which an open bracket is looked for
_BARE_COMMENT = re.compile(r"[ \t]*(#+|//+|--|/\*+|\*/|;;+|%%?)[ \t]*")
# Strings and comments on one line; what does not end on its line is left as it is.
_QUIET = re.compile(r"""(\"(?:\\.|[^"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\\n])*`|(?:#|//)[^\n]*)""")
_TRIFLE = 4


def stop_at_control_pieces(text: str, prefix: str, suffix: str) -> str:
    """Nothing after a leaked control piece is meant for the reader."""
    found = _CONTROL_PIECES.search(text)
    return text[: found.start()] if found else text


def strip_escapes(text: str, prefix: str = "", suffix: str = "") -> str:
    """Terminal escapes and control characters, which no source needs, are dropped (CR before LF too)."""
    return _ESCAPES.sub("", text)


def drop_repeated_line_above(text: str, prefix: str, suffix: str) -> str:
    """A first line that is the line above again is no suggestion."""
    if prefix and not prefix.endswith("\n"):
        return text
    above = prefix.rstrip("\n").rpartition("\n")[2].strip()
    first = text.lstrip("\n").split("\n", 1)[0].strip()
    return "" if above and len(above) > 3 and first == above else text


def cut_repetition(text: str, prefix: str, suffix: str) -> str:
    """Stops where the text begins to go in circles: inside a line, a line or a block of lines twice running,
    a line thrice at all."""
    circle = next((c for c in _CIRCLE.finditer(text) if len(set(c[1])) > 1), None)
    lines = text[: circle.start() if circle else None].split("\n")
    counts: dict[str, int] = {}
    for n in range(len(lines)):
        for size in range(2, min(_BLOCK_LINES, n) + 1):
            block = lines[n : n + size]
            if block == lines[n - size : n] and sum(bool(line.strip()) for line in block) > 1:
                return "\n".join(lines[:n])
    for n, line in enumerate(lines):
        bare = line.strip()
        if len(bare) < 3:
            continue
        counts[bare] = counts.get(bare, 0) + 1
        if counts[bare] > 2 or (n and bare == lines[n - 1].strip() and len(bare) > 8):
            return "\n".join(lines[:n])
    return "\n".join(lines)


def cut_at_path_header(text: str, prefix: str, suffix: str) -> str:
    """Stops at the comment that heads another file in the prompt: the model has left this one."""
    found = _PATH_HEADER.search(text)
    if found is None or (found.start() == 0 and prefix.rpartition("\n")[2].strip()):
        return text
    return text[: found.start()]


def cut_at_suffix(text: str, prefix: str, suffix: str) -> str:
    """Stops where the text begins to say the line that follows the cursor's.

    A line of closers alone, which ends many blocks, counts only at the same indentation.
    """
    following = next((line.rstrip() for line in suffix.split("\n")[1:] if line.strip()), "")
    closes = not following.strip(")]};, \t")
    if not following or (len(following.strip()) < 4 and not closes):
        return text
    on_blank_line = not prefix.rpartition("\n")[2].strip()
    lines = text.split("\n")
    for n, line in enumerate(lines):
        same = line.rstrip() == following if closes else line.strip() == following.strip()
        if same and (n or (on_blank_line and not closes)):
            return "\n".join(lines[:n])
    return text


def drop_duplicate_closers(text: str, prefix: str, suffix: str) -> str:
    """Stops where the text closes what the rest of the cursor's line closes already."""
    rest = suffix.split("\n", 1)[0].strip()
    if not rest:
        return text
    if rest[0] in "\"'`":
        return text[: text.rindex(rest[0])] if text.count(rest[0]) % 2 else text
    if rest[0] in ",;":
        return text.rstrip().removesuffix(rest[0])
    closing = rest[: len(rest) - len(rest.lstrip(")]}"))]
    if not closing:
        return text.rstrip().removesuffix(rest) if len(rest) > 1 else text
    open_before = _unclosed(prefix.rpartition("\n")[2])
    left_to_close = max(0, open_before - len(closing))
    depth = 0
    for n, character in enumerate(text):
        if character in _OPENERS.values():
            depth += 1
        elif character in _OPENERS:
            depth -= 1
            if depth < -left_to_close and character == closing[0]:
                return text[:n]
    return text


def cut_at_scope_end(text: str, prefix: str, suffix: str) -> str:
    """Stops at a line that is indented less than the cursor's: it belongs to something else."""
    current = prefix.rpartition("\n")[2]
    depth = len(current) - len(current.lstrip())
    lines = text.split("\n")
    for n, line in enumerate(lines):
        if n and line.strip() and len(line) - len(line.lstrip()) < depth:
            if line.strip()[0] in ")]}":
                continue
            return "\n".join(lines[:n])
    return text


def fit_indentation(text: str, prefix: str, suffix: str) -> str:
    """Indents as the file does: tabs where it has tabs, and no deeper than the cursor's line allows.

    On a line that is indented already the model may indent once more; one level more than the line above is
    right only where that line opens a block.
    """
    current = prefix.rpartition("\n")[2]
    above = [line for line in prefix.split("\n")[:-1] if line.strip()]
    tabs = sum(line.startswith("\t") for line in above)
    spaces = sum(line.startswith("  ") for line in above)
    if tabs > spaces:
        text = re.sub(r"(?<=\n)(\t*)((?: {4})+)(?=\S)", lambda m: m[1] + "\t" * (len(m[2]) // 4), text)
    elif spaces > tabs and "\t" in text:
        unit = _indentation_unit(above)
        text = re.sub(r"(?<=\n)\t+", lambda m: unit * len(m[0]), text)
    if current.strip() or not current or not above:
        return text
    lead = len(text) - len(text.lstrip(" \t"))
    if not lead or text[lead : lead + 1] in ("", "\n"):
        return text
    opens = above[-1].rstrip().endswith((":", "{", "(", "[", "=>", "->"))
    most = len(above[-1]) - len(above[-1].lstrip()) + (len(_indentation_unit(above)) if opens else 0)
    return text if len(current) + lead <= most else text[lead:]


def drop_bare_comments(text: str, prefix: str, suffix: str) -> str:
    """A comment without words is no suggestion; at the end of one it is dropped."""
    if prefix.rpartition("\n")[2].strip() and "\n" not in text:
        return text
    lines = text.split("\n")
    while lines and (not lines[-1].strip() or _BARE_COMMENT.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join(lines) if lines else ""


def balance_brackets(text: str, prefix: str, suffix: str) -> str:
    """Stops before a bracket that closes another kind than the one that is open.

    Brackets that the text itself opens are looked at, and those that stand open in the lines right above;
    strings and comments are not.
    """
    if (prefix.rpartition("\n")[2].count('"') % 2) or (prefix.rpartition("\n")[2].count("'") % 2):
        return text  # inside a string, as far as can be seen
    stack = _open_brackets("\n".join(prefix.split("\n")[-_NEAR_LINES:]))
    hidden = _QUIET.sub(lambda m: " " * len(m[0]), text)
    for n, character in enumerate(hidden):
        if character in _OPENERS.values():
            stack.append(character)
        elif character in _OPENERS and stack and stack.pop() != _OPENERS[character]:
            return text[:n]
    return text


def trim_end(text: str, prefix: str, suffix: str) -> str:
    """No white space at the end; nothing at all where only white space is left."""
    return text.rstrip()


FILTERS: tuple[Filter, ...] = (
    stop_at_control_pieces,
    strip_escapes,
    cut_at_path_header,
    drop_repeated_line_above,
    cut_repetition,
    fit_indentation,
    cut_at_suffix,
    cut_at_scope_end,
    drop_duplicate_closers,
    balance_brackets,
    drop_bare_comments,
    trim_end,
)


def apply(text: str, prefix: str, suffix: str) -> tuple[str, tuple[str, ...]]:
    """The text that may be shown, and the names of the filters that changed it."""
    changed: list[str] = []
    for each in FILTERS:
        after = each(text, prefix, suffix)
        if after != text:
            changed.append(each.__name__)
        text = after
    return text, tuple(changed)


def one_line(text: str) -> str:
    """The first line, for a place that takes no more."""
    return text.split("\n", 1)[0]


def whole_lines(text: str) -> str:
    """Without the last line, which was cut by a limit; a single line is kept, it can be read all the same."""
    return text.rpartition("\n")[0] if "\n" in text else text


def is_trifle(text: str, prefix: str, suffix: str) -> bool:
    """Whether a suggestion is typed sooner than it is read: under four characters.

    What ends a word that was begun, or closes what is open, is worth showing.
    """
    bare = text.strip()
    if len(bare) >= _TRIFLE:
        return False
    if not bare.strip(")]};:,\"'`>"):
        return not bare
    ends_word = (prefix[-1:].isalnum() or prefix[-1:] == "_") and text[:1].isalnum()
    return not ends_word


def settled(text: str) -> str:
    """The text of a stream so far without an escape at its end that may still be going on."""
    return _OPEN_ESCAPE.sub("", text)


def _unclosed(line: str) -> int:
    """How many brackets a piece of code leaves open; quotes and comments are not looked at."""
    depth = 0
    for character in line:
        if character in _OPENERS.values():
            depth += 1
        elif character in _OPENERS:
            depth = max(0, depth - 1)
    return depth


def _open_brackets(code: str) -> list[str]:
    """The brackets that a piece of code leaves open, outermost first; what it closes of others is ignored."""
    stack: list[str] = []
    for character in _QUIET.sub("", code):
        if character in _OPENERS.values():
            stack.append(character)
        elif character in _OPENERS and stack and stack[-1] == _OPENERS[character]:
            stack.pop()
    return stack


def _indentation_unit(lines: list[str]) -> str:
    """One level of indentation, as most lines have it: the smallest step among them, or four spaces."""
    if sum(line.startswith("\t") for line in lines) > len(lines) / 8:
        return "\t"
    widths = sorted({len(line) - len(line.lstrip(" ")) for line in lines})
    steps = [wide - narrow for narrow, wide in pairwise(widths) if wide - narrow > 1]
    return " " * min(steps, default=4)
