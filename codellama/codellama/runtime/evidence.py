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
_BEGINNING_WORDS = 16

# Words, single marks, and white space; a line break takes the next line's indentation with it.
_WORD = re.compile(r"\w+|\n\s*|[^\S\n]+|[^\w\s]")

# A logistic regression of "the line goes on exactly so" on what speaks for a guess, fitted on 2,880 random
# places in 60 packages of the pocket model's corpus (codellama/training/LOG.md).
_WHOLE = (-5.73, 1.03, 3.95, 1.54, 0.87, 0.08, -0.50)
# Of "it goes on so, as far as that goes", fitted on 15,000 beginnings at 2,220 places in 40 other packages.
_BEGINNING = (-4.15, 0.90, 4.39, 1.52, 0.74, -0.05, -0.94)


class NGrams:
    """One sequence of ids, with the places of its k-grams by hash; immutable."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: NDArray[np.int32] = np.array(ids, np.int32)
        self._places: dict[int, tuple[NDArray[np.uint32], NDArray[np.int32]]] = {}
        for order in ORDERS:
            grams = _grams(self.ids, order)
            by_gram = np.argsort(grams, kind="stable").astype(np.int32)
            self._places[order] = grams[by_gram], by_gram

    def places(self, gram: Sequence[int], hashed: np.uint32 | None = None) -> Iterator[int]:
        """Where these ids stand, last first; there are as many as one of ORDERS says.

        Who asks many sequences for one gram gives its `hash_of`.
        """
        grams, by_gram = self._places[len(gram)]
        wanted = hash_of(gram) if hashed is None else hashed
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
    in the cursor's own file. `source` names one text that says so. `whole`: it goes to the line's end, else
    it is a beginning on which more places agree than on the rest.
    """

    text: str
    matched: int
    support: int
    share: float
    confirmed: bool
    own: bool
    source: str
    whole: bool = True

    @property
    def confidence(self) -> float:
        """The probability that the line goes on exactly so; of a beginning, as far as that goes."""
        weights = _WHOLE if self.whole else _BEGINNING
        facts = (
            1.0,
            math.log1p(self.matched),
            self.share,
            self.confirmed,
            math.log(self.support),
            self.own,
            math.log1p(len(self.text)),
        )
        return 1 / (1 + math.exp(-sum(weight * fact for weight, fact in zip(weights, facts, strict=True))))


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


@dataclass(frozen=True, slots=True)
class _Found:
    """What speaks for one way to go on: its weight, and the facts of a Guess."""

    weight: float
    matched: int
    support: int
    confirmed: bool
    source: str

    def with_(self, other: "_Found | None") -> "_Found":
        """Both together."""
        if other is None:
            return self
        return _Found(
            self.weight + other.weight,
            max(self.matched, other.matched),
            self.support + other.support,
            self.confirmed or other.confirmed,
            other.source,
        )

    def guess(self, text: str, total: float, *, own: bool, whole: bool) -> Guess:
        share = self.weight / total
        return Guess(text, self.matched, self.support, share, self.confirmed, own, self.source, whole)


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
        guesses = self.guesses(prefix, suffix, without)
        return max((g for g in guesses if g.whole), key=lambda guess: guess.confidence, default=None)

    def guesses(self, prefix: str, suffix: str = "", without: Collection[str] = ()) -> list[Guess]:
        """As `rest_of_line`, and the beginnings of what may follow too; in no order."""
        others = {name: found for name, found in self._texts.items() if name not in without}
        own = {"<": self._read(prefix), ">": self._read(suffix)}
        cursor = self._cursor(prefix, suffix)
        return [*self._guesses(own, cursor, own=True), *self._guesses(others, cursor, own=False)]

    def _cursor(self, prefix: str, suffix: str) -> "_Cursor":
        words = _WORD.findall(prefix[-2000:])
        begun = words.pop() if words and re.fullmatch(r"\w+", words[-1]) else ""
        context = [self._keys.get(_key(word), -1) for word in words]
        line = context[len(words) - next((n for n, word in enumerate(words[::-1]) if word[0] == "\n"), 0) :]
        following = next((line.strip() for line in suffix.split("\n")[1:] if line.strip()), "")
        ahead = [self._keys.get(word, -1) for word in map(_key, _WORD.findall("\n" + following))]
        return _Cursor(context[-LONGEST:], line, begun, following, ahead, prefix.endswith("\n"))

    def _guesses(self, texts: _Texts, cursor: "_Cursor", *, own: bool) -> list[Guess]:
        """The rest of the line that most speaks for, and beginnings; longer matches count for more."""
        rests: dict[str, _Found] = {}
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
            weight = 1.5**matched * (8.0 if confirmed else 1.0)
            rests[rest] = _Found(weight, matched, 1, confirmed, name).with_(rests.get(rest))
        if not rests:
            return []
        total = sum(one.weight for one in rests.values())
        best = max(rests, key=lambda rest: rests[rest].weight)
        guesses = [rests[best].guess(best, total, own=own, whole=True)]
        for beginning, one in _beginnings(rests):
            guesses.append(one.guess(beginning, total, own=own, whole=False))
        return guesses

    def _after(self, texts: _Texts, cursor: "_Cursor") -> list[tuple[str, int]]:
        """Where in which text a line goes on after the longest known end of what precedes the cursor."""
        for order in ORDERS:
            if len(cursor.context) < order:
                continue
            gram = cursor.context[-order:]
            hashed = hash_of(gram)
            found = (
                (name, start + order)
                for name, (grams, spelled) in texts.items()
                for start in grams.places(gram, hashed)
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
            hashed = hash_of(cursor.ahead[:order])
            for name, (grams, spelled) in texts.items():
                for end in islice(grams.places(cursor.ahead[:order], hashed), _CANDIDATES):
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


def _beginnings(rests: Mapping[str, _Found]) -> Iterator[tuple[str, _Found]]:
    """The heaviest beginnings of the rests, each a word longer than the one before."""
    left = [(_WORD.findall(rest), one) for rest, one in rests.items()]
    for n in range(_BEGINNING_WORDS):
        groups: dict[str, _Found] = {}
        for words, one in left:
            if n < len(words):
                groups[words[n]] = one.with_(groups.get(words[n]))
        ended = sum(one.weight for words, one in left if n >= len(words))
        heaviest = max(groups, key=lambda word: groups[word].weight, default="")
        if not heaviest or groups[heaviest].weight < ended:
            return
        left = [(words, one) for words, one in left if words[n : n + 1] == [heaviest]]
        if not heaviest.isspace():
            yield "".join(left[0][0][: n + 1]), groups[heaviest]


def _key(word: str) -> str:
    """White space matches whatever its width."""
    return "\n" if word[0] == "\n" else " " if word.isspace() else word


def hash_of(gram: Sequence[int]) -> np.uint32:
    """The hash that a gram is looked up by."""
    hashed: np.uint32 = _grams(np.array(gram, np.int32), len(gram))[0]
    return hashed


def _grams(ids: NDArray[np.int32], order: int) -> NDArray[np.uint32]:
    """A hash of every `order` successive ids, by the place of the first."""
    total = np.zeros(max(0, len(ids) - order + 1), np.uint32)
    for n in range(order):
        total = (total + ids[n : n + len(total)].astype(np.uint32)) * np.uint32(0x9E3779B1)
        total ^= total >> np.uint32(15)
    return total
