"""How long to wait after a key before the model is asked: learned from how a person types. Pure.

Waiting a little longer than the usual time between two keys asks in pauses alone; waiting longer than a
person notices is never worth it. Times are given in, in seconds; no clock is read here.
"""

_SMOOTHING = 0.15  # of an exponential mean: the last dozen keys
_INTERVAL = 0.2  # at 60 words a minute, before anything is known
_LATENCY = 0.15
_LONGEST_INTERVAL = 1.0  # a longer one is a pause, and tells nothing of typing
_SHORTEST = 0.03
_PATIENCE = 1.4  # intervals
_VISIBLE_S = 0.45
"""From the last key to the suggestion; what the model takes is taken off the wait."""


class Debounce:
    """Learns the time between keys and the model's latency."""

    def __init__(self) -> None:
        self.interval_s = _INTERVAL
        self.latency_s = _LATENCY
        self._last: float | None = None
        self._document = ""

    def typed(self, now: float, document: str = "") -> None:
        """A document was edited."""
        self._document = document
        if self._last is not None and _SHORTEST < now - self._last < _LONGEST_INTERVAL:
            self.interval_s += _SMOOTHING * (now - self._last - self.interval_s)
        self._last = now

    def answered(self, latency_s: float) -> None:
        """The model took so long."""
        self.latency_s += _SMOOTHING * (latency_s - self.latency_s)

    def wait_s(self, now: float, document: str = "") -> float:
        """How much longer to wait; an editor that waits by itself is not waited for twice.

        A model that answers within a fraction of the time between two keys is asked at each. In a document
        that nobody types in there is nothing to wait for.
        """
        if self._last is None or document != self._document or self.latency_s < self.interval_s / 20:
            return 0.0
        wanted = min(_PATIENCE * self.interval_s, max(_VISIBLE_S - self.latency_s, self.interval_s / 2))
        return max(0.0, wanted - (now - self._last))
