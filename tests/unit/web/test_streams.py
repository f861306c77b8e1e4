"""Answers that are made while they are sent."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pacs_server.errors import StorageUnavailable
from pacs_server.web.streams import PIECE, PiecewiseResponse, pieces, pieces_of


class InMemory:
    """A source whose bytes are in memory, up to `there`."""

    def __init__(self, size: int, there: int) -> None:
        self.size = size
        self._there = there

    def read(self, offset: int, length: int) -> bytes:
        return bytes(max(0, min(length, self._there - offset)))

    def cached(self, offset: int, length: int) -> bytes | None:
        return self.read(offset, length) or None


async def _sent(source: InMemory, method: str = "GET") -> tuple[list[dict[str, Any]], int, int]:
    """The messages of an answer, how often something else had its turn meanwhile, and how often it was closed."""
    messages: list[dict[str, Any]] = []
    turns = closed = 0

    async def send(message: Any) -> None:
        messages.append(message)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def close() -> None:
        nonlocal closed
        closed += 1

    task = asyncio.ensure_future(others())
    body: AsyncIterator[bytes] = pieces(source)
    response = PiecewiseResponse(body, "a/b", length=source.size, close=close)
    try:
        await response({"type": "http", "method": method}, None, send)  # type: ignore[arg-type]
    finally:
        task.cancel()
    return messages, turns, closed


def test_others_have_their_turn_while_bytes_in_memory_are_sent() -> None:
    messages, turns, closed = asyncio.run(_sent(InMemory(64 * PIECE, 64 * PIECE)))
    assert sum(len(message.get("body", b"")) for message in messages) == 64 * PIECE
    assert turns >= 16
    assert closed == 1


def test_a_head_request_is_sent_no_body() -> None:
    messages, _, closed = asyncio.run(_sent(InMemory(PIECE, PIECE), "HEAD"))
    assert [message.get("body", b"") for message in messages] == [b"", b""]
    assert (b"content-length", str(PIECE).encode()) in messages[0]["headers"]
    assert closed == 1


def test_a_source_that_ends_early_ends_the_answer() -> None:
    with pytest.raises(StorageUnavailable, match="shorter"):
        asyncio.run(_sent(InMemory(3 * PIECE, 2 * PIECE)))


class Letters:
    """A source of a few bytes, which are read by a thread if they are upper case."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def cached(self, offset: int, length: int) -> bytes | None:
        found = self.read(offset, length)
        return None if found.isupper() else found


@pytest.mark.parametrize(
    ("part", "found"),
    [((), b"cdGHb"), ((0, 5), b"cdGHb"), ((1, 3), b"dG"), ((2, 2), b""), ((3, 9), b"Hb"), ((5,), b"")],
)
def test_a_part_of_what_lies_at_several_places(part: tuple[int, ...], found: bytes) -> None:
    async def read() -> bytes:
        return b"".join([piece async for piece in pieces_of(Letters(b"abcdefGHij"), [(2, 2), (6, 2), (1, 1)], *part)])

    assert asyncio.run(read()) == found
