"""A worker in a thread reads a request's body while it arrives, and neither keeps the other waiting for ever."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TypeVar
from unittest.mock import Mock

import pytest
from starlette.requests import Request
from starlette.types import Message

from pacs_server.web.threads import Threads
from pacs_server.web.uploads import BodyCutShort, _Body, consume

KIB = 1024
T = TypeVar("T")


class Client:
    """Sends pieces of a body; `sent` counts those that were asked for."""

    def __init__(self, *pieces: bytes, whole: bool = True) -> None:
        self._pieces = pieces
        self._whole = whole
        self.sent = 0

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        if self.sent < len(self._pieces):
            self.sent += 1
            more = self.sent < len(self._pieces) or not self._whole
            return {"type": "http.request", "body": self._pieces[self.sent - 1], "more_body": more}
        return {"type": "http.disconnect"}


def consumed(client: Client, work: Callable[[Iterator[bytes]], T]) -> T:
    return asyncio.run(consuming(client, work))


async def consuming(client: Client, work: Callable[[Iterator[bytes]], T]) -> T:
    request = Request({"type": "http", "method": "POST", "headers": []}, client.receive)
    return await consume(request, work, Threads(1))


@pytest.mark.parametrize("size", [1, 100 * KIB, 300 * KIB, pytest.param(3000 * KIB, marks=pytest.mark.slow)])
def test_all_pieces_come_in_their_order(size: int) -> None:
    pieces = [bytes([number]) * size for number in range(10)]
    assert consumed(Client(*pieces), b"".join) == b"".join(pieces)


def test_an_empty_body() -> None:
    assert consumed(Client(b""), list) == []


@pytest.mark.parametrize("size", [1, 1100 * KIB])
def test_what_came_before_the_client_went_away_is_handed_on(size: int) -> None:
    def work(pieces: Iterator[bytes]) -> int:
        found = [next(pieces), next(pieces)]
        with pytest.raises(BodyCutShort):
            next(pieces)
        return sum(map(len, found))

    assert consumed(Client(bytes(size), bytes(size), whole=False), work) == 2 * size


def test_no_more_is_read_than_may_wait() -> None:
    piece = bytes(64 * KIB)
    client = Client(*[piece] * 1000)
    seen = []

    async def slow() -> int:
        looked = asyncio.Event()
        loop = asyncio.get_running_loop()
        go_on = threading.Event()

        def work(pieces: Iterator[bytes]) -> int:
            next(pieces)
            loop.call_soon_threadsafe(looked.set)
            go_on.wait(60)
            return 1 + sum(1 for _ in pieces)

        waiting = asyncio.ensure_future(consuming(client, work))
        await looked.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        seen.append(client.sent)
        go_on.set()
        return await waiting

    assert asyncio.run(slow()) == 1000
    assert seen[0] <= 40  # two times a megabyte, and what came before the thread began


def test_a_worker_that_has_seen_enough_ends_the_request() -> None:
    client = Client(*[bytes(300 * KIB)] * 100)
    assert len(consumed(client, next)) == 300 * KIB
    assert client.sent < 100


@pytest.mark.parametrize("size", [1, 1100 * KIB])
def test_an_error_of_the_worker_is_passed_on(size: int) -> None:
    def work(pieces: Iterator[bytes]) -> None:
        next(pieces)
        raise ValueError("as the worker says")

    with pytest.raises(ValueError, match="as the worker says"):
        consumed(Client(*[bytes(size)] * 3), work)


def test_a_request_that_is_given_up_ends_its_worker() -> None:
    ended = []

    def work(pieces: Iterator[bytes]) -> None:
        try:
            for _ in pieces:
                pass
        except BodyCutShort as error:
            ended.append(str(error))
            raise

    async def given_up() -> None:
        client = Client(bytes(1100 * KIB), whole=False)
        begun = client.receive

        async def never() -> Message:
            return await begun() if client.sent == 0 else await asyncio.Future()

        client.receive = never  # type: ignore[method-assign]
        task = asyncio.ensure_future(consuming(client, work))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    assert ended == ["the request was given up"]


def test_what_was_read_of_a_body_that_is_cut_short_is_not_kept() -> None:
    class Read:
        pass

    def work() -> None:
        read = Read()
        seen.append(weakref.ref(read))
        list(body.pieces())

    seen: list[weakref.ref[Read]] = []
    body = _Body(Mock())
    body.put(b"x")
    body.end(BodyCutShort("the client went away"))
    gc.disable()
    try:
        with pytest.raises(BodyCutShort) as caught:
            work()
        del caught
        assert seen[0]() is None
    finally:
        gc.enable()
