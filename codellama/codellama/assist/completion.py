"""A completion at a place in a file: gather context, ask the server, filter what comes back.

While the model is at it, the repository's own files are asked too; the surer of the two is shown. Nothing is
kept from one completion to the next.
"""

import asyncio
import re
import time
from dataclasses import dataclass, field, replace

from codellama.assist import filters, names, syntax
from codellama.assist.context import allowed, extras, merged, refused, shares, windows
from codellama.assist.precedents import guesses_at
from codellama.assist.sureness import SHOWN, Offer, of_guesses, of_model, pick, trust_in
from codellama.runtime.evidence import Guess
from codellama.runtime.records import Extra, FinishReason, InfillRequest, Packed, Result, Stats
from codellama.serve.client import ModelClient
from codellama_index import Index
from codellama_index.errors import CodeIndexError
from codellama_index.records import OpenDocument, Snippet

# The index stops by itself after 100 ms; this one is for a disk that hangs.
_CONTEXT_TIMEOUT_S = 0.3
_GUESSES_TIMEOUT_S = 0.2
_OWN_BYTES = 20_000  # of the file itself, in which the line's like is looked for
_LARGE = 1_000_000  # characters of a document that the index is not asked about: it would take too long


@dataclass(frozen=True, slots=True)
class CompletionQuery:
    """Where a completion is wanted: byte `offset` in the UTF-8 of `text`, the file at `path`.

    `single_line` None leaves it to the syntax around the cursor. `recent` are passages that were just edited,
    of files that were found to hold no secrets. `prompt_bytes` bounds all that is sent. What is less sure
    than `least` is not shown; where it was `invoked`, an unsure answer is better than none.
    """

    path: str
    text: str
    offset: int
    max_tokens: int = 64
    single_line: bool | None = None
    open_documents: tuple[OpenDocument, ...] = ()
    budget_bytes: int = 6144
    recent: tuple[Snippet, ...] = ()
    prompt_bytes: int = 160_000
    invoked: bool = False
    least: float = SHOWN


@dataclass(frozen=True, slots=True)
class Completion:
    """What to insert at the offset ("" for nothing), where it came from and what it cost.

    `guess` is set where the text is not the model's but how a line went on elsewhere; `filters` and
    `stats` are about the model's all the same. `said` is the model's text before all filters, `unknown` the
    names in it that exist nowhere, `times` seconds by what took them.
    """

    text: str
    sources: tuple[Snippet, ...]
    packed: tuple[Packed, ...]
    stats: Stats
    finish_reason: FinishReason
    filters: tuple[str, ...]
    guess: Guess | None = None
    said: str = ""
    single_line: bool = False
    unknown: tuple[str, ...] = ()
    times: dict[str, float] = field(default_factory=dict)


NOTHING = Completion("", (), (), Stats(), "stop", ())


async def complete(
    client: ModelClient,
    index: Index | None,
    query: CompletionQuery,
    *,
    model: str | None = None,
    deadline_s: float | None = None,
) -> Completion:
    """Asks the model for what belongs at the cursor; raises as the client does.

    In a file that holds secrets nothing is sent, and there is no suggestion.
    """
    began = time.perf_counter()
    budget, own = shares(query.prompt_bytes, query.budget_bytes)
    prefix, suffix = windows(query.text, query.offset, own)
    # Of a huge document only what would be sent is looked through.
    if reason := refused(query.path, query.text if len(query.text) <= _LARGE else prefix + suffix):
        return replace(NOTHING, filters=(reason,))
    recent = tuple(passage for passage in query.recent if not refused(passage.path, passage.text))
    query = replace(query, open_documents=allowed(query.open_documents), recent=recent)
    snippets, single = await asyncio.gather(
        _snippets(index, query, budget), _single_line(query, prefix, suffix)
    )
    asked = time.perf_counter()
    guessing = asyncio.create_task(_guesses(index, query))
    try:
        request = _request(query, prefix, suffix, extras(snippets), single)
        result = await client.infill(request, model=model, deadline_s=deadline_s)
        answered = time.perf_counter()
        guesses = await guessing
    except BaseException:
        guessing.cancel()
        raise
    trust = trust_in(model or client.settings.model)
    judged = await asyncio.to_thread(_judged, result, query, (prefix, suffix), index, guesses, single, trust)
    kept = {packed.filename for packed in result.packed if packed.kept}
    times = {
        "context_s": asked - began,
        "model_s": answered - asked,
        "filters_s": time.perf_counter() - answered,
    }
    return replace(
        judged,
        sources=tuple(snippet for snippet in snippets if snippet.path in kept),
        times={name: round(value, 4) for name, value in times.items()},
    )


