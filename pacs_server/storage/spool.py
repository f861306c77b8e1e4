"""What the archive asks of the disk on which it receives: files on their way in, what a crash left, and quarantine."""

from collections.abc import Iterator
from typing import Protocol

from pacs_server.storage.contract import Bytes, ByteSource, Readable


class IncomingFile(Readable, Protocol):
    """A file that is being received; nobody sees it until it is placed."""

    def write(self, data: Bytes) -> None:
        """Append `data`. Raises StorageFull and StorageUnavailable."""

    def settled(self) -> None:
        """The row of the placed file is committed, so the spool may forget that the file was on its way; never raises.

        The spool may do so at once or later, but not before the row is durable.
        """

    def discard(self) -> None:
        """Remove the file unless it was placed; never raises.

        A file that was placed and not settled stays on the list of what recovery looks at after a crash.
        """


class Leftover(Protocol):
    """A file that a process which is dead now left on its way in."""

    @property
    def name(self) -> str:
        """How the log calls the file."""

    @property
    def size(self) -> int:
        """The bytes that were received; 0 if the file was moved away."""

    @property
    def placed(self) -> bool:
        """Whether the file was placed; its sender may have been told of success only if it was."""

    @property
    def key(self) -> str | None:
        """The key under which the file was placed; None if it was not, or if the spool does not know the key."""

    def open(self) -> ByteSource:
        """Open the file to read; raises as `Storage.open`."""

    def is_stored_as(self, key: str) -> bool:
        """Whether the object under `key` is this very file."""

    def quarantine(self, reason: str) -> str:
        """Move the file into quarantine; raises and returns as `Quarantine.add`."""

    def remove(self) -> None:
        """Forget the file, which stays stored if it was placed. Raises StorageUnavailable."""


class Spool(Protocol):
    """Receives files and places them in the storage; knows after a crash what was on its way.

    A file goes through `receive`, `place`, and then either `settled` when its row is committed, or `take_back`.
    Recovery goes through `leftovers`, whatever the number of objects in the storage.
    """

    min_free_space: int

    def prepare(self) -> None:
        """Make what the spool needs on its disk. Raises StorageUnavailable."""

    def close(self) -> None:
        """Receive nothing more; what is on its way now is a leftover for others. The spool may be used again."""

    def receive(self) -> IncomingFile:
        """Begin a file. Raises StorageFull below `min_free_space` bytes of free space, and StorageUnavailable."""

    def place(self, file: IncomingFile, key: str) -> None:
        """Store `file` under `key`: when this returns, the object can be read there and survives a power loss.

        Never overwrites: raises ObjectExists if an object is stored there; also StorageFull and StorageUnavailable,
        and then the file is not placed.
        """

    def take_back(self, file: IncomingFile, key: str) -> None:
        """Undo the placement of `file` under `key`; it may be placed again. Raises StorageUnavailable."""

    def is_in_flight(self, key: str) -> bool:
        """Whether somebody has placed the object under `key` and its row is not settled. Raises StorageUnavailable.

        Looks at what is on its way only, not at the storage.
        """

    def leftovers(self) -> Iterator[Leftover]:
        """What dead processes left, each to one caller only at a time. Raises StorageUnavailable."""

    def make_durable(self, key: str) -> None:
        """Have an object survive a power loss, whoever put it there and how. Raises StorageUnavailable."""

    def count(self) -> int:
        """How many files are on their way in or were left there. Raises StorageUnavailable."""

    def free_bytes(self) -> int:
        """Free space for what comes in, in bytes. Raises StorageUnavailable."""

    def total_bytes(self) -> int:
        """The size of the disk, in bytes. Raises StorageUnavailable."""

    def problem(self) -> str | None:
        """Why nothing can be received, as far as the disk tells; None if it tells nothing."""


class Quarantine(Protocol):
    """Where files go that nobody can use and that are not removed, each with a reason."""

    def add(self, key: str, reason: str) -> str:
        """Move an object out of the storage into quarantine; returns how it is called there.

        Raises StorageUnavailable and StorageFull.
        """

    def sync(self) -> None:
        """Make durable what a process that was killed moved into quarantine. Raises StorageUnavailable."""

    def count(self) -> int:
        """How many files are in quarantine. Raises StorageUnavailable."""
