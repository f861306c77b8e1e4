"""Threads apart from those that do everything else, for what strangers can make slow; few of them, and few may wait."""

from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from pacs_server.errors import ResourceLimitation

P = ParamSpec("P")
R = TypeVar("R")

_MOST_WAITING: Final = 32


class Lane:
    """Runs functions for the event loop, a few at a time."""

    def __init__(self, threads: int, *, waiting: int = _MOST_WAITING) -> None:
        self._limiter = CapacityLimiter(threads)
        self._most = threads + waiting
        self._under_way = 0

    async def run(self, function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """What the function gives, called in a thread. Raises ResourceLimitation if too many wait already."""
        if self._under_way >= self._most:
            raise ResourceLimitation("too many people log in at once, try again in a moment")
        self._under_way += 1
        try:
            return await anyio.to_thread.run_sync(partial(function, *args, **options), limiter=self._limiter)
        finally:
            self._under_way -= 1
