"""What a repository itself says comes next: an n-gram cache over its texts. Free of torch.

Code repeats itself: names, calls, idioms. `NGrams` finds where the last ids of a sequence occurred before,
the longest match first; it is exact, learns nothing, and an edit counts at once. `Evidence` does so for
texts cut into words and tells how the line at a cursor went on elsewhere, with how often such a guess is
right. The same index over token ids can draft for a large model.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

ORDERS = (8, 5, 3, 2)
LONGEST = 24  # ids of a match that are counted
_CANDIDATES = 64
_LINE_WORDS = 60

# Words, single marks, and white space; a line break takes the next line's indentation with it.
_WORD = re.compile(r"\w+|\n\s*|[^\S\n]+|[^\w\s]")

# A logistic regression of "the line goes on exactly so" on what speaks for a guess, fitted on 2,880 random
# places in 60 packages of the pocket model's corpus (codellama/training/LOG.md).
_BIAS = -5.73
_OF_MATCHED, _OF_SHARE, _OF_CONFIRMED, _OF_SUPPORT, _OF_OWN, _OF_LENGTH = 1.03, 3.95, 1.54, 0.87, 0.08, -0.50


class NGrams:
    """One sequence of ids, with the places of its k-grams by hash; immutable."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: NDArray[np.int32] = np.array(ids, np.int32)
        self._places: dict[int, tuple[NDArray[np.uint32], NDArray[np.int32]]] = {}
        for order in ORDERS:
            grams = _grams(self.ids, order)
            by_gram = np.argsort(grams, kind="stable").astype(np.int32)
            self._places[order] = grams[by_gram], by_gram

    def places(self, gram: Sequence[int]) -> Iterator[int]:
        """Where these ids stand, last first; there are as many as one of ORDERS says."""
        grams, by_gram = self._places[len(gram)]
        wanted = _grams(np.array(gram, np.int32), len(gram))[0]
        first, last = np.searchsorted(grams, wanted, "left"), np.searchsorted(grams, wanted, "right")
        for start in by_gram[first:last][::-1]:
            if all(self.ids[start + n] == i for n, i in enumerate(gram)):  # two grams may share a hash
                yield int(start)

    def matched(self, place: int, context: Sequence[int]) -> int:
        """How many ids before a place agree with the context's end, up to LONGEST."""
        most = min(len(context), place, LONGEST)
        length = 0
        while length < most and self.ids[place - 1 - length] == context[-1 - length]:
            length += 1
        return length


@dataclass(frozen=True, slots=True)
class Guess:
    """How a line may go on, as it did elsewhere, and what speaks for that.

    `matched` words before the cursor are the same there; `support` places say this, `share` of the weight
    of all places found. `confirmed`: the next line there is the one after the cursor. `own`: it was found
    in the cursor's own file. `source` names one text that says so.
    """

    text: str
    matched: int
    support: int
    share: float
    confirmed: bool
    own: bool
    source: str

    @property
    def confidence(self) -> float:
        """The probability that the line goes on exactly so."""
        score = (
            _BIAS
            + _OF_MATCHED * math.log1p(self.matched)
            + _OF_SHARE * self.share
            + _OF_CONFIRMED * self.confirmed
            + _OF_SUPPORT * math.log(self.support)
            + _OF_OWN * self.own
            + _OF_LENGTH * math.log1p(len(self.text))
        )
        return 1 / (1 + math.exp(-score))


@dataclass(frozen=True, slots=True)
class _Cursor:
    """What is looked up: ids before the cursor, those of its line, the word begun, and the next line.

    `unindented` where the cursor stands before the indentation, which is then part of what is missing.
    """

    context: list[int]
    line: list[int]
    begun: str
    following: str
    ahead: list[int]
    unindented: bool


_Texts = Mapping[str, tuple[NGrams, NDArray[np.int32]]]


