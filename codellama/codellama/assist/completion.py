"""A completion at a place in a file: gather context, ask the server, filter what comes back.

While the model is at it, the repository's own files are asked too; the surer of the two is shown.
"""

import asyncio
import re
from dataclasses import dataclass, replace

from codellama.assist import filters
from codellama.assist.context import extras, windows
from codellama.assist.precedents import guess_at, surer, trust_in
from codellama.runtime.evidence import Guess
from codellama.runtime.records import FinishReason, InfillRequest, Packed, Stats
from codellama.serve.client import ModelClient
from codellama_index import Index
from codellama_index.errors import CodeIndexError
from codellama_index.records import OpenDocument, Snippet

# The index stops by itself after 100 ms; this one is for a disk that hangs.
_CONTEXT_TIMEOUT_S = 0.3


@dataclass(frozen=True, slots=True)
class CompletionQuery:
    """Where a completion is wanted: byte `offset` in the UTF-8 of `text`, the file at `path`.

    `single_line` None leaves it to what stands after the cursor.
    """

    path: str
    text: str
    offset: int
    max_tokens: int = 64
    single_line: bool | None = None
    open_documents: tuple[OpenDocument, ...] = ()
    budget_bytes: int = 6144


@dataclass(frozen=True, slots=True)
class Completion:
    """What to insert at the offset ("" for nothing), where it came from and what it cost.

    `guess` is set where the text is not the model's but how a line went on elsewhere; `filters` and
    `stats` are about the model's all the same.
    """

    text: str
    sources: tuple[Snippet, ...]
    packed: tuple[Packed, ...]
    stats: Stats
    finish_reason: FinishReason
    filters: tuple[str, ...]
    guess: Guess | None = None


async def complete(
    client: ModelClient,
    index: Index | None,
    query: CompletionQuery,
    *,
    model: str | None = None,
    deadline_s: float | None = None,
) -> Completion:
    """Asks the model for what belongs at the cursor; raises as the client does."""
    snippets = await _snippets(index, query)
    prefix, suffix = windows(query.text, query.offset)
    single = _is_single_line(prefix, suffix) if query.single_line is None else query.single_line
    request = InfillRequest(
        prefix=prefix,
        suffix=suffix,
        extras=extras(snippets),
        max_tokens=query.max_tokens,
        stop=("\n",) if single else (),
    )
    guessing = asyncio.create_task(_guess(index, query, prefix, suffix))
    try:
        result = await client.infill(request, model=model, deadline_s=deadline_s)
    except BaseException:
        guessing.cancel()
        raise
    text, changed = filters.apply(result.text, prefix, suffix)
    trust = trust_in(model or client.settings.model)
    text, guess = surer(text, result.text, result.stats, await guessing, trust)
    kept = {packed.filename for packed in result.packed if packed.kept}
    sources = tuple(snippet for snippet in snippets if snippet.path in kept)
    return Completion(text, sources, result.packed, result.stats, result.finish_reason, changed, guess)


async def _snippets(index: Index | None, query: CompletionQuery) -> tuple[Snippet, ...]:
    """Snippets of other files; none rather than a late or a failed answer."""
    if index is None:
        return ()
    look_up = asyncio.to_thread(
        index.context, query.path, query.offset, query.text, query.open_documents, query.budget_bytes
    )
    try:
        return tuple(await asyncio.wait_for(look_up, _CONTEXT_TIMEOUT_S))
    except (CodeIndexError, TimeoutError):
        return ()


async def _guess(index: Index | None, query: CompletionQuery, prefix: str, suffix: str) -> Guess | None:
    """How the line went on elsewhere, as it may be inserted; none rather than a late one."""
    look_up = asyncio.to_thread(guess_at, index, query.path, prefix, suffix, query.open_documents)
    try:
        guess = await asyncio.wait_for(look_up, _CONTEXT_TIMEOUT_S)
    except TimeoutError:
        return None
    if guess is None:
        return None
    text, _ = filters.apply(guess.text, prefix, suffix)
    return replace(guess, text=text) if text else None


def _is_single_line(prefix: str, suffix: str) -> bool:
    """In the middle of a line, one line is wanted; at its end, or before closers only, a block may be."""
    rest = suffix.split("\n", 1)[0]
    return re.fullmatch(r"[\s)\]}\"'`;:,>]*", rest) is None
