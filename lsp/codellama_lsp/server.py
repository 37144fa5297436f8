"""The language server: its state, its life from `initialize` to `exit`, and which method does what.

Handlers are thin: find the document, call a feature function, convert, answer. Everything slow to
import (the index, the client of the model server) comes after `initialize` is answered.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from lsprotocol import types
from pygls.exceptions import FeatureRequestError
from pygls.lsp.server import LanguageServer

from codellama import __version__
from codellama.runtime.errors import CodellamaError, ServerBusy
from codellama_index.errors import CodeIndexError
from codellama_lsp import completion, convert, framing, parent, settings, status
from codellama_lsp.documents import Document, Documents
from codellama_lsp.engine import Engine
from codellama_lsp.folders import Folders
from codellama_lsp.jobs import Background, Jobs, SupersededError
from codellama_lsp.positions import Lines
from codellama_lsp.progress import Progress
from codellama_lsp.protocol import Protocol, make_converter

logger = logging.getLogger(__name__)

LEAVE_S = 1.0
"""How long the end may take: a thread may be parsing, or waiting for another window's indexing."""


class Server(LanguageServer):
    """State that outlives a request; `defaults` are the settings where the client names none."""

    protocol: Protocol

    def __init__(self, defaults: settings.Settings) -> None:
        super().__init__("codellama", __version__, protocol_cls=Protocol, converter_factory=make_converter)
        self.defaults = defaults
        self.settings = defaults
        self.documents = Documents()
        self.jobs = Jobs()
        self.engine = Engine()
        self.status = status.StatusBoard(lambda now: self.protocol.notify(status.METHOD, now.payload()))
        self.background = Background()
        self.folders = Folders(
            lambda title: Progress(self, title),
            self.status,
            self.background,
            self.complain,
            lambda: self.settings.index,
        )
        self.initialization_options: object = None
        self.awake = False
        self.leave: Callable[[], None] = lambda: None
        self._complaints: set[str] = set()

    def configure(self, options: object, base: settings.Settings) -> settings.Settings:
        """Read a client's options over `base`, telling the person what was refused."""
        self.settings, problems = settings.read(options, base)
        if problems:
            self.complain(" ".join(problems))
        return self.settings

    def complain(self, message: str) -> None:
        """Show the person one sentence, once."""
        if message not in self._complaints:
            self._complaints.add(message)
            self._show(message)

    def failed(self, error: Exception) -> None:
        """A request failed for want of something: status, and a message when that is news."""
        if self.status.failed(str(error)):
            self._show(str(error))

    def _show(self, message: str) -> None:
        self.window_show_message(types.ShowMessageParams(types.MessageType.Warning, message))

    def report_server_error(self, error: Exception, source: Any) -> None:
        """A bug of ours: into the log, since no person could act on it."""
        if source is not FeatureRequestError:
            logger.error("%s: %s", source.__name__, error)

    async def serve(self, stdin: int, stdout: BinaryIO) -> int:
        """Serve one client until `exit`, the end of input or its death; returns the exit code."""
        reader = framing.read_in_thread(stdin)
        loop = asyncio.get_running_loop()

        def leave() -> None:
            loop.call_soon_threadsafe(reader.feed_eof)

        self.leave = leave
        self.protocol.set_writer(framing.Writer(stdout))
        while (body := await framing.read_message(reader)) is not None:
            self.protocol.receive(body)
            # The handler just started takes its first step now, and so sees the documents as they
            # are at this message, not after the edits that may wait behind it.
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._aclose()
        except TimeoutError:
            logger.warning("Left while a thread was still at work")
        return 0 if self.protocol.shut_down else 1

    async def _aclose(self) -> None:
        self.jobs.cancel_all()
        await self.background.aclose()
        await self.folders.aclose()
        await self.engine.aclose()


def create_server(defaults: settings.Settings | None = None) -> Server:
    """A server with every feature registered, not yet serving."""
    server = Server(defaults or settings.Settings())
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
    return server


