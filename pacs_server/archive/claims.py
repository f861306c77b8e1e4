"""Who works on which SOP Instance UID, and the order in which files are sealed."""

import threading
import time


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
        self._lock = threading.Lock()
        self._released = threading.Condition(self._lock)
        self._waiting = 0

    def hold(self, uid: str) -> "Claim":
        """Hold a UID for a `with` block; waits until nobody else holds it."""
        return Claim(self, uid)

    def take(self, uid: str) -> None:
        """Hold a UID until it is released."""
        with self._lock:
            if uid in self._held:
                self._waiting += 1
                try:
                    self._released.wait_for(lambda: uid not in self._held)
                finally:
                    self._waiting -= 1
            self._held.add(uid)

    def release(self, uid: str) -> None:
        """Let others hold a UID."""
        with self._lock:
            self._held.discard(uid)
            if self._waiting:
                self._released.notify_all()


class Claim:
    """The hold on a UID for one `with` block."""

    __slots__ = ("_claims", "_uid")

    def __init__(self, claims: Claims, uid: str) -> None:
        self._claims = claims
        self._uid = uid

    def __enter__(self) -> None:
        self._claims.take(self._uid)

    def __exit__(self, *_: object) -> None:
        self._claims.release(self._uid)
