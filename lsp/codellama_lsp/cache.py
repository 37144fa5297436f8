"""Suggestions of a moment ago, found again while a person types along them, or goes back.

Pure: texts in, texts out. A suggestion belongs to what stood before and after the cursor; it is found where
that stands again, and where the suggestion's own beginning was typed since, closing pairs that the editor
put in included. Nothing here asks a model.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from codellama.assist import filters

T = TypeVar("T")

BEFORE, AFTER = 1024, 256
"""How much text around the cursor must be the same, in characters."""

_LONGEST = 1000  # of a suggestion that is followed
_CLOSING = re.compile(r"[\s)\]}\"'`>;]*")
_PAIR = 40  # characters that an editor may put behind the cursor by itself


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a document's text: a character index, and the text around it."""

    uri: str
    index: int
    before: str
    after: str

    @staticmethod
    def at(uri: str, text: str, index: int) -> "Cursor":
        """The place, with as much of the text as is compared."""
        before = text[max(0, index - BEFORE - _LONGEST) : index]
        return Cursor(uri, index, before, text[index : index + AFTER + _PAIR])

    def behind(self, typed: str) -> "Cursor":
        """The place after a suggestion was accepted."""
        before = (self.before + typed)[-(BEFORE + _LONGEST) :]
        return Cursor(self.uri, self.index + len(typed), before, self.after)


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What is left of a suggestion, its origin, and how much of it was typed since."""

    text: str
    origin: T
    typed: int


class Suggestions(Generic[T]):
    """The last suggestions of all documents, empty ones too; `T` is what is kept along with each."""

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, int, str, str], tuple[str, T]] = OrderedDict()

    def put(self, cursor: Cursor, text: str, origin: T) -> None:
        """Keep a suggestion, "" for none; the oldest is forgotten."""
        key = (cursor.uri, cursor.index, cursor.before[-BEFORE:], cursor.after[:AFTER])
        self._kept.pop(key, None)
        self._kept[key] = (text[:_LONGEST], origin)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def find(self, cursor: Cursor) -> Found[T] | None:
        """The suggestion that stands at the cursor, or None where the model must be asked."""
        key = (cursor.uri, cursor.index, cursor.before[-BEFORE:], cursor.after[:AFTER])
        same = self._kept.get(key)
        if same is not None:
            return Found(same[0], same[1], 0)
        for (uri, index, before, after), (text, origin) in reversed(self._kept.items()):
            typed = cursor.index - index
            if uri != cursor.uri or not 0 < typed < len(text):
                continue
            if not cursor.before.endswith(before[len(before) - min(len(before), BEFORE) :] + text[:typed]):
                continue
            rest = _rest(text[typed:], cursor, after)
            if rest:
                return Found(rest, origin, typed)
        return None

    def forget(self, uri: str) -> None:
        """Drop the suggestions of a document."""
        for key in [key for key in self._kept if key[0] == uri]:
            del self._kept[key]


def _rest(text: str, cursor: Cursor, after: str) -> str:
    """What of the rest of a suggestion fits before the text that follows now; "" for nothing."""
    if cursor.after[:AFTER] == after:
        return text
    for put_in in range(1, _PAIR):
        closing, following = cursor.after[:put_in], cursor.after[put_in : put_in + AFTER]
        if _CLOSING.fullmatch(closing) is None:
            break
        # At a document's end the text that followed is short and must be all of it.
        if following == after[: len(following)] and (following or not after):
            return filters.apply(text, cursor.before, cursor.after)[0]
    return ""
