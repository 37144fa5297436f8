"""Inline completion: one place in one text becomes a suggestion. It keeps no state.

The suggester says where the place stands and with which client to ask; `codellama.assist` does the
asking. Nothing here knows the protocol.
"""

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codellama_index.records import OpenDocument, Snippet
from codellama_lsp.settings import CompletionSettings

if TYPE_CHECKING:
    from codellama.assist.completion import Completion
    from codellama.assist.pace import Room
    from codellama.serve.client import ModelClient
    from codellama_index import Index

MOST_BYTES = 160_000
"""Of a prompt, whatever the model's pace allows."""

LARGEST = 1 << 20
"""Characters of another document that is still looked into."""

_EDITED = 0.9
"""What a passage that was just edited counts for: less than a definition, more than similar lines."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a completion is wanted; `offset` is in bytes of UTF-8, line breaks in `text` are \\n.

    `path` is relative to the index's root, or a bare file name where there is no index. The open
    documents are those of the same repository, this one excepted; `recent` are passages edited there.
    """

    path: str
    text: str
    offset: int
    index: "Index | None" = None
    open_documents: tuple[OpenDocument, ...] = ()
    recent: tuple[Snippet, ...] = ()


async def suggest(
    client: "ModelClient", place: Place, settings: CompletionSettings, room: "Room", *, invoked: bool
) -> "Completion":
    """Ask for a suggestion at a place; raises CodellamaError and CodeIndexError."""
    from codellama.assist.completion import CompletionQuery, complete

    query = CompletionQuery(
        path=place.path,
        text=place.text,
        offset=place.offset,
        max_tokens=room.max_tokens,
        open_documents=place.open_documents,
        budget_bytes=settings.budget_bytes,
        recent=place.recent,
        prompt_bytes=room.prompt_bytes,
        invoked=invoked,
        least=settings.confidence,
    )
    return await complete(client, place.index, query)


async def read_on(index: "Index", path: str) -> None:
    """Read what completions in a file will look for in the repository's others; it takes a while."""
    leaving = threading.Event()

    def read() -> None:
        from codellama.assist import precedents

        precedents.read_on(index, path, leaving)

    try:
        await asyncio.to_thread(read)
    finally:
        leaving.set()


def edited(path: str, passage: tuple[int, int, str]) -> Snippet:
    """A passage around a recent edit (first line, last line, text) as a snippet."""
    first, last, text = passage
    return Snippet(path, first, last, text, _EDITED, "edited just now")


def laid_over(buffers: Iterable[tuple[str, str]]) -> tuple[OpenDocument, ...]:
    """The buffers (path, text) that go over the index."""
    return tuple(OpenDocument(path, text) for path, text in buffers)
