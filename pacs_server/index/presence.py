"""Who runs the tasks of an embedded database: the first process that comes knows that no other one does."""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Presence:
    """Held by each process that runs tasks, by a lock on a file beside the database; the last one removes the file.

    A process that ends, however it does, is not there any more.
    """

    def __init__(self, database: Path | None) -> None:
        """Without a `database` file nobody knows of the others."""
        self._path = database and database.with_name(f"{database.name}-workers")
        self._descriptor: int | None = None

    def enter(self, alone: Callable[[], object]) -> None:
        """Be there from now on. Before that call `alone` if nobody is, and let nobody in until it returns."""
        # A file system may have no locks, or the directory may not be writable: then nobody is known to be alone.
        with suppress(OSError):
            while self._path is not None and not self._is_in_place(self._path):
                self.leave()
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._enter(self._descriptor, alone)

    def leave(self) -> None:
        """Be there no more."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self._path is None:
            return
        with suppress(OSError):
            if _is_alone(descriptor) and _is_file(descriptor, self._path):
                self._path.unlink()
        os.close(descriptor)

    def _enter(self, descriptor: int, alone: Callable[[], object]) -> None:
        try:
            if _is_alone(descriptor):
                alone()
        finally:
            # Another one that comes in between is alone as well: nobody has begun.
            fcntl.flock(descriptor, fcntl.LOCK_SH)

    def _is_in_place(self, path: Path) -> bool:
        """Whether the file is locked, and still the one that others will find."""
        return self._descriptor is not None and _is_file(self._descriptor, path)


def _is_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
