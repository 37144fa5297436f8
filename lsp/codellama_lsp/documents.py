"""The editor's open documents, kept in step with its edits.

They replace the workspace of pygls, which takes form feeds and U+2028 for line breaks and would
drift from the editor's text. Files that are not open are not known here: nothing reads the disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lsprotocol import types

from codellama_lsp.positions import Encoding, Lines, well_formed


@dataclass(frozen=True, slots=True)
class Document:
    """One version of an open document; an edit makes a new one, so a request keeps what it saw."""

    uri: str
    language_id: str
    version: int
    text: str


class Documents:
    """Open documents by URI; `encoding` is set once, when the client says what it counts in."""

    def __init__(self) -> None:
        self.encoding: Encoding = "utf-16"
        self._open: dict[str, Document] = {}
        self._lines: Lines | None = None

    def __iter__(self) -> Iterator[Document]:
        """Those touched last come first."""
        return reversed(self._open.values())

    def get(self, uri: str) -> Document | None:
        """The document as it is now, or None where the editor has not opened it."""
        return self._open.get(uri)

    def lines(self, text: str) -> Lines:
        """The lines of a text; those of the last one are kept, since an edit follows a request."""
        if self._lines is None or self._lines.text is not text:
            self._lines = Lines(text, self.encoding)
        return self._lines

    def open(self, item: types.TextDocumentItem) -> None:
        """Take over a document from the editor."""
        self._touch(Document(item.uri, item.language_id, item.version, well_formed(item.text)))

    def change(
        self,
        uri: str,
        version: int,
        changes: Sequence[types.TextDocumentContentChangeEvent],
    ) -> None:
        """Apply edits in their order; edits of a document that is not open are ignored."""
        document = self._open.get(uri)
        if document is None:
            return
        text = document.text
        for change in changes:
            text = self._edited(text, change)
        self._touch(Document(uri, document.language_id, version, text))

    def close(self, uri: str) -> None:
        """Forget a document; closing one that is not open does nothing."""
        self._open.pop(uri, None)

    def _touch(self, document: Document) -> None:
        self._open.pop(document.uri, None)
        self._open[document.uri] = document

    def _edited(self, text: str, change: types.TextDocumentContentChangeEvent) -> str:
        new = well_formed(change.text)
        if isinstance(change, types.TextDocumentContentChangeWholeDocument):
            return new
        lines = self.lines(text)
        start = lines.index(change.range.start.line, change.range.start.character)
        end = lines.index(change.range.end.line, change.range.end.character)
        return text[: min(start, end)] + new + text[max(start, end) :]
