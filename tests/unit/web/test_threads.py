"""Threads for what blocks: what comes back, how many there are, and when they end."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest
from servers import eventually

from pacs_server.errors import ResourceLimitation
from pacs_server.web.threads import Threads, iterate_in_threads


def test_a_result_and_an_error_come_back() -> None:
    async def ask() -> None:
        threads = Threads()
        assert await threads.run(pow, 2, 5) == 32
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        with pytest.raises(RuntimeError):
            await threads.run(next, iter(()))

    asyncio.run(ask())


def test_no_more_functions_run_at_a_time_and_all_have_their_turn() -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def work(number: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if number < 3:
            together.wait(60)
        with lock:
            under_way -= 1
        return number

    async def ask() -> list[int]:
        threads = Threads(3, idle_seconds=0.01)
        return await asyncio.gather(*(threads.run(work, number) for number in range(20)))

    assert asyncio.run(ask()) == list(range(20))
    assert most == 3


def test_one_thread_serves_one_request_after_the_other_and_ends_when_there_are_none() -> None:
    async def ask() -> tuple[set[int], Threads]:
        threads = Threads(idle_seconds=0.2)
        return {await threads.run(threading.get_ident) for _ in range(50)}, threads

    idents, threads = asyncio.run(ask())
    assert len(idents) == 1
    assert eventually(lambda: idents.isdisjoint(thread.ident for thread in threading.enumerate()))

    async def again() -> int:
        return await threads.run(abs, -1)

    assert asyncio.run(again()) == 1


def test_without_a_thread_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask() -> None:
        threads = Threads()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(ResourceLimitation):
                await threads.run(abs, -1)
        assert await threads.run(abs, -1) == 1

    asyncio.run(ask())


def test_a_thread_that_does_nothing_keeps_nothing_of_a_request_in_memory() -> None:
    class Large:
        pass

    gone = threading.Event()

    def make() -> Large:
        made = Large()
        weakref.finalize(made, gone.set)
        return made

    async def ask() -> None:
        threads = Threads()
        await threads.run(make)

    asyncio.run(ask())
    assert eventually(gone.is_set)


def test_an_iterator_is_read_step_by_step() -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    async def ask() -> list[int]:
        return [number async for number in iterate_in_threads(numbers())]

    assert asyncio.run(ask()) == [1, 2, 3]


def test_what_is_to_be_done_soon_is_done_behind_other_work_or_a_little_later(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def ask() -> None:
        threads = Threads(idle_seconds=0.01)
        threads.soon(lambda: done.append("behind"))
        threads.soon(lambda: 1 // 0)
        threads.soon(lambda: done.append("after a fault"))
        assert await threads.run(len, done) == 0
        while len(done) < 2:
            await asyncio.sleep(0.001)
        threads.soon(lambda: done.append("later"))
        while len(done) < 3:
            await asyncio.sleep(0.001)
        threads.soon(lambda: done.append("at once"))
        await threads.run(threads.catch_up)
        assert done == ["behind", "after a fault", "later", "at once"]

    asyncio.run(asyncio.wait_for(ask(), 10))
    assert "work behind a request failed" in caplog.text
    done.clear()

    async def another_loop() -> None:
        threads.soon(lambda: done.append("again"))
        while not done:
            await asyncio.sleep(0.001)

    # A timer of a loop that has ended keeps nothing from being done.
    threads = Threads(idle_seconds=0.01)

    async def leave() -> None:
        threads.soon(lambda: done.append("left"))

    asyncio.run(leave())
    asyncio.run(asyncio.wait_for(another_loop(), 10))
    assert eventually(lambda: done == ["left", "again"])


def test_nothing_stays_open_when_a_loop_has_ended() -> None:
    async def ask(threads: Threads) -> None:
        assert await asyncio.gather(*(threads.run(abs, -number) for number in range(30))) == list(range(30))

    threads = Threads(idle_seconds=0.05)
    asyncio.run(ask(threads))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        asyncio.run(ask(threads))
    gc.collect()
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_threads_without_work_can_be_ended_at_once() -> None:
    async def ask(threads: Threads) -> threading.Thread:
        return await threads.run(threading.current_thread)

    threads = Threads()
    first = asyncio.run(ask(threads))
    assert eventually(lambda: threads._idle)
    threads.end_idle()
    assert not first.is_alive()
    assert asyncio.run(ask(threads)) is not first
    threads.end_idle()
