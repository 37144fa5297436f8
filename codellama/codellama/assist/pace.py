"""How much prompt and answer fit a latency: learned from what the model server has taken so far. Pure.

The server says what it measured when it loaded the model; from then on each answer's own figures count.
"""

from dataclasses import dataclass

from codellama.runtime.records import Stats

_SMOOTHING = 0.3  # of an exponential mean: about the last six answers
_DECODE_SHARE = 0.6  # of the budget; the rest is for the prompt
_BYTES_PER_TOKEN = 3.0  # of code, a low figure
_LEAST_TOKENS = 8  # of an answer: fewer are no suggestion
_LEAST_BYTES = 768  # of a prompt: with less the model guesses
_COLD = 4.0
"""A prompt may be this much longer than what is prefilled in time: most of it is in the server's cache."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a request may take: bytes of prompt, extras included, and tokens of answer."""

    prompt_bytes: int
    max_tokens: int


class Pace:
    """Tokens a second in prefill and in decode, smoothed; unknown until told or learned."""

    def __init__(self) -> None:
        self.prefill: float | None = None
        self.decode: float | None = None

    def told(self, prefill: float | None, decode: float | None) -> None:
        """Rates that the server measured; what was learned from answers stands."""
        self.prefill = self.prefill or _positive(prefill)
        self.decode = self.decode or _positive(decode)

    def learn(self, stats: Stats) -> None:
        """Takes an answer's own figures in; those of very few tokens say nothing."""
        fresh = stats.prompt_tokens - stats.reused_tokens
        if fresh >= 32 and stats.prefill_s > 0:
            self.prefill = _smoothed(self.prefill, fresh / stats.prefill_s)
        if stats.tokens >= 4 and stats.decode_s > 0:
            self.decode = _smoothed(self.decode, stats.tokens / stats.decode_s)

    def room(self, budget_s: float, max_tokens: int, most_bytes: int) -> Room:
        """What fits the budget; all that is allowed where the rates are unknown."""
        tokens, size = max_tokens, most_bytes
        if self.decode:
            tokens = min(max_tokens, max(_LEAST_TOKENS, int(_DECODE_SHARE * budget_s * self.decode)))
        if self.prefill:
            fitting = (1 - _DECODE_SHARE) * budget_s * self.prefill * _BYTES_PER_TOKEN * _COLD
            size = min(most_bytes, max(_LEAST_BYTES, int(fitting)))
        return Room(size, tokens)


def _positive(rate: float | None) -> float | None:
    return rate if rate and rate > 0 else None


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None else (1 - _SMOOTHING) * old + _SMOOTHING * new
