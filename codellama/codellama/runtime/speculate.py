"""Drafts of what comes next, for the model to check several at a time. Free of torch.

Prompt lookup (arXiv 2304.04487; Saxena 2023): what followed the last few ids the last time they stood in
the prompt or in the answer is a good guess where an answer repeats its input, as edits do. The model
checks a whole draft in one step and keeps what it would have chosen itself, so that under greedy decoding
the ids are those of decoding one by one.
"""

from collections.abc import Sequence
from typing import Protocol

# The longest and shortest endings that are looked up, and the longest draft.
_LONGEST, _SHORTEST = 4, 2
MAX_DRAFT = 8


class Drafter(Protocol):
    """Guesses the ids after those it was given."""

    def extend(self, ids: Sequence[int]) -> None:
        """Adds ids to what it goes by."""

    def draft(self, most: int = MAX_DRAFT) -> list[int]:
        """At most `most` ids that may come next; none where nothing is known."""

    def judged(self, drafted: int, accepted: int) -> None:
        """Tells how many ids of a draft the model kept."""

    def close(self) -> None:
        """Nothing more will be asked."""


class Pace:
    """How long a draft may be: what is refused costs time, so its length follows what was accepted."""

    def __init__(self) -> None:
        self.length = float(MAX_DRAFT) / 2
        self.failures = 0  # drafts in a row of which nothing was kept

    def judged(self, drafted: int, accepted: int) -> None:
        """Longer after a draft that was kept whole, shorter after any other."""
        if accepted == drafted:
            self.length = min(MAX_DRAFT, self.length * 2)
        else:
            self.length = max(1.0, (self.length + accepted) / 2)
        self.failures = 0 if accepted else self.failures + 1


class PromptLookup:
    """Drafts from the ids so far, found by an index over their n-grams.

    Short matches are worth a try only where the last draft was kept.
    """

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._ids: list[int] = []
        # For each length, an n-gram's last place but the one at the very end: where its follower stands.
        self._after: dict[tuple[int, ...], int] = {}
        self._pace = Pace()
        self._pace.failures = 1  # nothing was kept yet
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Adds ids to what is looked up."""
        for token in ids:
            place = len(self._ids)
            for n in range(_SHORTEST, _LONGEST + 1):
                if place >= n:
                    self._after[tuple(self._ids[place - n : place])] = place
            self._ids.append(token)

    def draft(self, most: int = MAX_DRAFT) -> list[int]:
        """At most `most` ids that may come next; none where nothing is known."""
        length = min(most, int(self._pace.length))
        shortest = min(_SHORTEST + self._pace.failures, _LONGEST)
        if length < 1:
            return []
        for n in range(_LONGEST, shortest - 1, -1):
            place = self._after.get(tuple(self._ids[-n:])) if len(self._ids) >= n else None
            if place is not None:
                return self._ids[place : place + length]
        return []

    def judged(self, drafted: int, accepted: int) -> None:
        """Tells how many ids of a draft the model kept."""
        self._pace.judged(drafted, accepted)

    def close(self) -> None:
        """It holds nothing but ids."""


class FirstOf:
    """Drafts of the first that has one: what costs nothing to ask stands first."""

    def __init__(self, *drafters: Drafter) -> None:
        self._drafters = drafters
        self._last = drafters[0]

    def extend(self, ids: Sequence[int]) -> None:
        """Adds ids to what all go by."""
        for drafter in self._drafters:
            drafter.extend(ids)

    def draft(self, most: int = MAX_DRAFT) -> list[int]:
        """At most `most` ids that may come next; none where nobody knows."""
        for drafter in self._drafters:
            found = drafter.draft(most)
            if found:
                self._last = drafter
                return found
        return []

    def judged(self, drafted: int, accepted: int) -> None:
        """Tells the one whose draft it was."""
        self._last.judged(drafted, accepted)

    def close(self) -> None:
        """Ends all."""
        for drafter in self._drafters:
            drafter.close()
