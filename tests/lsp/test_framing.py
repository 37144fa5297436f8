"""`codellama_lsp.framing`: a client's slip costs at most its own message."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_lsp.framing import Input, read_message


async def bodies(stream: bytes) -> list[bytes]:
    reader = Input()
    reader.feed_data(stream)
    reader.feed_eof()
    found = []
    while (body := await read_message(reader)) is not None:
        found.append(body)
    return found


GOOD = b"Content-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    "stream",
    [
        GOOD,
        b"content-length: 2\r\n\r\n{}",
        b"Content-Length:2\n\n{}",
        b"Content-Length: 2\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n{}",
        b"Content-Length: 99999999999999\r\n\r\n" + GOOD,
        b"Content-Length: -1\r\n\r\n" + GOOD,
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + GOOD,
        b"\r\n\r\n" + GOOD,
        b"\x00\xff\xfe junk\r\n" + GOOD,
        b"x" * 200_000 + b"\r\n" + GOOD,
    ],
)
def test_a_message_is_found_behind_odd_bytes(stream: bytes) -> None:
    """Headers of any case, bare line feeds, junk and absurd lengths leave the server hearing."""
    assert asyncio.run(bodies(stream)) == [b"{}"]


@given(st.lists(st.binary()))
def test_messages_come_whole_and_in_order(messages: list[bytes]) -> None:
    """Any bodies, line breaks and empty ones included."""
    stream = b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in messages)
    assert asyncio.run(bodies(stream)) == messages


@pytest.mark.parametrize("wrong", [-15, -2, -1, 1, 2, 5, 17])
def test_a_wrong_length_costs_no_more_than_the_next_message(wrong: int) -> None:
    """Bodies have no line break behind them: the next header is found behind what is left of one."""
    body = b'{"method": "x"}'
    stream = b"Content-Length: %d\r\n\r\n%s" % (len(body) + wrong, body) + 3 * GOOD
    assert asyncio.run(bodies(stream))[-2:] == [b"{}", b"{}"]


def test_a_message_cut_short_is_the_end() -> None:
    """The stream ended inside a message: there is nothing to answer."""
    assert asyncio.run(bodies(GOOD + b"Content-Length: 9\r\n\r\n{}")) == [b"{}"]
