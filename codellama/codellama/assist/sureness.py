"""What of a model's answer and of the repository's own lines is sure enough to be shown. Pure.

Where no line is sure as a whole, its beginning may be: the words whose probability still holds. A wrong text
costs its reader more than none.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from codellama.runtime.evidence import Guess
from codellama.runtime.locate import POCKET
from codellama.runtime.records import Result

SHOWN = 0.2
"""How likely a line must be right to its end to be shown unasked; what that comes to on packages that the
pocket model never saw tells codellama/training/LOG.md."""

DARK = 0.25
"""A trusted model's mean probability of its tokens under which its answer is a guess in the dark."""

_BEGUN = 0.75  # of that, of a beginning: three in ten of what is shown are to be right to the line's end
_LEAST = 4  # characters of a beginning
_WORD_END = re.compile(r"\w\W|\W\w|\W\W")


@dataclass(frozen=True, slots=True)
class Offer:
    """A text that may be shown, and the probability that it is right; `guess` where the repository says it.

    `stands`: it is shown however unsure. A text that is not `whole` is a beginning, right as far as it goes.
    """

    text: str
    sure: float
    guess: Guess | None = None
    whole: bool = True
    stands: bool = False


def trust_in(model: str) -> float:
    """What a model's own probability of a line is worth.

    The pocket model's lines are right about as often as it thinks, less where it is surest; it is never
    trusted fully, so that what it says must be sure enough by itself.
    """
    return 0.95 if model == POCKET else 1.0


def pick(offers: Sequence[Offer], least: float = SHOWN) -> Offer | None:
    """The surest whole text that is sure enough; else the beginning that promises most; else None.

    Where the repository says what the model says, both speak for the model's text.
    """
    said = [offer for offer in offers if offer.whole and offer.guess is None]
    guessed: dict[str, float] = {}  # this file and the repository may say the same: the surer counts
    for offer in offers:
        if offer.whole and offer.guess is not None:
            guessed[offer.text.strip()] = max(offer.sure, guessed.get(offer.text.strip(), 0.0))
    agreed = [replace(one, sure=max(one.sure, guessed.get(_first(one.text), 0.0))) for one in said]
    agreeing = {_first(one.text) for one in said}
    others = [o for o in offers if o.whole and o.guess is not None and o.text.strip() not in agreeing]
    whole = [offer for offer in (*agreed, *others) if offer.text and (offer.stands or offer.sure >= least)]
    # What stands is overruled by what is surer, if that is sure enough by itself.
    if whole:
        return max(whole, key=lambda offer: offer.sure)
    begun = [offer for offer in offers if not offer.whole and offer.sure >= _BEGUN * least]
    return max(begun, key=lambda offer: offer.sure * math.sqrt(len(offer.text)), default=None)


def of_guesses(guesses: Iterable[Guess]) -> list[Offer]:
    """What the repository offers."""
    return [
        Offer(guess.text, guess.confidence, guess, guess.whole)
        for guess in guesses
        if guess.whole or len(guess.text.strip()) >= _LEAST
    ]


def of_model(text: str, result: Result, trust: float = 1.0, least: float = SHOWN) -> list[Offer]:
    """What filtering left of a model's answer: as a whole, and its beginnings.

    The whole is as sure as its first line, whose probability counts `trust`; a model that is not trusted
    fully gives no further line that is not sure by itself. A trusted one's text stands unless it is a guess
    in the dark, and so does a text of which no probability is known.
    """
    if not text:
        return []
    first = _first(text)
    known = probability(first, result)
    if known is None:
        return [Offer(text, 1.0, stands=True)]
    mean = result.stats.mean_logprob
    stands = trust == 1.0 and (mean is None or math.exp(mean) >= DARK)
    whole = text if trust == 1.0 else _sure_lines(text, result, least)
    return [Offer(whole, trust * known, stands=stands), *_beginnings(text, result)]


def probability(first: str, result: Result) -> float | None:
    """What the model gave to its `first` line, its end included; None where it was not told.

    Where only the mean is known, its tokens are taken for equally sure.
    """
    if result.steps:
        start = max(result.text.find(first), 0)
        return math.exp(_logprob(result, start + len(first)))
    stats = result.stats
    if stats.mean_logprob is None:
        return None
    tokens = stats.tokens * len(first) / max(len(result.text), 1)
    return math.exp(stats.mean_logprob * max(tokens, 1.0))


def _logprob(result: Result, end: int) -> float:
    """Of all steps up to the first that goes beyond `end` characters of the answer, which ends them."""
    total = 0.0
    for reached, logprob in result.steps:
        total += logprob
        if reached > end:
            break
    return total


def _sure_lines(text: str, result: Result, least: float) -> str:
    """The first line, and those after it whose own probability holds."""
    lines = text.split("\n")
    start = max(result.text.find(lines[0]), 0)
    if not result.steps or not result.text.startswith(text, start):
        return text
    end = start + len(lines[0])
    before = _logprob(result, end)
    for n, line in enumerate(lines[1:], start=1):
        end += 1 + len(line)
        here = _logprob(result, end)
        if math.exp(here - before) < least:
            return "\n".join(lines[:n]).rstrip()
        before = here
    return text


def _beginnings(text: str, result: Result) -> list[Offer]:
    """The first line's beginnings that end with a word, each with the probability of its tokens.

    A line that is too short to be read goes on with the next, as where a block begins.
    """
    lines = text.split("\n")
    count = next((n for n in range(1, len(lines)) if len("".join(lines[:n]).strip()) >= _LEAST), len(lines))
    first = "\n".join(lines[:count])
    start = result.text.find(first)
    if start < 0:
        return []
    offers: dict[str, float] = {}
    total = 0.0
    for reached, logprob in result.steps:
        total += logprob
        end = min(reached - start, len(first))
        while 0 < end < len(first) and not _WORD_END.match(first, end - 1):
            end -= 1
        beginning = first[: max(end, 0)].rstrip()
        if len(beginning.strip()) >= _LEAST:
            offers.setdefault(beginning, math.exp(total))
        if reached - start >= len(first):
            break
    return [Offer(beginning, sure, whole=False) for beginning, sure in offers.items()]


def _first(text: str) -> str:
    return text.split("\n", 1)[0].strip()