class Evidence:
    """Named texts and what they say; a text can be replaced and dropped at any time."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._spellings: dict[str, int] = {}
        self._spelled: list[str] = []
        self._texts: dict[str, tuple[NGrams, NDArray[np.int32]]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    def put(self, name: str, text: str) -> None:
        """Adds a text, or replaces the one of that name."""
        self._texts[name] = self._read(text)

    def drop(self, name: str) -> None:
        """Forgets a text; one that is not known is no error."""
        self._texts.pop(name, None)

    def rest_of_line(self, prefix: str, suffix: str = "", without: Collection[str] = ()) -> Guess | None:
        """What the line that `prefix` ends in may go on with; None where nothing like it was seen.

        The cursor's own file speaks through prefix and suffix; `without` names texts that do not
        speak: the old state of that file, for one.
        """
        others = {name: found for name, found in self._texts.items() if name not in without}
        own = {"<": self._read(prefix), ">": self._read(suffix)}
        cursor = self._cursor(prefix, suffix)
        guesses = (self._best(texts, cursor, own=texts is own) for texts in (own, others))
        return max(filter(None, guesses), key=lambda guess: guess.confidence, default=None)

    def _cursor(self, prefix: str, suffix: str) -> "_Cursor":
        words = _WORD.findall(prefix[-2000:])
        begun = words.pop() if words and re.fullmatch(r"\w+", words[-1]) else ""
        context = [self._keys.get(_key(word), -1) for word in words]
        line = context[len(words) - next((n for n, word in enumerate(words[::-1]) if word[0] == "\n"), 0) :]
        following = next((line.strip() for line in suffix.split("\n")[1:] if line.strip()), "")
        ahead = [self._keys.get(word, -1) for word in map(_key, _WORD.findall("\n" + following))]
        return _Cursor(context[-LONGEST:], line, begun, following, ahead, prefix.endswith("\n"))

    def _best(self, texts: _Texts, cursor: "_Cursor", *, own: bool) -> Guess | None:
        """The rest of the line that most speaks for; longer matches count for more."""
        weights: dict[str, float] = {}
        facts: dict[str, tuple[int, int, bool, str]] = {}
        found = self._after(texts, cursor) + self._above(texts, cursor)
        for name, place in dict.fromkeys(found):
            grams, spelled = texts[name]
            matched = grams.matched(place, cursor.context)
            line, next_line = self._line(spelled, place)
            rest = line[len(cursor.begun) :].rstrip()
            if cursor.unindented and place:
                rest = self._spelled[spelled[place - 1]].rpartition("\n")[2] + rest
            if not rest.strip():
                continue  # the line ends there: the cursor's own word, for one
            confirmed = bool(cursor.following) and next_line == cursor.following
            weights[rest] = weights.get(rest, 0.0) + 1.5**matched * (8.0 if confirmed else 1.0)
            longest, support, sure, source = facts.get(rest, (0, 0, False, name))
            facts[rest] = max(longest, matched), support + 1, sure or confirmed, source
        if not weights:
            return None
        best = max(weights, key=lambda rest: weights[rest])
        longest, support, sure, source = facts[best]
        return Guess(best, longest, support, weights[best] / sum(weights.values()), sure, own, source)

    def _after(self, texts: _Texts, cursor: "_Cursor") -> list[tuple[str, int]]:
        """Where in which text a line goes on after the longest known end of what precedes the cursor."""
        for order in ORDERS:
            if len(cursor.context) < order:
                continue
            found = (
                (name, start + order)
                for name, (grams, spelled) in texts.items()
                for start in grams.places(cursor.context[-order:])
                if self._goes_on(spelled, start + order, cursor.begun)
            )
            if candidates := list(islice(found, _CANDIDATES)):
                return candidates
        return []

    def _above(self, texts: _Texts, cursor: "_Cursor") -> list[tuple[str, int]]:
        """The same for lines that begin as the cursor's does, right above one that begins as its next."""
        for order in ORDERS[:-1]:
            if len(cursor.ahead) < order:
                continue
            found = []
            for name, (grams, spelled) in texts.items():
                for end in islice(grams.places(cursor.ahead[:order]), _CANDIDATES):
                    start = end
                    while start > 0 and grams.ids[start - 1] != cursor.ahead[0] and end - start < _LINE_WORDS:
                        start -= 1
                    # Without the indentation, which belongs to the line break.
                    place = start + len(cursor.line)
                    same = grams.ids[start:place].tolist() == cursor.line
                    if place < end and same and self._goes_on(spelled, place, cursor.begun):
                        found.append((name, place))
            if found:
                return found[:_CANDIDATES]
        return []

    def _goes_on(self, spelled: NDArray[np.int32], place: int, begun: str) -> bool:
        """Whether the line goes on there, with a word that begins so."""
        word: str = self._spelled[spelled[place]] if place < len(spelled) else "\n"
        return word.startswith(begun) and word[0] != "\n"

    def _line(self, spelled: NDArray[np.int32], place: int) -> tuple[str, str]:
        """The text from a word to its line's end, and the line after it."""
        lines = [""]
        for number in spelled[place : place + 2 * _LINE_WORDS]:
            word = self._spelled[number]
            if word[0] != "\n":
                lines[-1] += word
            elif len(lines) == 1:
                lines.append("")
            else:
                break
        return lines[0], lines[1].strip() if len(lines) > 1 else ""

    def _read(self, text: str) -> tuple[NGrams, NDArray[np.int32]]:
        words = _WORD.findall(text)
        keys = [self._keys.setdefault(_key(word), len(self._keys)) for word in words]
        spelled = [self._spellings.setdefault(word, len(self._spellings)) for word in words]
        self._spelled += islice(self._spellings, len(self._spelled), None)
        return NGrams(keys), np.array(spelled, np.int32)


def _key(word: str) -> str:
    """White space matches whatever its width."""
    return "\n" if word[0] == "\n" else " " if word.isspace() else word


def _grams(ids: NDArray[np.int32], order: int) -> NDArray[np.uint32]:
    """A hash of every `order` successive ids, by the place of the first."""
    total = np.zeros(max(0, len(ids) - order + 1), np.uint32)
    for n in range(order):
        total = (total + ids[n : n + len(total)].astype(np.uint32)) * np.uint32(0x9E3779B1)
        total ^= total >> np.uint32(15)
    return total
