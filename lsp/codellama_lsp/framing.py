"""Messages on a byte stream: `Content-Length` headers, and the standard input they come from.

Reading forgives what can be forgiven: any case of header, bare line feeds, junk between messages,
an absurd length. A client's slip must not leave the server deaf. What a message means is not known
here.
"""

import asyncio
import os
import re
import threading
from collections.abc import Iterable
from typing import BinaryIO, SupportsIndex

LONGEST_MESSAGE = 256 << 20
"""In bytes; a header that promises more is taken for junk."""

_CHUNK = 1 << 16
_HEADER = re.compile(rb"content-length[ \t]*:[ \t]*([^\r\n]*?)\s*\Z", re.I)


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """The body of the next message, or None at the end of the stream."""
    length: int | None = None
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than any header: junk, and asyncio has dropped it
            continue
        if not line:
            return None
        # After a wrong length the next header stands behind the rest of a body, on one line.
        header = _HEADER.search(line)
        if header is not None:
            length = _length(header[1])
        elif not line.strip() and length is not None:
            try:
                return await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                return None


def _length(digits: bytes) -> int | None:
    if not digits.isdigit() or len(digits) > len(str(LONGEST_MESSAGE)):
        return None
    length = int(digits)
    return length if length <= LONGEST_MESSAGE else None


class Input(asyncio.StreamReader):
    """A stream that can be ended from this side; what arrives after that is dropped."""

    def __init__(self) -> None:
        super().__init__(limit=_CHUNK)
        self._ended = False

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Take in bytes."""
        if not self._ended:
            super().feed_data(data)

    def feed_eof(self) -> None:
        """End the stream; what was taken in before is still read."""
        self._ended = True
        super().feed_eof()


def read_in_thread(descriptor: int) -> Input:
    """A reader of a file descriptor, fed by a daemon thread.

    Unlike asyncio's pipes this works for files and on Windows, and unlike a thread pool it does not
    hold up the end of the process while nobody writes.
    """
    loop = asyncio.get_running_loop()
    reader = Input()

    def pump() -> None:
        try:
            while chunk := os.read(descriptor, _CHUNK):
                loop.call_soon_threadsafe(reader.feed_data, chunk)
            loop.call_soon_threadsafe(reader.feed_eof)
        except OSError:  # the descriptor is gone, which is an end too
            loop.call_soon_threadsafe(reader.feed_eof)
        except RuntimeError:  # the loop was closed first: nobody reads any more
            pass

    threading.Thread(target=pump, name="stdin", daemon=True).start()
    return reader


class Writer:
    """Whole messages to a binary stream; once the other side is gone, writing does nothing.

    The reader sees the end of its stream at the same time, which is what ends the server.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lost = False

    def write(self, data: bytes) -> None:
        """Write and flush."""
        if self._lost:
            return
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError:
            self._lost = True

    def close(self) -> None:
        """Part of the interface that pygls expects; the stream is its owner's to close."""
