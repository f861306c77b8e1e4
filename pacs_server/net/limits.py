"""How often one address may connect, how fast one association may move data, and whose turn it is in a storm.

The first two are token buckets: one holds so many tokens at most, fills at a steady rate, and what happens
takes tokens out of it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_ADDRESSES = 10_000
_FORGIVEN_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 5.0
# Of the latest in the running average.
_WEIGHT = 0.25

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


class Turns:
    """Has addresses whose connections come to nothing wait, so that others get the processor; any thread may ask.

    After such a connection `factor` times the processor time that it took goes by before another one from
    there begins, and those that come at once begin at that distance from each other. An address of which
    nothing bad was heard for a second is forgotten, and so is the one heard of first if there are too many.
    """

    def __init__(self, *, factor: float = 3.0, most: int = _MOST_ADDRESSES, clock: Clock = time.monotonic) -> None:
        self._factor = factor
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        # When the next connection may begin, and for how long the one after it has to wait for that one.
        self._next: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._next)

    def wait(self, address: str) -> float:
        """For how many seconds a connection from `address` has to wait; takes its turn."""
        if address not in self._next:
            return 0.0
        now = self._clock()
        with self._lock:
            begin, distance = self._next.get(address, (now, 0.0))
            if begin < now - _FORGIVEN_SECONDS:
                self._next.pop(address, None)
                return 0.0
            # Not for ever: peers behind one address may be many.
            begin = min(max(begin, now), now + _LONGEST_WAIT_SECONDS)
            self._next[address] = begin + distance, distance
            return begin - now

    def wasted(self, address: str, seconds: float) -> None:
        """Say that a connection from `address` came to nothing, and how much processor time it took."""
        now, wait = self._clock(), min(self._factor * seconds, _LONGEST_WAIT_SECONDS)
        with self._lock:
            begin, distance = self._next.pop(address, (now, wait))
            distance += _WEIGHT * (wait - distance)
            self._next[address] = max(begin, now + wait), distance
            if len(self._next) > self._most:
                self._next.popitem(last=False)


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
