"""Request bodies as a worker in a thread reads them, while they arrive on the event loop.

The loop never waits for the worker but by not asking for more: then the kernel's buffers fill up, and the client waits.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from pacs_server.web.threads import Threads

# As much may wait for the worker, and as much again may be in its hands.
_WAITING: Final = 1024 * 1024
# A thread is not kept waiting for the first bytes, and not at all for a body that is no longer than this.
_AT_ONCE: Final = 1024 * 1024

T = TypeVar("T")


class BodyCutShort(Exception):
    """The client has gone, or the request was given up, before the body was complete."""


async def consume(request: Request, work: Callable[[Iterator[bytes]], T], threads: Threads) -> T:
    """What `work` makes of the body, which it gets in pieces, in a thread; it need not read all of it.

    If the client goes away the pieces end with BodyCutShort.
    """
    body, stream = _Body(asyncio.get_running_loop()), request.stream()
    await _read(stream, body, _AT_ONCE)
    if body.ended:
        return await threads.run(work, body.pieces())
    worker = asyncio.ensure_future(threads.run(work, body.pieces()))
    reader = asyncio.ensure_future(_read(stream, body))
    try:
        await asyncio.wait((worker, reader), return_when=asyncio.FIRST_COMPLETED)
        return await asyncio.shield(worker)
    except asyncio.CancelledError:
        body.end(BodyCutShort("the request was given up"))
        await asyncio.wait((worker,))
        raise
    finally:
        reader.cancel()
        await asyncio.wait((reader,))


async def _read(stream: AsyncGenerator[bytes, None], body: "_Body", most: int = 0) -> None:
    """Hand the body over as it arrives; with `most`, until so many bytes have come."""
    try:
        async for piece in stream:
            if piece:
                body.put(piece)
            if not most:
                await body.room()
            elif body.size >= most:
                return
    except ClientDisconnect:
        body.end(BodyCutShort("the client went away"))
    except BaseException:
        body.end(BodyCutShort("the request was given up"))
        raise
    body.end(None)


class _Body:
    """What has arrived of a body and waits for the worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self.size = 0
        self.ended = False
        self._error: Exception | None = None
        self._room = asyncio.Event()
        self._room.set()

    def put(self, piece: bytes) -> None:
        """Hand a piece over."""
        with self._changed:
            self._waiting.append(piece)
            self.size += len(piece)
            if self.size >= _WAITING:
                self._room.clear()
            self._changed.notify()

    async def room(self) -> None:
        """Wait while enough waits for the worker."""
        await self._room.wait()

    def end(self, error: Exception | None) -> None:
        """Say that nothing more comes, the first time; with `error` the pieces end with it."""
        with self._changed:
            if not self.ended:
                self.ended, self._error = True, error
            self._changed.notify()

    def pieces(self) -> Iterator[bytes]:
        """The pieces, in the worker."""
        while pieces := self._take():
            yield from pieces
        if self._error is not None:
            try:
                raise self._error
            finally:
                # Its traceback leads here, so that all that its frames hold would stay until the collector comes.
                self._error = None

    def _take(self) -> list[bytes]:
        """All that waits; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.ended)
            taken, self._waiting = self._waiting, []
            full, self.size = self.size >= _WAITING, 0
        if full:
            self._loop.call_soon_threadsafe(self._room.set)
        return taken
