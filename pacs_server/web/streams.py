"""Answers that are made while they are sent, in pieces, whatever their size."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final, Protocol, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pacs_server.errors import StorageUnavailable
from pacs_server.web.threads import in_thread

Piece = bytes | tuple[bytes, ...]
"""Bytes of a body, or several in a row that are sent together."""

# Larger pieces cost more memory and no less time.
PIECE: Final = 256 * 1024
# After so many bytes of an answer other connections have their turn.
_IN_A_ROW: Final = 4 * PIECE


class Source(Protocol):
    """Something stored that is open to be read."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on; fewer where they end. May wait for a disk. Raises StorageUnavailable."""

    def cached(self, offset: int, length: int) -> bytes | bytearray | None:
        """Bytes from `offset` on that are in memory; None if there are none."""


async def pieces(source: Source, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
    """The bytes from `start` to `stop` in pieces: at once if they are in memory, else by a thread that may wait.

    Raises StorageUnavailable, also if the source ends before `stop`.
    """
    end = source.size if stop is None else stop
    while start < end:
        length = min(PIECE, end - start)
        piece = source.cached(start, length) or await in_thread(source.read, start, length)
        if not piece:
            raise StorageUnavailable("the stored object is shorter than the index says")
        # Nobody changes a bytearray that was read for this answer only.
        yield cast(bytes, piece)
        start += len(piece)


async def pieces_of(
    source: Source, ranges: Iterable[tuple[int, int]], start: int = 0, stop: int = sys.maxsize
) -> AsyncIterator[bytes]:
    """The bytes from `start` to `stop` of what lies at several ranges of a source, each an offset and a length.

    Raises StorageUnavailable.
    """
    position = 0
    for offset, length in ranges:
        first, last = max(start - position, 0), min(stop - position, length)
        if first < last:
            async for piece in pieces(source, offset + first, offset + last):
                yield piece
        position += length


class PiecewiseResponse(Response):
    """An answer whose body comes in pieces. With `length` it has a Content-Length, else it is chunked.

    If a piece cannot be had, the connection is cut, so that the client notices. For HEAD only the headers are sent.
    """

    def __init__(
        self,
        body: AsyncIterator[Piece],
        media_type: str,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`close` is called at the end, also if the body was never asked for."""
        self._pieces = body
        self._close = close
        self.status_code = status_code
        self.media_type = media_type
        self.background = None
        # Not init_headers of the base class, which would add the charset to types that have none.
        told = {**(headers or {}), "content-type": media_type}
        if length is not None:
            told["content-length"] = str(length)
        self.raw_headers = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in told.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; raises what `body` raises."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            if scope["method"] != "HEAD":
                since = 0
                async for piece in self._pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    since += sum(map(len, piece)) if isinstance(piece, tuple) else len(piece)
                    if since >= _IN_A_ROW:
                        # What is in memory can be sent without waiting: others have to get their turn all the same.
                        since = 0
                        await asyncio.sleep(0)
        finally:
            self._close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
