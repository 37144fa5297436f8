"""The state of one client's session: settings, documents, folders, suggestions, status.

What each method of the protocol does is `server`'s business; here is what outlives a request, and how a
place in a document is described to the features.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from lsprotocol import types
from pygls.exceptions import FeatureRequestError
from pygls.lsp.server import LanguageServer

from codellama import __version__
from codellama.assist.context import refused
from codellama_lsp import completion, convert, edits, framing, settings, status
from codellama_lsp.cache import Cursor
from codellama_lsp.documents import Document, Documents
from codellama_lsp.engine import Engine
from codellama_lsp.folders import Folders
from codellama_lsp.jobs import Background
from codellama_lsp.progress import Progress
from codellama_lsp.protocol import Protocol, make_converter
from codellama_lsp.suggester import Suggester, Wanted
from codellama_lsp.switch import Switch

logger = logging.getLogger(__name__)

LEAVE_S = 1.0
"""How long the end may take: a thread may be parsing, or waiting for another window's indexing."""


class Server(LanguageServer):
    """State that outlives a request; `defaults` are the settings where the client names none, `problems` what
    is wrong with them, a sentence each."""

    protocol: Protocol

    def __init__(self, defaults: settings.Settings, problems: Sequence[str] = ()) -> None:
        super().__init__("codellama", __version__, protocol_cls=Protocol, converter_factory=make_converter)
        self.defaults = defaults
        self.problems = problems
        self.settings = defaults
        self.documents = Documents()
        self.edits = edits.Edits()
        self.engine = Engine()
        self.status = status.StatusBoard(lambda now: self.protocol.notify(status.METHOD, now.payload()))
        self.switch = Switch()
        self.suggester = Suggester(self.engine, self.status)
        self.background = Background()
        self.folders = Folders(
            lambda title: Progress(self, title),
            self.status,
            self.background,
            self.complain,
            lambda: self.settings.index,
            self.suggester.forget_all,
        )
        self.initialization_options: object = None
        self.awake = False
        self.leave: Callable[[], None] = lambda: None
        self._complaints: set[str] = set()

    def configure(self, options: object, *, trusted: bool) -> None:
        """Read a client's options over the defaults, telling the person what was refused.

        Those that are not `trusted` may come out of a repository.
        """
        before = self.settings
        self.settings, problems = settings.read(options, self.defaults)
        if not trusted:
            self.settings, strangers = settings.without_strangers(self.settings, self.defaults)
            problems += strangers
        if problems:
            self.complain(" ".join(problems))
        if self.settings != before:
            self.suggester.reset()
        self.switched()

    def switched(self) -> None:
        """Suggestions may be on or off now: tell the status."""
        on = self.switch.everywhere(self.settings.completion, time.monotonic())
        self.status.configured(on, self.settings.completion.model)

    def complain(self, message: str) -> None:
        """Show the person one sentence, once."""
        if message not in self._complaints:
            self._complaints.add(message)
            self.show(message)

    def failed(self, error: Exception) -> None:
        """A request failed for want of something: status, and a message when that is news."""
        if self.status.failed(str(error)):
            self.show(str(error))

    def show(self, message: str, kind: types.MessageType = types.MessageType.Warning) -> None:
        """Show the person a message."""
        self.window_show_message(types.ShowMessageParams(kind, message))

    def report_server_error(self, error: Exception, source: Any) -> None:
        """A bug of ours: into the log, since no person could act on it."""
        if source is not FeatureRequestError:
            logger.error("%s: %s", source.__name__, error)

    def allowed(self, document: Document) -> bool:
        """Whether suggestions are on in a document."""
        found = self.folders.find(convert.path_of(document.uri))
        root = str(found[0].root) if found else ""
        where = (self.settings.completion, root, document.language_id)
        return self.switch.allows(*where, time.monotonic())

    def wanted(self, document: Document, position: types.Position, *, invoked: bool) -> Wanted:
        """A suggestion at a position, with the index, the other buffers and the edits around it."""
        index = self.documents.lines(document.text).index(position.line, position.character)
        text = document.text
        if "\r" in text:  # the model and what was typed know line feeds alone
            index = len(text[:index].replace("\r\n", "\n").replace("\r", "\n"))
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        place = self._place(document, text, len(text[:index].encode()))
        cursor = Cursor.at(document.uri, text, index)
        return Wanted(cursor, place, position.line, position.character, invoked)

    def _place(self, document: Document, text: str, offset: int) -> completion.Place:
        found = self.folders.find(convert.path_of(document.uri))
        if found is None:
            return completion.Place(convert.file_name(document), text, offset)
        index, path = found
        inside: dict[str, str] = {}
        paths: dict[str, str] = {}
        for other in self.documents:
            there = self.folders.find(convert.path_of(other.uri))
            if there is None or there[0] is not index or there[1] == path:
                continue
            small = len(other.text) <= completion.LARGEST and not self.folders.excluded(index, there[1])
            if small and not refused(there[1], other.text):
                inside[there[1]] = other.text
                paths[other.uri] = there[1]
        recent = tuple(
            completion.edited(paths[edit.uri], edits.passage(inside[paths[edit.uri]], edit.line))
            for edit in self.edits.elsewhere(document.uri, time.monotonic())
            if edit.uri in paths
        )
        buffers = completion.laid_over(inside.items())
        return completion.Place(path, text, offset, index, buffers, recent)

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
        self.suggester.cancel_all()
        await self.background.aclose()
        await self.folders.aclose()
        await self.engine.aclose()
