"""Threads that wait for disks and databases, so that the event loop does not.

A step into a thread and back wakes two threads, which costs more than many a query: a request takes one such step if it
can. The threads are shared by all event loops, begin when they are needed, and end after some seconds without work.
"""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

from pacs_server.errors import ResourceLimitation

log = logging.getLogger(__name__)
T = TypeVar("T")
Settle = Callable[["asyncio.Future[Any]", Any], None]

NAME: Final = "web-thread"
_MOST_THREADS: Final = 40
# A thread without work ends after so many seconds.
_IDLE_SECONDS: Final = 10.0
_SOON_SECONDS: Final = 0.1
# How long a thread that is told to end may take until the processor gets to it, in seconds.
_END_SECONDS: Final = 5.0


class _Mailbox:
    """Brings what threads have done to one event loop, by an eventfd(2).

    asyncio's own way, `call_soon_threadsafe`, takes half as long again, and wakes the loop for each outcome anew.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._outcomes: deque[tuple[Settle, asyncio.Future[Any], Any]] = deque()
        self._told = False
        loop.add_reader(self._descriptor, self._deliver)

    def put(self, settle: "Settle", future: "asyncio.Future[Any]", outcome: object) -> None:
        """Have the loop settle a future; for any thread."""
        self._outcomes.append((settle, future, outcome))
        if not self._told:
            self._told = True
            os.eventfd_write(self._descriptor, 1)

    def _deliver(self) -> None:
        os.eventfd_read(self._descriptor)
        # Before the outcomes are taken: what comes after the last one tells again.
        self._told = False
        while self._outcomes:
            settle, future, outcome = self._outcomes.popleft()
            settle(future, outcome)

    def __del__(self) -> None:
        # The loop is gone, and so are all jobs for it.
        os.close(self._descriptor)


class _Job(NamedTuple):
    mailbox: _Mailbox
    future: "asyncio.Future[Any]"
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def outcome(self) -> Callable[[], None]:
        """Call the function; what tells the loop of it."""
        try:
            result = self.function(*self.arguments)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
            return partial(self.mailbox.put, _fail, self.future, error)
        return partial(self.mailbox.put, _succeed, self.future, result)


class _Inbox(SimpleQueue["_Job | None"]):
    """Where a thread without work gets its next job, or None if it is to end."""

    thread: threading.Thread


class Threads:
    """Runs functions in threads, `most` of them at a time, which may be changed; the others wait for their turn."""

    def __init__(self, most: int = _MOST_THREADS, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self.most = most
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._count = 0
        self._jobs: deque[_Job] = deque()
        # The inboxes of the threads without work. The last one that has worked comes first: the others may end.
        self._idle: list[_Inbox] = []
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()
        self._later: deque[Callable[[], object]] = deque()
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    def run(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """What the function returns or raises. Raises ResourceLimitation if there can be no thread."""
        loop = asyncio.get_running_loop()
        with self._lock:
            mailbox = self._mailboxes.get(loop)
            if mailbox is None:
                mailbox = self._mailboxes[loop] = _Mailbox(loop)
            job = _Job(mailbox, loop.create_future(), function, arguments)
            inbox = self._idle.pop() if self._idle else None
            starts = inbox is None and self._count < self.most
            if starts:
                self._count += 1
            elif inbox is None:
                self._jobs.append(job)
        if inbox is not None:
            inbox.put(job)
        elif starts:
            self._start(job)
        return job.future

    def soon(self, function: Callable[[], object]) -> None:
        """Call a function in a thread that has just done something else, or after a tenth of a second."""
        self._later.append(function)
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer[0] is not loop:
            self._timer = loop, loop.call_later(_SOON_SECONDS, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._later:
            self.run(self.catch_up)

    def catch_up(self) -> None:
        """Call the functions that wait to be called soon."""
        while self._later:
            with suppress(IndexError):  # another thread was faster
                function = self._later.popleft()
                try:
                    function()
                except Exception:
                    log.exception("work behind a request failed")

    def end_idle(self) -> None:
        """End the threads that have no work now; others begin when they are needed."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for inbox in idle:
            inbox.put(None)
        for inbox in idle:
            inbox.thread.join(_END_SECONDS)

    def _start(self, job: _Job) -> None:
        try:
            inbox = _Inbox()
            inbox.put(job)
            inbox.thread = threading.Thread(target=self._work, args=(inbox,), name=NAME, daemon=True)
            inbox.thread.start()
        except RuntimeError as error:
            with self._lock:
                self._count -= 1
                if self._count:
                    self._jobs.append(job)
                    return
            raise ResourceLimitation("there can be no more threads") from error

    def _work(self, inbox: _Inbox) -> None:
        job: _Job | None = inbox.get()
        while job is not None:
            tell = job.outcome()
            # Idle before the loop is told, so that what it asks next needs no other thread; not while there is more.
            busy = bool(self._later)
            job = None if busy else self._waiting(inbox)
            tell()
            # Nothing of a request stays in memory until the next one.
            del tell
            if busy:
                self.catch_up()
                job = self._waiting(inbox)
            job = job or self._next(inbox)

    def _waiting(self, inbox: _Inbox) -> _Job | None:
        """A job that waits; without one the thread is idle from now on, and gets the next one into its inbox."""
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            self._idle.append(inbox)
            return None

    def _next(self, inbox: _Inbox) -> _Job | None:
        """The next job of an idle thread; None if it has to end."""
        try:
            return inbox.get(timeout=self._idle_seconds)
        except Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    self._count -= 1
                    return None
            # A job is on its way, or the word to end.
            return inbox.get()


_threads: Final = Threads()


def in_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> Awaitable[T]:
    """What the function returns or raises, called in a thread. Raises ResourceLimitation if there can be none."""
    return _threads.run(partial(function, **options) if options else function, *arguments)


def end_idle_threads() -> None:
    """End the threads that have no work now, as when a port is closed."""
    _threads.end_idle()


def soon_in_thread(function: Callable[[], object]) -> None:
    """Call a function in a thread soon, without a thread being woken for it. What it raises is logged."""
    _threads.soon(function)


async def catch_up() -> None:
    """Return when all that was to be called soon is done."""
    await in_thread(_threads.catch_up)


async def iterate_in_threads(iterator: Iterator[T]) -> AsyncIterator[T]:
    """What an iterator gives, each step in a thread."""
    end = object()
    while (item := await in_thread(next, iterator, end)) is not end:
        yield cast(T, item)


def _succeed(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        # A future cannot hold a StopIteration.
        future.set_exception(RuntimeError("StopIteration") if isinstance(error, StopIteration) else error)
