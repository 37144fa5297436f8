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
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(\x07|\x1b\\|$)|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.S
)
_CLOSERS = ")]}\"'`;,>"
_PAIRS = {"(": ")", "[": "]", "{": "}"}


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
    """Stops where the text begins to repeat itself: a line for the third time, or a block at once."""
    lines = text.split("\n")
    counts: dict[str, int] = {}
    for n, line in enumerate(lines):
        bare = line.strip()
        if len(bare) < 3:
            continue
        counts[bare] = counts.get(bare, 0) + 1
        if counts[bare] > 2 or (n and bare == lines[n - 1].strip() and len(bare) > 8):
            return "\n".join(lines[:n])
    return text


def cut_at_suffix(text: str, prefix: str, suffix: str) -> str:
    """Stops where the text begins to say what already follows the cursor."""
    following = [line.strip() for line in suffix.split("\n")[1:] if line.strip()][:1]
    if not following or len(following[0]) < 4:
        return text
    lines = text.split("\n")
    for n, line in enumerate(lines):
        if n and line.strip() == following[0]:
            return "\n".join(lines[:n])
    return text


def drop_duplicate_closers(text: str, prefix: str, suffix: str) -> str:
    """Closers at the end that the rest of the line has already, and that the text did not open."""
    rest = suffix.split("\n", 1)[0].strip()
    if not rest:
        return text
    if len(rest) > 1 and text.rstrip().endswith(rest):
        return text.rstrip()[: -len(rest)]
    while text and text[-1] in _CLOSERS and rest.startswith(text[-1]) and not _opened_inside(text):
        text = text[:-1]
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


def _opened_inside(text: str) -> bool:
    """Whether the text's last character closes what the text itself opened."""
    last = text[-1]
    if last in "\"'`":
        return text.count(last) % 2 == 0
    opener = next((o for o, c in _PAIRS.items() if c == last), None)
    return opener is not None and text.count(opener) >= text.count(last)
