"""The entries of `incoming/`: one for each file that is on its way into the archive, until its row is committed.

An entry is a hard link to the file, from its first byte until its row is durable. So after a crash, recovery
looks at the entries of `incoming/` and at nothing else. Each process has names of its own there, and holds a lock on a
file beside them for as long as it lives: a process ID may be used again, and hosts may share the storage.
"""

import fcntl
import itertools
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from pacs_server.errors import StorageUnavailable
from pacs_server.kit.private_files import sync_directory
from pacs_server.storage.filesystem.lock import NO_LOCKS

FILE: Final = ".part"
# On a file system without hard links this file holds the key to which the file of the same name was moved.
MOVED: Final = ".moved"
_LOCK: Final = ".lock"
_TRIES: Final = 100
# So long at most a process holds the lock of a dead one to see that it is dead.
_LOOK_SECONDS: Final = 0.05
_OWNER: Final = re.compile(r"(?P<host>.+?)-(?P<pid>\d+)(-r[0-9a-f]{8})?")


class IncomingJournal:
    """The entries in one directory; shared by all threads."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.directory = directory
        self._fsync = fsync
        self._numbers = itertools.count()
        self._owner: str | None = None
        self._lock = -1
        self._opening = threading.Lock()

    def entry(self) -> str:
        """The path of a new entry, whose name nobody else has. Raises OSError."""
        self._show()
        return f"{self.directory}/{self._owner}-{next(self._numbers)}{FILE}"

    def _show(self) -> None:
        """Let other processes see this one, by its lock."""
        if self._owner is None:
            with self._opening:
                if self._owner is None:
                    self._owner = self._begin()

    def passing_entries(self, number: int) -> list[str]:
        """Paths of entries that their maker removes at once; if it is killed before, recovery does."""
        owner = _new_owner()
        return [f"{self.directory}/{owner}-{each}{FILE}" for each in range(number)]

    def close(self) -> None:
        """Release the lock; the next process recovers the entries that are left."""
        with self._opening:
            if self._owner is None:
                return
            if not self._entries_of(self._owner):
                self._lock_file(self._owner).unlink(missing_ok=True)
            os.close(self._lock)
            self._owner, self._lock = None, -1

    @contextmanager
    def abandoned(self) -> Iterator[list[Path]]:
        """The entries of dead processes, which no other process gets before the block ends."""
        with ExitStack() as taken_over:
            owners = self._others()
            dead = [owner for owner in owners if taken_over.enter_context(self._taken_over(owner))]
            if len(dead) < len(owners):
                # Another process may just have looked whether they are alive, and have held their locks for that.
                time.sleep(_LOOK_SECONDS)
                rest = (owner for owner in owners if owner not in dead)
                dead += [owner for owner in rest if taken_over.enter_context(self._taken_over(owner))]
            yield [path for owner in dead for path in self._entries_of(owner)]

    def entries(self) -> list[Path]:
        """The entries of all processes."""
        return [self.directory / name for name in os.listdir(self.directory) if name.endswith((FILE, MOVED))]

    def is_shared(self) -> bool:
        """Whether another process that is alive holds a lock here. This one does so too from now on."""
        # Of two that begin at the same time at least one sees the other.
        self._show()
        return any(not self._is_dead(owner) for owner in self._others())

    def _others(self) -> list[str]:
        owners = {_owner_of(name) for name in os.listdir(self.directory)}
        return sorted(owner for owner in owners if owner is not None and owner != self._owner)

    def _is_dead(self, owner: str) -> bool:
        with self._taken_over(owner) as dead:
            return dead

    def _begin(self) -> str:
        for _ in range(_TRIES):
            owner = _new_owner()
            descriptor = os.open(self._lock_file(owner), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # A process that recovers may have seen the file before it was locked, and removed it.
                if _locked(descriptor) is not False and os.fstat(descriptor).st_nlink:
                    if self._fsync:
                        # An entry without its lock file, after a power loss, would not tell that its owner is dead.
                        sync_directory(self.directory)
                    self._lock = descriptor
                    return owner
            except OSError:
                self._lock_file(owner).unlink(missing_ok=True)
                raise
            finally:
                if self._lock != descriptor:
                    os.close(descriptor)
        raise StorageUnavailable(f"no lock to be had in {self.directory}")

    @contextmanager
    def _taken_over(self, owner: str) -> Iterator[bool]:
        """Whether `owner` is dead; if so, nobody else takes its entries over before the block ends."""
        path = self._lock_file(owner)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield _dead_here(owner)
            return
        try:
            locked = _locked(descriptor)
            yield _dead_here(owner) if locked is None else locked
            if locked and not self._entries_of(owner):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _entries_of(self, owner: str) -> list[Path]:
        return sorted(path for path in self.entries() if _owner_of(path.name) == owner)

    def _lock_file(self, owner: str) -> Path:
        return self.directory / f"{owner}{_LOCK}"


def _new_owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-r{secrets.token_hex(4)}"


def _owner_of(name: str) -> str | None:
    """The owner of a file in the directory; None for a file of another kind."""
    stem, extension = os.path.splitext(name)
    owner = stem if extension == _LOCK else stem.rpartition("-")[0]
    ours = extension in (FILE, MOVED, _LOCK) and _OWNER.fullmatch(owner)
    return owner if ours else None


def _locked(descriptor: int) -> bool | None:
    """Lock an open file; False if somebody else has it, None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _dead_here(owner: str) -> bool:
    """Whether `owner` was a process of this host that has ended, told without a lock."""
    found = _OWNER.fullmatch(owner)
    if found is None or found["host"] != socket.gethostname():
        return False
    pid = int(found["pid"])
    if pid == os.getpid():
        return True
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
    return False
