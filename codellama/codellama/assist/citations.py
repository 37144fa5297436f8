"""Citations: spans of files, shown only after they were read again from the disk."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from codellama_index import Index
from codellama_index.errors import CodeIndexError

# path:12 or path:12-34, as the model is asked to write them and as people do.
_MARK = re.compile(r"`?([\w./\\@+-]*[\w]\.\w+):(\d+)(?:-(\d+))?`?")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n\s*\n|\n[-*] ")
_QUOTED = re.compile(r"`([^`\n]+)`")
_CODE = re.compile(r"[A-Za-z_$][\w$]{2,}")


@dataclass(frozen=True, slots=True)
class Citation:
    """Lines `start_line` to `end_line` (1-based, inclusive) of a file, and what stands there."""

    path: str
    start_line: int
    end_line: int
    quote: str
    verified: bool


def cite(index: Index, path: str, start_line: int, end_line: int, expected: str | None = None) -> Citation:
    """Reads the span again. `expected` is what the index said: where it has moved, the citation follows
    it; where it is gone, or the span does not exist, the citation is unverified and quotes nothing."""
    lines = _lines(index, path)
    if expected is not None:
        wanted = expected.split("\n")
        for start in (start_line, *_places(lines, wanted)):
            if lines[start - 1 : start - 1 + len(wanted)] == wanted:
                return Citation(path, start, start + len(wanted) - 1, expected, verified=True)
        return Citation(path, start_line, end_line, "", verified=False)
    if not 1 <= start_line <= end_line <= len(lines):
        return Citation(path, start_line, end_line, "", verified=False)
    return Citation(path, start_line, end_line, "\n".join(lines[start_line - 1 : end_line]), verified=True)


class Checker:
    """Checks a model's answer as it comes: what is shown is marked where a citation fails.

    A path that is short for one of the `known` paths, and of one alone, counts as that path.
    A citation fails where its lines do not exist, or where the statement before it quotes code
    (`in backquotes`) of which no piece stands in them.
    """

    def __init__(self, index: Index, known: Iterable[str] = ()) -> None:
        self._index = index
        self._known = set(known)
        self._found: dict[tuple[str, int, int], Citation] = {}

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Those of the text that was marked last, each once."""
        return tuple(self._found.values())

    def marked(self, text: str) -> str:
        """The text with each failing citation followed by what is wrong with it."""
        self._found = {}
        shown: list[str] = []
        end = 0
        for match in _MARK.finditer(text):
            claim = text[end : match.start()]
            shown += [claim, match.group(), self._verdict(match, claim)]
            end = match.end()
        return "".join([*shown, text[end:]])

    def _verdict(self, match: "re.Match[str]", claim: str) -> str:
        path, first, last = match.groups()
        key = (_whole(path, self._known), int(first), int(last or first))
        citation = self._found.get(key) or cite(self._index, *key)
        self._found[key] = citation
        if not citation.verified:
            return " [not verified: these lines do not exist]"
        sentence = _SENTENCE.split(claim)[-1]
        pieces = [piece for quoted in _QUOTED.findall(sentence) for piece in _CODE.findall(quoted)]
        if pieces and not any(piece in citation.quote for piece in pieces):
            self._found[key] = Citation(*key, "", verified=False)
            return f" [not verified: {pieces[0]} is not in these lines]"
        return ""


def _whole(path: str, known: Iterable[str]) -> str:
    """A path that is short for one of the known paths, and of one alone, counts as that path."""
    longer = [p for p in known if p == path or p.endswith(f"/{path}")]
    return longer[0] if len(longer) == 1 else path


def _lines(index: Index, path: str) -> list[str]:
    try:
        return index.read(path).replace("\r\n", "\n").split("\n")
    except CodeIndexError:
        return []


def _places(lines: list[str], wanted: list[str]) -> list[int]:
    return [n for n, line in enumerate(lines, start=1) if line == wanted[0]]
