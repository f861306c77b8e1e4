"""Tests marked `alone` run while no other test does, however many workers pytest-xdist has."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Room:
    """The room in which all tests of a run take place, for one worker of several."""

    def __init__(self, directory: Path) -> None:
        """All workers of a run give the same directory."""
        flags = os.O_RDONLY | os.O_CREAT
        self._door, self._room = (os.open(directory / name, flags, 0o600) for name in ("door", "room"))

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        """A test runs within, beside those of other workers, or beside none of them."""
        # Everybody comes through the door. Without it those who share the room would overtake one who waits for it.
        with _locked(self._door, fcntl.LOCK_EX):
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)


@contextmanager
def _locked(file: int, how: int) -> Iterator[None]:
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