def _request(
    query: CompletionQuery, prefix: str, suffix: str, others: tuple[Extra, ...], single: bool
) -> InfillRequest:
    return InfillRequest(
        prefix=prefix,
        suffix=suffix,
        extras=others,
        max_tokens=query.max_tokens,
        stop=("\n",) if single else (),
    )


def _judged(
    result: Result,
    query: CompletionQuery,
    around: tuple[str, str],
    index: Index | None,
    guesses: list[Guess],
    single: bool,
    trust: float,
) -> Completion:
    """What is shown of a model's answer, or of the guesses, and why; for a thread: it parses."""
    text, changed = _filtered(result, query.path, around, single)
    unknown = names.unknown(query.path, text, *around, index)
    offers = [_doubted(offer, unknown, around) for offer in of_model(text, result, trust, query.least)]
    offers += [offer for offer in of_guesses(guesses) if not filters.is_trifle(offer.text, *around)]
    chosen = pick(offers, query.least)
    shown = chosen.text if chosen else ""
    if query.invoked:
        shown = shown or text
    elif text and not shown:
        changed = (*changed, "confidence")
    elif shown and filters.is_trifle(shown, *around):
        shown, changed = "", (*changed, "is_trifle")
    elif chosen and not chosen.whole:
        changed = (*changed, "beginning")
    return Completion(
        text=shown,
        sources=(),
        packed=result.packed,
        stats=result.stats,
        finish_reason=result.finish_reason,
        filters=changed,
        guess=chosen.guess if chosen and shown else None,
        said=result.text,
        single_line=single,
        unknown=unknown,
    )


def _doubted(offer: Offer, unknown: tuple[str, ...], around: tuple[str, str]) -> Offer:
    """Less sure, and standing no more by itself, for each name in it, be it in part, that exists nowhere."""
    before, after = around[0].rpartition("\n")[2], around[1].partition("\n")[0]
    start, end = len(before), len(before) + len(offer.text)
    found = re.finditer(r"\w+", before + offer.text + after)
    words = {word[0] for word in found if word.start() < end and word.end() > start}
    count = len(set(unknown) & words)
    return replace(offer, sure=offer.sure * names.DOUBT**count, stands=offer.stands and not count)


def _filtered(
    result: Result, path: str, around: tuple[str, str], single: bool
) -> tuple[str, tuple[str, ...]]:
    """What the filters leave of a model's answer, and the names of those that changed it."""
    text = result.text
    changed: list[str] = []
    if single:
        text = filters.one_line(text)
    elif result.finish_reason == "length":
        text = filters.whole_lines(text)
    if text != result.text:
        changed.append("one_line" if single else "whole_lines")
    text, applied = filters.apply(text, *around)
    whole = syntax.sound(path, text, *around)[0]
    return whole, (*changed, *applied, *(("sound",) if whole != text else ()))


async def _single_line(query: CompletionQuery, prefix: str, suffix: str) -> bool:
    if query.single_line is not None:
        return query.single_line
    around = await asyncio.to_thread(syntax.surroundings, query.path, prefix, suffix)
    return not around.block


async def _snippets(index: Index | None, query: CompletionQuery, budget: int) -> tuple[Snippet, ...]:
    """Snippets of other files; none rather than a late or a failed answer."""
    if index is None or len(query.text) > _LARGE:
        return merged((), query.recent, budget)
    look_up = asyncio.to_thread(
        index.context, query.path, query.offset, query.text, query.open_documents, budget
    )
    try:
        found = tuple(await asyncio.wait_for(look_up, _CONTEXT_TIMEOUT_S))
    except (CodeIndexError, TimeoutError):
        found = ()
    return merged(found, query.recent, budget)


async def _guesses(index: Index | None, query: CompletionQuery) -> list[Guess]:
    """How the line went on elsewhere, as it may be inserted; none rather than late ones."""
    around = windows(query.text, query.offset, _OWN_BYTES)
    look_up = asyncio.to_thread(guesses_at, index, query.path, *around, query.open_documents)
    try:
        found = await asyncio.wait_for(look_up, _GUESSES_TIMEOUT_S)
    except TimeoutError:
        return []
    fitting = (replace(guess, text=filters.apply(guess.text, *around)[0]) for guess in found)
    return [guess for guess in fitting if guess.text]
