"""The language server: its life from `initialize` to `exit`, and which method does what.

Handlers are thin: find the document, call a feature function, convert, answer. Everything slow to
import (the index, the client of the model server) comes after `initialize` is answered. Commands and
navigation have modules of their own.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

from lsprotocol import types

from codellama.runtime.errors import CodellamaError, ServerBusy
from codellama_index.errors import CodeIndexError
from codellama_lsp import commands, convert, lookups, parent, settings
from codellama_lsp.documents import Document
from codellama_lsp.jobs import SupersededError
from codellama_lsp.session import Server
from codellama_lsp.suggester import Wanted


def create_server(defaults: settings.Settings | None = None, problems: Sequence[str] = ()) -> Server:
    """A server with every feature registered, not yet serving; `problems` are shown once it does."""
    server = Server(defaults or settings.Settings(), problems)
    server.feature(types.INITIALIZE)(initialize)
    server.feature(types.INITIALIZED)(initialized)
    server.feature(types.EXIT)(exit_)
    server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)(did_change_configuration)
    server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)(did_change_folders)
    server.feature(types.TEXT_DOCUMENT_DID_OPEN)(did_open)
    server.feature(types.TEXT_DOCUMENT_DID_CHANGE)(did_change)
    server.feature(types.TEXT_DOCUMENT_DID_CLOSE)(did_close)
    server.feature(types.TEXT_DOCUMENT_DID_SAVE)(did_save)
    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(inline_completion)
    commands.register(server)
    return server


def initialize(server: Server, params: types.InitializeParams) -> None:
    """Take over what the client says of itself, and offer what suits it; nothing slow."""
    server.initialization_options = params.initialization_options
    server.documents.encoding = convert.encoding(server.workspace.position_encoding)
    text_document = params.capabilities.text_document
    if text_document is None or text_document.inline_completion is None:
        server.feature(types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions())(completion_)
    if settings.read(params.initialization_options, server.defaults)[0].navigation.enabled:
        lookups.register(server)
    if params.process_id is not None:
        parent.watch(params.process_id, server.leave)


def initialized(server: Server, _: types.InitializedParams) -> None:
    """Begin what need not hold up the first answer: settings' complaints, status, indexing."""
    for problem in server.problems:
        server.complain(problem)
    server.configure(server.initialization_options, trusted=True)
    server.defaults = server.settings
    for path in _workspace_paths(server):
        _add_folder(server, path)


def exit_(server: Server, _: None) -> None:
    """Leave, asked for by `shutdown` or not."""
    server.leave()


def did_change_configuration(server: Server, params: types.DidChangeConfigurationParams) -> None:
    """New settings take the place of the last ones; what they leave out is as at initialization."""
    server.configure(params.settings, trusted=False)


def did_change_folders(server: Server, params: types.DidChangeWorkspaceFoldersParams) -> None:
    """Index what was added, forget what was removed."""
    for folder in params.event.removed:
        path = convert.path_of(folder.uri)
        if path is not None:
            server.background.start(server.folders.remove(path))
    for folder in params.event.added:
        path = convert.path_of(folder.uri)
        if path is not None:
            _add_folder(server, path)


def did_open(server: Server, params: types.DidOpenTextDocumentParams) -> None:
    """Keep the document; the first one also wakes the model server, which takes seconds."""
    server.documents.open(params.text_document)
    if not server.awake and server.settings.completion.enabled:
        server.awake = True
        server.background.start(_wake(server))
    found = server.folders.find(convert.path_of(params.text_document.uri))
    if server.awake and found is not None:
        server.suggester.prepare(*found)


def did_change(server: Server, params: types.DidChangeTextDocumentParams) -> None:
    """Follow the editor's edits."""
    document, now = params.text_document, time.monotonic()
    server.documents.change(document.uri, document.version, params.content_changes)
    server.edits.add(document.uri, params.content_changes, now)
    server.suggester.debounce.typed(now, document.uri)


def did_close(server: Server, params: types.DidCloseTextDocumentParams) -> None:
    """Forget the document; the index has it as it is on disk."""
    uri = params.text_document.uri
    server.documents.close(uri)
    server.edits.forget(uri)
    server.suggester.forget(uri)


def did_save(server: Server, params: types.DidSaveTextDocumentParams) -> None:
    """Bring the index up to date for the file that was written."""
    path = convert.path_of(params.text_document.uri)
    if path is not None:
        server.background.start(server.folders.saved(path))


async def inline_completion(
    server: Server, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem]:
    """A suggestion at the cursor: always a list, empty where there is nothing to suggest."""
    invoked = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
    text = await _suggestion(server, params.text_document.uri, params.position, invoked=invoked)
    return convert.inline_items(text, params.position)


async def completion_(server: Server, params: types.CompletionParams) -> types.CompletionList:
    """The same in the menu, for clients that know no inline completion."""
    document = server.documents.get(params.text_document.uri)
    word = _word_before(server, document, params.position) if document else ""
    text = await _suggestion(server, params.text_document.uri, params.position, invoked=False)
    return convert.menu(text, params.position, word)


async def _suggestion(server: Server, uri: str, position: types.Position, *, invoked: bool) -> str:
    document = server.documents.get(uri)
    if document is None or not document.text or not server.allowed(document):
        return ""
    wanted: Wanted = server.wanted(document, position, invoked=invoked)
    known = server.suggester.at_once(wanted, server.settings)
    if known is not None:
        return known
    try:
        text = await server.suggester.ask(wanted, server.settings)
        # What was said of an older text is kept, and not shown.
        return text if server.documents.get(uri) is document else ""
    except (SupersededError, ServerBusy):
        return ""
    except (CodellamaError, CodeIndexError) as error:
        server.failed(error)
        return ""


def _word_before(server: Server, document: Document, position: types.Position) -> str:
    index = server.documents.lines(document.text).index(position.line, position.character)
    found = re.search(r"[A-Za-z0-9_]*\Z", document.text[max(0, index - 80) : index])
    return found[0] if found else ""


async def _wake(server: Server) -> None:
    """Start the model server before the first suggestion is wanted, and say if it cannot be."""
    try:
        await server.engine.client(server.settings)
    except CodellamaError as error:
        server.failed(error)
    else:
        server.status.answered()


def _add_folder(server: Server, path: Path) -> None:
    if server.settings.index.enabled:
        server.background.start(server.folders.add(path))


def _workspace_paths(server: Server) -> list[Path]:
    """The client's folders; older clients send one root instead."""
    uris = [folder.uri for folder in server.workspace.folders.values()]
    if not uris and server.workspace.root_uri:
        uris = [server.workspace.root_uri]
    return [path for uri in uris if (path := convert.path_of(uri)) is not None]
