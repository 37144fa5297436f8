"""How many threads a pass takes: all, or one where other programs keep the cores busy.

Threads of a pass wait for each other some fifty times. Where the system sets one aside for a few milliseconds
all of them stand still, and one thread alone is many times faster for a small model. The numbers do not
depend on their count, so it may change between two passes: both are tried now and then, and timed.
"""

# Passes until the other count is tried again: soon after a change or a slow pass, else ever more seldom.
_SOON, _SELDOM = 8, 256
# A pass is slow beyond so many times what it took of late; a count must be so much better to be changed to.
_SLOW, _BETTER = 2.0, 0.9
# How far the newest time moves what is remembered of the better count; of the other the newest is all.
_NEW = 0.3


class ThreadCount:
    """The better of one thread and `most`, for passes of one kind."""

    def __init__(self, most: int) -> None:
        self._counts = (most, 1)
        self._times: list[float | None] = [None, None]
        self._best = self._now = 0
        self._pause = self._left = _SOON

    def choose(self) -> int:
        """The threads of the next pass."""
        if self._counts[0] == 1:
            return 1
        self._left -= 1
        self._now = self._best
        if self._left <= 0:
            self._now = 1 - self._best
            self._pause = self._left = min(2 * self._pause, _SELDOM)
        return self._counts[self._now]

    def took(self, seconds: float) -> None:
        """Tells how long the pass took that was asked for last, by a row."""
        before = self._times[self._now]
        if before is not None and self._now == self._best and seconds > _SLOW * before:
            self._left = min(self._left, 2)
        if before is not None and self._now == self._best:
            seconds = before + _NEW * (seconds - before)
        self._times[self._now] = seconds
        here, there = self._times[self._best], self._times[1 - self._best]
        if here is not None and there is not None and there < _BETTER * here:
            self._best = 1 - self._best
            self._pause = self._left = _SOON
