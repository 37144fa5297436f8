"""Completion measured on a repository: what is said for the rest of a line, at random cursors in it.

The cursors are chosen by a seed, in lines of code, with something after them on their line. The model is
asked with and without passages of other files, within the same context; neither the cursor's file nor
one that says nearly the same is among them. The repository's own evidence is asked beside it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from codellama.assist import context, filters, scores
from codellama.assist.sureness import SHOWN, Offer, of_guesses, of_model, pick, probability, trust_in
from codellama.runtime.evidence import Evidence, Guess
from codellama.runtime.records import Extra, InfillRequest, Result
from codellama.serve.client import ModelClient
from codellama_index import Index
from codellama_index.errors import CodeIndexError

# Ways to ask: the model, it with passages of other files, the repository's evidence (the cursor's own file
# and all others), the surer of model and evidence without other files, and with them.
WAYS = ("model", "model_with_context", "evidence", "mixed_without_context", "mixed")

_BUDGET_BYTES = 6144
_TOKENS = 48
_NEAR = 0.5  # of the shorter file's lines shared: nearly the same
_FILE_BYTES = (400, 200_000)


@dataclass(frozen=True, slots=True)
class Hole:
    """A cursor in a file: the text before it, the rest of its line, and the text from the line's end on."""

    path: str
    prefix: str
    rest: str
    suffix: str


def choose(texts: dict[str, str], n: int, seed: int) -> list[Hole]:
    """`n` holes, fewer where the files hold fewer; each file as likely as any other."""
    chance = random.Random(seed)  # noqa: S311 - seeded places, not a secret
    paths = sorted(path for path, text in texts.items() if _FILE_BYTES[0] <= len(text) <= _FILE_BYTES[1])
    holes: dict[tuple[str, int], Hole] = {}
    for _ in range(20 * n):
        if len(holes) == n or not paths:
            break
        path = chance.choice(paths)
        text = texts[path]
        start = chance.randrange(len(text))
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if len(text[start:end].strip()) >= 3:
            holes[path, start] = Hole(path, text[:start], text[start:end], text[end:])
    return sorted(holes.values(), key=lambda hole: (hole.path, len(hole.prefix)))


async def measure(
    client: ModelClient,
    index: Index,
    texts: dict[str, str],
    holes: Sequence[Hole],
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, object]]:
    """Asks for every hole in each way and reports; `texts` are the repository's files by path."""
    evidence = Evidence()
    for path, text in texts.items():
        evidence.put(path, text)
    trust = trust_in(client.settings.model)
    ways: dict[str, list[_Said]] = {name: [] for name in WAYS}
    for n, hole in enumerate(holes):
        near = {path for path, text in texts.items() if path == hole.path or _nearly_same(text, hole)}
        alone = await client.infill(_request(hole, ()))
        helped = await client.infill(_request(hole, _extras(index, hole, near)))
        own = evidence.guesses(hole.prefix, hole.suffix, without=texts)
        guesses = evidence.guesses(hole.prefix, hole.suffix, without=near)
        said = (_of_model(alone, hole), _of_model(helped, hole), _of_guesses(guesses))
        mixed = (_mixed(alone, hole, own, trust), _mixed(helped, hole, guesses, trust))
        for name, one in zip(WAYS, (*said, *mixed), strict=True):
            ways[name].append(one)
        progress(n + 1, len(holes))
    return {name: _report(holes, said) for name, said in ways.items()}


@dataclass(frozen=True, slots=True)
class _Said:
    """What was said for one hole, whether it is shown, and the milliseconds the model took."""

    text: str
    shown: bool
    milliseconds: float = 0.0


def _report(holes: Sequence[Hole], said: list[_Said]) -> dict[str, object]:
    """How often the line's rest was said exactly, and among what is sure enough to be shown.

    `right` counts what is shown and right as far as it goes: the whole rest, or its beginning.
    """
    exactly = [one.text.strip() == hole.rest.strip() for one, hole in zip(said, holes, strict=True)]
    exact = scores.share_of(exactly)
    shown = [hit for hit, one in zip(exactly, said, strict=True) if one.shown]
    right = [
        hole.rest.strip().startswith(one.text.strip())
        for one, hole in zip(said, holes, strict=True)
        if one.shown
    ]
    likeness = [
        scores.edit_similarity(o.text.strip(), h.rest.strip()) for o, h in zip(said, holes, strict=True)
    ]
    times = [one.milliseconds for one in said if one.milliseconds]
    return {
        "exact_match": exact["share"],
        "interval": exact["interval"],
        "edit_similarity": round(sum(likeness) / max(len(likeness), 1), 4),
        "shown": {
            "coverage": round(len(shown) / max(len(said), 1), 4),
            "precision": scores.share_of(shown)["share"],
            "interval": scores.share_of(shown)["interval"],
            "right": scores.share_of(right)["share"],
            "right_interval": scores.share_of(right)["interval"],
        },
        "p50_ms": round(scores.quantile(times, 0.5), 1),
        "p95_ms": round(scores.quantile(times, 0.95), 1),
    }


def _request(hole: Hole, extras: tuple[Extra, ...]) -> InfillRequest:
    return InfillRequest(hole.prefix, hole.suffix, extras, max_tokens=_TOKENS, stop=("\n",))


def _extras(index: Index, hole: Hole, near: set[str]) -> tuple[Extra, ...]:
    """What the index finds for the cursor, as a completion would send it, less the files that are near."""
    text, offset = hole.prefix + hole.suffix, len(hole.prefix.encode("utf-8", "replace"))
    try:
        found = index.context(hole.path, offset, text, budget_bytes=_BUDGET_BYTES)
    except CodeIndexError:
        return ()
    return context.extras(snippet for snippet in found if snippet.path not in near)


def _of_model(result: Result, hole: Hole) -> _Said:
    text = _filtered(result, hole)
    sure = probability(text.strip(), result) or 0.0
    return _Said(text, bool(text) and sure >= SHOWN, _milliseconds(result))


def _of_guesses(guesses: Sequence[Guess]) -> _Said:
    guess = max((g for g in guesses if g.whole), key=lambda g: g.confidence, default=None)
    return _Said(guess.text, guess.confidence >= SHOWN) if guess else _Said("", shown=False)


def _mixed(result: Result, hole: Hole, guesses: Sequence[Guess], trust: float) -> _Said:
    """What a completion would show, or the surest of all where it would show nothing."""
    offers = [*of_model(_filtered(result, hole), result, trust), *of_guesses(guesses)]
    chosen = pick(offers) or max(offers, key=_surest, default=None)
    said = chosen.text if chosen else ""
    return _Said(said, bool(pick(offers)), _milliseconds(result))


def _surest(offer: Offer) -> tuple[bool, float]:
    return offer.whole, offer.sure


def _filtered(result: Result, hole: Hole) -> str:
    return filters.apply(result.text, hole.prefix, hole.suffix)[0]


def _milliseconds(result: Result) -> float:
    return (result.stats.prefill_s + result.stats.decode_s + result.stats.choice_s) * 1000


def _nearly_same(text: str, hole: Hole) -> bool:
    one, other = (_lines(t) for t in (text, hole.prefix + hole.rest + hole.suffix))
    return len(one & other) > _NEAR * max(1, min(len(one), len(other)))


@lru_cache(maxsize=4096)
def _lines(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.splitlines() if len(line.strip()) > 8)
