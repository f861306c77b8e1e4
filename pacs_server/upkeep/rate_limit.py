"""A limit for the bytes that a task of maintenance moves in a second, so that the disk stays free for others."""

import time
from collections.abc import Iterable, Iterator


class RateLimit:
    """Keeps to `rate` bytes a second on average; None sets no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def spend(self, size: int) -> None:
        """Wait until `size` bytes more may move."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self._rate
        time.sleep(self._free_at - now)

    def over(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces, each as soon as it may move."""
        for piece in pieces:
            self.spend(len(piece))
            yield piece
