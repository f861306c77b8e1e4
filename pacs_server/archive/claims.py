"""Who works on which SOP Instance UID, and the order in which files are sealed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Numbers:
    """Numbers that grow: also from one process to the next one, if the clock does not go back."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """A number that is higher than all before."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last


class Claims:
    """Lets one thread at a time work on a SOP Instance UID, from the first look to the commit."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._released = threading.Condition()

    @contextmanager
    def hold(self, uid: str) -> Iterator[None]:
        """Hold a UID until the block ends; waits until nobody else holds it."""
        with self._released:
            self._released.wait_for(lambda: uid not in self._held)
            self._held.add(uid)
        try:
            yield
        finally:
            with self._released:
                self._held.discard(uid)
                self._released.notify_all()
