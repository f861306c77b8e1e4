"""What the archive asks of the disk on which it receives: files on their way in, what a crash left, and quarantine."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pacs_server.storage.contract import Bytes, ByteSource, Readable


@dataclass(frozen=True, slots=True)
class Stamp:
    """Bytes at `offset` of a file that say that it is whole, and those of the same length that do not."""

    offset: int
    whole: bytes
    blank: bytes


class IncomingFile(Readable, Protocol):
    """A file that is being received; nobody sees it until it is placed."""

    def write(self, data: Bytes) -> None:
        """Append `data`. Raises StorageFull and StorageUnavailable."""

    def settled(self) -> None:
        """The row of the placed file is durable, so the spool may forget that the file was on its way; never raises."""

    def is_listed(self) -> bool:
        """Whether recovery would find the file after a crash."""

    def discard(self) -> None:
        """Remove the file unless it was placed; never raises.

        A file that was placed and not settled stays on the list of what recovery looks at after a crash.
        """


class Leftover(Protocol):
    """A file that another process has on its way in, or that a process which is dead now left there."""

    @property
    def name(self) -> str:
        """How the log calls the file."""

    @property
    def size(self) -> int:
        """The bytes that were received; 0 if nothing was, or if the file was moved away."""

    @property
    def placed(self) -> bool:
        """Whether the file is in the storage, as far as the disk has kept that.

        Unless its stamp says that it is whole, its sender may have been told of success only if it was placed.
        """

    @property
    def key(self) -> str | None:
        """The key under which the file was placed; None if it was not, or if the spool does not know the key."""

    def open(self) -> ByteSource:
        """Open the file to read; raises as `Storage.open`."""

    def is_stored_as(self, key: str) -> bool:
        """Whether the object under `key` is this very file."""

    def quarantine(self, reason: str) -> str:
        """Move the file into quarantine; raises and returns as `Quarantine.add`."""


class Spool(Protocol):
    """Receives files and places them in the storage; knows after a crash what was on its way.

    A file goes through `receive`, `place`, and then either `settled` when its row is durable, or `take_back`.
    Recovery goes through `leftovers`, whatever the number of objects in the storage.

    A spool with `slots` has the names of its files durable before anything is received: then a stamped file that is on
    its way survives a power loss by itself, and its final name need not be durable before `sync_names` and `retire`.
    """

    min_free_space: int

    @property
    def slots(self) -> bool:
        """Whether `place` may leave the final name for later."""

    def prepare(self) -> None:
        """Make what the spool needs on its disk. Raises StorageUnavailable."""

    def close(self) -> None:
        """Receive nothing more; what is on its way now is a leftover for others. The spool may be used again."""

    def receive(self) -> IncomingFile:
        """Begin a file. Raises StorageFull below `min_free_space` bytes of free space, and StorageUnavailable."""

    def place(self, file: IncomingFile, key: str, stamp: Stamp | None = None, *, name_later: bool = False) -> None:
        """Store `file` under `key`: when this returns, the object can be read there and survives a power loss.

        `stamp` is written before the file is synced. With `name_later`, which needs `slots` and a stamp, the object
        survives as a leftover, and its name once `sync_names` has returned. Never overwrites: raises ObjectExists if an
        object is stored there; also StorageFull and StorageUnavailable. Then the file is neither placed nor stamped.
        """

    def take_back(self, file: IncomingFile, key: str, stamp: Stamp | None = None) -> None:
        """Undo the placement of `file` under `key`, and the stamp; it may be placed again.

        Raises StorageFull, StorageUnavailable.
        """

    def restamp(self, file: IncomingFile, stamp: Stamp) -> None:
        """Write another stamp into a file that was placed, durably. Raises StorageFull, StorageUnavailable."""

    def sync_names(self, keys: Collection[str]) -> None:
        """Have the names of placed objects survive a power loss. Raises StorageUnavailable."""

    def retire(self, entries: Iterable["IncomingFile | Leftover"]) -> None:
        """Forget durably that files were on their way, and all that was forgotten before. Raises StorageUnavailable."""

    def placed(self) -> Iterator[Leftover]:
        """What is placed and not settled, of all processes, dead and alive; it may be opened, compared and retired.

        Raises StorageUnavailable.
        """

    def is_shared(self) -> bool:
        """Whether another process that is alive has asked so or received files here. Raises StorageUnavailable."""

    def is_in_flight(self, key: str) -> bool:
        """Whether somebody has placed the object under `key` and its row is not settled. Raises StorageUnavailable.

        Looks at what is on its way only, not at the storage.
        """

    def leftovers(self) -> AbstractContextManager[list[Leftover]]:
        """What dead processes left; nobody else gets it before the block ends. Raises StorageUnavailable."""

    def put_back(self, leftover: Leftover, key: str) -> None:
        """Give a leftover its name in the storage again, not durably; raises as `place`."""

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
