"""A completion at a place in a file: gather context, ask the server, filter what comes back."""

import asyncio
import re
from dataclasses import dataclass

from codellama.assist import filters
from codellama.assist.context import extras, windows
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
    """What to insert at the offset ("" for nothing), where it came from and what it cost."""

    text: str
    sources: tuple[Snippet, ...]
    packed: tuple[Packed, ...]
    stats: Stats
    finish_reason: FinishReason
    filters: tuple[str, ...]


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
    result = await client.infill(request, model=model, deadline_s=deadline_s)
    text, changed = filters.apply(result.text, prefix, suffix)
    kept = {packed.filename for packed in result.packed if packed.kept}
    sources = tuple(snippet for snippet in snippets if snippet.path in kept)
    return Completion(text, sources, result.packed, result.stats, result.finish_reason, changed)


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


def _is_single_line(prefix: str, suffix: str) -> bool:
    """In the middle of a line, one line is wanted; at its end, or before closers only, a block may be."""
    rest = suffix.split("\n", 1)[0]
    return re.fullmatch(r"[\s)\]}\"'`;:,>]*", rest) is None
