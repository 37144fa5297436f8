"""How much prompt and answer fit a latency: learned from what the model server has taken so far. Pure.

The server says what it measured when it loaded the model; from then on each answer's own figures count. At a
place where nothing is in the server's cache the prompt must be short; a long one is computed there while
nobody waits, and from then on only what was typed is new.
"""

from dataclasses import dataclass

from codellama.runtime.records import Stats

_SMOOTHING = 0.3  # of an exponential mean: about the last six answers
_DECODE_SHARE = 0.5  # of the budget; the rest is for the prompt
_BYTES_PER_TOKEN = 3.0  # of code, a low figure
_LEAST_TOKENS = 8  # of an answer: fewer are no suggestion
_LEAST_BYTES = 768  # of a prompt: with less the model guesses
_LEAST_SHARE = 0.3  # of a latency that is left for the model, whatever the rest takes
_OVERHEAD_S = 0.04  # beside the model, before anything is known
_PREFILL = 2000.0  # tokens a second, before anything is known of a server that will tell
_LONG = 4  # times as much prompt where most of it is in the server's cache
_NEAR = 1000  # characters typed since the long prompt was computed, up to which most of it is the same
_PLACES = 8  # whose long prompts the server still has


@dataclass(frozen=True, slots=True)
class Room:
    """What a request may take: bytes of prompt, extras included, and tokens of answer."""

    prompt_bytes: int
    max_tokens: int


class Pace:
    """Tokens a second in prefill and in decode, and seconds beside the model, smoothed.

    The rates are unknown until told or learned; some servers never tell. It also keeps where the server knows
    long prompts.
    """

    def __init__(self) -> None:
        self.prefill: float | None = None
        self.decode: float | None = None
        self.overhead_s = _OVERHEAD_S
        self._silent = False
        self._long: list[tuple[str, int]] = []

    def told(self, prefill: float | None, decode: float | None) -> None:
        """Rates that the server measured; what was learned from answers stands."""
        self.prefill = self.prefill or _positive(prefill)
        self.decode = self.decode or _positive(decode)

    def learn(self, stats: Stats, total_s: float | None = None) -> None:
        """Takes an answer's own figures in, and what it took in all; those of very few tokens say nothing."""
        if total_s is not None:
            beside = max(0.0, total_s - stats.prefill_s - stats.decode_s)
            self.overhead_s = _smoothed(self.overhead_s, beside)
        self._silent = stats.prefill_s == 0
        fresh = stats.prompt_tokens - stats.reused_tokens
        if fresh >= 32 and stats.prefill_s > 0:
            self.prefill = _smoothed(self.prefill, fresh / stats.prefill_s)
        if stats.tokens >= 4 and stats.decode_s > 0:
            self.decode = _smoothed(self.decode, stats.tokens / stats.decode_s)

    def room(self, budget_s: float, max_tokens: int, most_bytes: int, *, warm: bool = False) -> Room:
        """What fits the budget, a long prompt where most is cached; all for a server that tells no times."""
        tokens, size = max_tokens, most_bytes
        left = max(budget_s - self.overhead_s, _LEAST_SHARE * budget_s)
        if self.decode:
            tokens = min(max_tokens, max(_LEAST_TOKENS, int(_DECODE_SHARE * left * self.decode)))
        prefill = self.prefill or (0.0 if self._silent else _PREFILL)
        if prefill:
            fitting = (1 - _DECODE_SHARE) * left * prefill * _BYTES_PER_TOKEN
            size = min(most_bytes, max(_LEAST_BYTES, int(fitting)) * (_LONG if warm else 1))
        return Room(size, tokens)

    def is_warm(self, document: str, place: int) -> bool:
        """Whether a long prompt near this place is in the server's cache."""
        return any(uri == document and abs(place - there) <= _NEAR for uri, there in self._long)

    def warmed(self, document: str, place: int) -> None:
        """A long prompt was computed at this place."""
        others = [(uri, at) for uri, at in self._long if uri != document or abs(place - at) > _NEAR]
        self._long = [*others, (document, place)][-_PLACES:]


def _positive(rate: float | None) -> float | None:
    return rate if rate and rate > 0 else None


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None else (1 - _SMOOTHING) * old + _SMOOTHING * new
