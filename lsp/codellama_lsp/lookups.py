"""The protocol's questions about names: definition, references, symbols, hover.

The answers come from `navigation`, in a thread each.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lsprotocol import types

from codellama_index.errors import CodeIndexError
from codellama_lsp import convert, navigation
from codellama_lsp.documents import Document
from codellama_lsp.navigation import Sources
from codellama_lsp.session import Server

T = TypeVar("T")

_LARGEST = 1_000_000  # characters of a document that is looked through


def register(server: Server) -> None:
    """Offer navigation; where the settings say no, a server of the language's own answers alone."""
    server.feature(types.TEXT_DOCUMENT_DEFINITION)(definition)
    server.feature(types.TEXT_DOCUMENT_REFERENCES)(references)
    server.feature(types.TEXT_DOCUMENT_HOVER)(hover)
    server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)(document_symbol)
    server.feature(types.WORKSPACE_SYMBOL)(workspace_symbol)


async def definition(server: Server, params: types.DefinitionParams) -> list[types.Location]:
    """Where the name at a position is defined."""

    def find(sources: Sources, path: str, name: str) -> list[navigation.Place]:
        symbols = navigation.definitions(sources, path, name)
        return [navigation.place_of(sources, symbol) for symbol in symbols]

    return await _places(server, params.text_document.uri, params.position, find)


async def references(server: Server, params: types.ReferenceParams) -> list[types.Location]:
    """Where the name at a position is used."""
    with_definitions = params.context.include_declaration

    def find(sources: Sources, path: str, name: str) -> list[navigation.Place]:
        return navigation.references(sources, path, name, with_definitions=with_definitions)

    return await _places(server, params.text_document.uri, params.position, find)


async def hover(server: Server, params: types.HoverParams) -> types.Hover | None:
    """What is known of the name at a position."""
    document = _document(server, params.text_document.uri)
    name = _name(server, document, params.position) if document else ""
    if document is None or not name:
        return None
    sources, path, _ = _sources(server, document)
    symbols = await _asked(lambda: navigation.definitions(sources, path, name))
    if not symbols:
        return None
    text = navigation.hover(sources, symbols)
    return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, text))


async def document_symbol(server: Server, params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
    """The definitions in an open document."""
    document = _document(server, params.text_document.uri)
    if document is None:
        return []
    sources, path, _ = _sources(server, document)
    return await _asked(lambda: navigation.outline(sources, path))


async def workspace_symbol(
    server: Server, params: types.WorkspaceSymbolParams
) -> list[types.SymbolInformation]:
    """Definitions in all folders by a part of their name."""
    if not server.settings.navigation.enabled or not params.query:
        return []
    encoding = server.documents.encoding
    everything = [(Sources(index, {}, encoding), _uris(index.root)) for index in server.folders.indexes()]
    return await _asked(lambda: navigation.everywhere(params.query, everything))


async def _places(
    server: Server,
    uri: str,
    position: types.Position,
    find: Callable[[Sources, str, str], list[navigation.Place]],
) -> list[types.Location]:
    document = _document(server, uri)
    name = _name(server, document, position) if document else ""
    if document is None or not name:
        return []
    sources, path, uri_of = _sources(server, document)
    places = await _asked(lambda: find(sources, path, name))
    return [navigation.location_of(place, uri_of) for place in places]


async def _asked(question: Callable[[], list[T]]) -> list[T]:
    """The index's answer, from a thread; nothing where it cannot be read."""
    try:
        return await asyncio.to_thread(question)
    except CodeIndexError:
        return []


def _document(server: Server, uri: str) -> Document | None:
    """An open document in which navigation is on."""
    document = server.documents.get(uri)
    now = server.settings.navigation
    if document is None or not now.enabled or document.language_id in now.off_languages:
        return None
    return document if len(document.text) <= _LARGEST else None


def _name(server: Server, document: Document, position: types.Position) -> str:
    text = document.text
    index = server.documents.lines(text).index(position.line, position.character)
    start = max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1
    end = min((n for n in (text.find("\n", index), text.find("\r", index)) if n >= 0), default=len(text))
    return navigation.name_at(text[start:end], index - start)


def _sources(server: Server, document: Document) -> tuple[Sources, str, Callable[[str], str]]:
    """What is known around a document: its path, its repository's texts, and the URIs of its files."""
    found = server.folders.find(convert.path_of(document.uri))
    encoding = server.documents.encoding
    if found is None:
        path = convert.file_name(document)
        return Sources(None, {path: document.text}, encoding), path, lambda _: document.uri
    index, path = found
    texts, uris = {}, {}
    for other in server.documents:
        there = server.folders.find(convert.path_of(other.uri))
        if there is not None and there[0] is index and len(other.text) <= _LARGEST:
            texts[there[1]], uris[there[1]] = other.text, other.uri
    on_disk = _uris(index.root)
    return Sources(index, texts, encoding), path, lambda name: uris.get(name) or on_disk(name)


def _uris(root: Path) -> Callable[[str], str]:
    return lambda path: (root / path).as_uri()