def initialize(server: Server, params: types.InitializeParams) -> None:
    """Take over what the client says of itself; nothing slow."""
    server.initialization_options = params.initialization_options
    server.documents.encoding = convert.encoding(server.workspace.position_encoding)
    if params.process_id is not None:
        parent.watch(params.process_id, server.leave)


def initialized(server: Server, _: types.InitializedParams) -> None:
    """Begin what need not hold up the first answer: settings' complaints, status, indexing."""
    server.defaults = server.configure(server.initialization_options, server.defaults)
    _settings_changed(server)
    for path in _workspace_paths(server):
        _add_folder(server, path)


def exit_(server: Server, _: None) -> None:
    """Leave, asked for by `shutdown` or not."""
    server.leave()


def did_change_configuration(server: Server, params: types.DidChangeConfigurationParams) -> None:
    """New settings take the place of the last ones; what they leave out is as at initialization."""
    server.configure(params.settings, server.defaults)
    _settings_changed(server)


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


def did_change(server: Server, params: types.DidChangeTextDocumentParams) -> None:
    """Follow the editor's edits."""
    document = params.text_document
    server.documents.change(document.uri, document.version, params.content_changes)


def did_close(server: Server, params: types.DidCloseTextDocumentParams) -> None:
    """Forget the document; the index has it as it is on disk."""
    server.documents.close(params.text_document.uri)


def did_save(server: Server, params: types.DidSaveTextDocumentParams) -> None:
    """Bring the index up to date for the file that was written."""
    path = convert.path_of(params.text_document.uri)
    if path is not None:
        server.background.start(server.folders.saved(path))


async def inline_completion(
    server: Server, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem]:
    """A suggestion at the cursor: always a list, empty where there is nothing to suggest."""
    document = server.documents.get(params.text_document.uri)
    if document is None or not document.text or not server.settings.completion.enabled:
        return []
    place = _place(server, document, params.position)
    try:
        return await server.jobs.run(document.uri, _suggest(server, place, params.position))
    except (SupersededError, ServerBusy):
        return []
    except (CodellamaError, CodeIndexError) as error:
        server.failed(error)
        return []


async def _suggest(
    server: Server, place: completion.Place, position: types.Position
) -> list[types.InlineCompletionItem]:
    began = time.monotonic()
    with server.status.busy():
        client = await server.engine.client(server.settings)
        suggestion = await completion.suggest(client, place, server.settings.completion)
    elapsed = round(1000 * (time.monotonic() - began))
    server.status.answered(elapsed, suggestion.stats.reused_tokens)
    return convert.inline_items(suggestion.text, position)


async def _wake(server: Server) -> None:
    """Start the model server before the first suggestion is wanted, and say if it cannot be."""
    try:
        await server.engine.client(server.settings)
    except CodellamaError as error:
        server.failed(error)
    else:
        server.status.answered()


def _place(server: Server, document: Document, position: types.Position) -> completion.Place:
    """Where the cursor stands, with the index and the other buffers of its repository."""
    lines = Lines(document.text, server.documents.encoding)
    offset = lines.offset(position.line, position.character)
    found = server.folders.find(convert.path_of(document.uri))
    if found is None:
        return completion.Place(convert.file_name(document), document.text, offset)
    index, path = found
    buffers = []
    for other in server.documents:
        inside = server.folders.find(convert.path_of(other.uri))
        if inside is not None and inside[0] is index:
            buffers.append((inside[1], other.text))
    return completion.Place(path, document.text, offset, index, completion.laid_over(buffers, path))


def _settings_changed(server: Server) -> None:
    now = server.settings.completion
    server.status.configured(now.enabled, now.model)


def _add_folder(server: Server, path: Path) -> None:
    if server.settings.index.enabled:
        server.background.start(server.folders.add(path))


def _workspace_paths(server: Server) -> list[Path]:
    """The client's folders; older clients send one root instead."""
    uris = [folder.uri for folder in server.workspace.folders.values()]
    if not uris and server.workspace.root_uri:
        uris = [server.workspace.root_uri]
    return [path for uri in uris if (path := convert.path_of(uri)) is not None]
