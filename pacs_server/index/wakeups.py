"""Waking those that wait for commits: within this process, and on PostgreSQL across processes."""

import threading


class Wakeups:
    """Counts commits that changed the archive, and wakes threads that wait for the next one; thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How many wake-ups there were so far; read it before you look at what there is, and pass it to `wait`."""
        return self._count

    def signal(self) -> None:
        """Wake everybody."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> bool:
        """Wait until there was a wake-up after the first `seen` ones; False if there is none in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count != seen, seconds)
