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
from codellama.assist.precedents import SHOWN, probability, surer, trust_in
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
        own = evidence.rest_of_line(hole.prefix, hole.suffix, without=texts)
        guess = evidence.rest_of_line(hole.prefix, hole.suffix, without=near)
        said = (_of_model(alone, hole), _of_model(helped, hole), _of_guess(guess))
        mixed = (_mixed(alone, hole, own, trust), _mixed(helped, hole, guess, trust))
        for name, one in zip(WAYS, (*said, *mixed), strict=True):
            ways[name].append(one)
        progress(n + 1, len(holes))
    return {name: _report(holes, said) for name, said in ways.items()}


@dataclass(frozen=True, slots=True)
class _Said:
    """What was said for one hole, how sure (0 to 1), and the milliseconds the model took."""

    text: str
    sure: float
    milliseconds: float = 0.0


def _report(holes: Sequence[Hole], said: list[_Said]) -> dict[str, object]:
    """How often the line's rest was said exactly, and among what is sure enough to be shown."""
    right = [one.text.strip() == hole.rest.strip() for one, hole in zip(said, holes, strict=True)]
    exact = scores.share_of(right)
    shown = [hit for hit, one in zip(right, said, strict=True) if one.text and one.sure >= SHOWN]
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
    text = filters.apply(result.text, hole.prefix, hole.suffix)[0]
    return _Said(text, probability(text.strip(), result.text, result.stats) or 0.0, _milliseconds(result))


def _of_guess(guess: Guess | None) -> _Said:
    return _Said(guess.text, guess.confidence) if guess else _Said("", 0.0)


def _mixed(result: Result, hole: Hole, guess: Guess | None, trust: float) -> _Said:
    """What a completion would show: the surer of the two, or nothing."""
    model = _of_model(result, hole)
    text, by = surer(model.text, result.text, result.stats, guess, trust)
    return _Said(text, by.confidence if by else trust * model.sure, model.milliseconds)


def _milliseconds(result: Result) -> float:
    return (result.stats.prefill_s + result.stats.decode_s) * 1000


def _nearly_same(text: str, hole: Hole) -> bool:
    one, other = (_lines(t) for t in (text, hole.prefix + hole.rest + hole.suffix))
    return len(one & other) > _NEAR * max(1, min(len(one), len(other)))


@lru_cache(maxsize=4096)
def _lines(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.splitlines() if len(line.strip()) > 8)
