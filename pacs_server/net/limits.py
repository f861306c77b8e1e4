"""Token buckets: how often one address may connect, and how fast one association may move data.

A bucket holds so many tokens at most, fills at a steady rate, and what happens takes tokens out of it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_ADDRESSES = 10_000

Clock = Callable[[], float]


class AddressRates:
    """A bucket for each address, that a connection takes a token from; any thread may ask.

    An address whose bucket is full again is forgotten, and at most `most` are remembered: a flood of
    addresses makes the server forget the ones that were quiet for longest, and costs no memory.
    """

    def __init__(self, *, most: int = _MOST_ADDRESSES, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        # Tokens in the bucket, and when they were counted; who came last stands last.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, address: str, rate: float, burst: int) -> bool:
        """Whether one more from `address` is within `rate` a second, `burst` at once; takes a token if so."""
        now = self._clock()
        with self._lock:
            self._forget(now, rate, burst)
            tokens, counted = self._buckets.pop(address, (float(burst), now))
            tokens = min(burst, tokens + (now - counted) * rate)
            allowed = tokens >= 1
            self._buckets[address] = (tokens - allowed, now)
            return allowed

    def _forget(self, now: float, rate: float, burst: int) -> None:
        # Two for each one that may be added, so that the table shrinks again after a flood.
        for _ in range(2):
            oldest = next(iter(self._buckets.values()), None)
            if oldest is None:
                return
            tokens, counted = oldest
            if tokens + (now - counted) * rate >= burst or len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)


class Pace:
    """A rate in bytes a second, a second's worth of it at once; for one thread, which waits by `pause(seconds)`."""

    def __init__(self, rate: int, pause: Callable[[float], None], *, clock: Clock = time.monotonic) -> None:
        self._rate = rate
        self._pause = pause
        self._clock = clock
        self._tokens = float(rate)
        self._counted = clock()

    def keep(self, size: int) -> float:
        """Count `size` bytes that were moved, wait until they are paid for, and return for how many seconds.

        Raises what `pause` raises.
        """
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._counted) * self._rate) - size
        self._counted = now
        wait = max(0.0, -self._tokens / self._rate)
        if wait:
            self._pause(wait)
        return wait
