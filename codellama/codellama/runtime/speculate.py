"""Drafts of what comes next, for the model to check several at a time. Free of torch.

Prompt lookup (arXiv 2304.04487; Saxena 2023): what followed the last few ids the last time they stood in
the prompt or in the answer is a good guess where an answer repeats its input, as edits do. The model
checks a whole draft in one step and keeps what it would have chosen itself, so that under greedy decoding
the ids are those of decoding one by one.
"""

from collections.abc import Sequence

# The longest and shortest endings that are looked up, and the longest draft.
_LONGEST, _SHORTEST = 4, 2
MAX_DRAFT = 8


class PromptLookup:
    """Drafts from the ids so far, found by an index over their n-grams.

    It stops guessing where its guesses are wrong: a draft that is refused costs time, so its length
    follows what was accepted, and after a row of failures only long matches are worth a try.
    """

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._ids: list[int] = []
        # For each length, an n-gram's last place but the one at the very end: where its follower stands.
        self._after: dict[tuple[int, ...], int] = {}
        self._length = float(MAX_DRAFT) / 2
        self._failures = 0
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
        length = min(most, int(self._length))
        shortest = _SHORTEST if self._failures < 3 else _LONGEST
        if length < 1:
            return []
        for n in range(_LONGEST, shortest - 1, -1):
            place = self._after.get(tuple(self._ids[-n:])) if len(self._ids) >= n else None
            if place is not None:
                return self._ids[place : place + length]
        return []

    def judged(self, drafted: int, accepted: int) -> None:
        """Tells how many ids of a draft the model kept."""
        if accepted == drafted:
            self._length = min(MAX_DRAFT, self._length * 2)
        else:
            self._length = max(1.0, (self._length + accepted) / 2)
        self._failures = 0 if accepted else self._failures + 1
