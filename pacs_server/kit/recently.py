"""What has happened within the last seconds, by key."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Recently:
    """Remembers keys for `seconds`, the latest `most` of them; may be shared by all threads."""

    def __init__(self, seconds: float, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._seen: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return self._clock() - self._seen.get(key, float("-inf")) < self._seconds

    def add(self, key: Hashable) -> None:
        """Remember a key from now on."""
        with self._lock:
            self._seen[key] = self._clock()
            self._seen.move_to_end(key)
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)
