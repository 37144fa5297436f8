"""What is done to a completion before it is shown. Pure functions, each on (text, prefix, suffix).

A filter returns the text that may be shown, "" for none. `apply` runs them in order and names those
that changed something, so that a suggestion's history can be told.
"""

import re
from collections.abc import Callable

Filter = Callable[[str, str, str], str]

_CONTROL_PIECES = re.compile(
    r"\s?<(PRE|SUF|MID|EOT)>|<\|(bos|eos|pre|suf|mid|eot|fim_\w+|endoftext|eot_id|begin_of_text|end_of_text)\|>"
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
    """Stops where the text begins to go in circles: inside a line, a line twice running or thrice at all."""
    circle = next((c for c in _CIRCLE.finditer(text) if len(set(c[1])) > 1), None)
    lines = text[: circle.start() if circle else None].split("\n")
    counts: dict[str, int] = {}
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


def trim_end(text: str, prefix: str, suffix: str) -> str:
    """No white space at the end; nothing at all where only white space is left."""
    return text.rstrip()


FILTERS: tuple[Filter, ...] = (
    stop_at_control_pieces,
    strip_escapes,
    cut_at_path_header,
    drop_repeated_line_above,
    cut_repetition,
    cut_at_suffix,
    cut_at_scope_end,
    drop_duplicate_closers,
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
