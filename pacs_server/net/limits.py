"""Limits against busy and hostile peers: connections per address, delays after useless connections, data rates.

`ConnectionRateLimiter` and `Throttle` are token buckets: a bucket holds a maximum number of tokens, fills at a
steady rate, and every connection or byte takes tokens out of it.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_ADDRESSES = 10_000
_FORGIVEN_SECONDS, _LONGEST_DELAY_SECONDS = 1.0, 5.0
# The weight of the latest connection in the running average of an address.
_LATEST_WEIGHT = 0.25

MonotonicClock = Callable[[], float]


class ConnectionRateLimiter:
    """A token bucket for each address, from which every connection takes one token. Thread-safe.

    An address whose bucket is full again is forgotten, and at most `most` addresses are remembered: during
    a flood of addresses the server forgets those that were quiet for longest, so memory stays bounded.
    """

    def __init__(self, *, most: int = _MOST_ADDRESSES, clock: MonotonicClock = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        # The tokens of each bucket and when they were counted; the address that connected last comes last.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, address: str, rate: float, burst: int) -> bool:
        """Whether one more connection from `address` is within `rate` a second and `burst` at once.

        A connection that is allowed takes a token.
        """
        now = self._clock()
        with self._lock:
            self._forget(now, rate, burst)
            tokens, counted = self._buckets.pop(address, (float(burst), now))
            tokens = min(burst, tokens + (now - counted) * rate)
            allowed = tokens >= 1
            self._buckets[address] = (tokens - allowed, now)
            return allowed

    def _forget(self, now: float, rate: float, burst: int) -> None:
        # Two addresses for each one that may be added, so that the table shrinks again after a flood.
        for _ in range(2):
            oldest = next(iter(self._buckets.values()), None)
            if oldest is None:
                return
            tokens, counted = oldest
            if tokens + (now - counted) * rate >= burst or len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)


class PenaltyQueue:
    """Delays new connections from addresses whose recent connections were useless. Thread-safe.

    After a useless connection, the next one from the same address waits `factor` times the processor time that
    useless connections from there cost on average. Connections that arrive together begin one after the other,
    that far apart. An address without a useless connection for a second is forgotten, and so are the ones seen
    first when there are more than `most`.
    """

    def __init__(
        self, *, factor: float = 3.0, most: int = _MOST_ADDRESSES, clock: MonotonicClock = time.monotonic
    ) -> None:
        self._factor = factor
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        # When the next connection of each address may begin, and how far apart its connections are.
        self._next: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._next)

    def delay(self, address: str) -> float:
        """How many seconds a connection from `address` has to wait before it begins; reserves its place."""
        if address not in self._next:
            return 0.0
        now = self._clock()
        with self._lock:
            begin, distance = self._next.get(address, (now, 0.0))
            if begin < now - _FORGIVEN_SECONDS:
                self._next.pop(address, None)
                return 0.0
            # The delay is limited, because many peers may share one address.
            begin = min(max(begin, now), now + _LONGEST_DELAY_SECONDS)
            self._next[address] = begin + distance, distance
            return begin - now

    def penalise(self, address: str, cpu_seconds: float) -> None:
        """Delay the next connections from `address`, because one was useless and cost `cpu_seconds`."""
        now, penalty = self._clock(), min(self._factor * cpu_seconds, _LONGEST_DELAY_SECONDS)
        with self._lock:
            begin, distance = self._next.pop(address, (now, penalty))
            distance += _LATEST_WEIGHT * (penalty - distance)
            self._next[address] = max(begin, now + penalty), distance
            if len(self._next) > self._most:
                self._next.popitem(last=False)


class Bucket:
    """Tokens for `rate` bytes a second, with a burst of one second's worth. May be shared by several threads."""

    def __init__(self, rate: int, *, clock: MonotonicClock = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._counted = clock()
        self._lock = threading.Lock()

    def take(self, size: int) -> float:
        """Count `size` bytes that were moved, and return how many seconds to wait until the rate allows them."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._rate, self._tokens + (now - self._counted) * self._rate) - size
            self._counted = now
            return max(0.0, -self._tokens / self._rate)


class Throttle:
    """Holds the data of one association to `rate` bytes a second, or together with others to that of a `bucket`.

    Used by one thread, which waits by calling `pause(seconds)`.
    """

    def __init__(
        self,
        rate: int,
        pause: Callable[[float], None],
        *,
        clock: MonotonicClock = time.monotonic,
        bucket: Bucket | None = None,
    ) -> None:
        self._pause = pause
        self._bucket = bucket or Bucket(rate, clock=clock)

    def spend(self, size: int) -> float:
        """Count `size` bytes that were moved, wait until the rate allows them, and return the seconds waited.

        Raises whatever `pause` raises.
        """
        wait = self._bucket.take(size)
        if wait:
            self._pause(wait)
        return wait
