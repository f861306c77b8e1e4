"""What the archive asks of a storage; `filesystem` is the one of a server, `memory` the one of tests."""

from types import TracebackType
from typing import Protocol, Self

Bytes = bytes | bytearray | memoryview


class Readable(Protocol):
    """Bytes that can be read from any offset."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on; fewer, or none, where the bytes end. Raises StorageUnavailable."""


class ByteSource(Readable, Protocol):
    """A stored object that is open to be read, by several threads at once if need be; its user closes it."""

    @property
    def modified_ns(self) -> int:
        """When the object was stored, in nanoseconds since 1970."""

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the open file that holds the object, for calls of the kernel; None if no file holds it."""

    def close(self) -> None:
        """Close the object; nothing can be read any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class IncomingFile(Readable, Protocol):
    """A file that is being received; nobody sees it until it is placed."""

    def write(self, data: Bytes) -> None:
        """Append `data`. Raises StorageFull and StorageUnavailable."""

    def settled(self) -> None:
        """The row that names the placed file is committed: forget that it is on its way; never raises."""

    def discard(self) -> None:
        """Remove the file unless it was placed; never raises.

        One that was placed and not settled stays on the list of what has to be looked at after a crash.
        """


class Storage(Protocol):
    """Files by relative path; paths come from `storage.paths` only."""

    def incoming(self) -> IncomingFile:
        """Begin a file. Raises StorageFull when free space is below the limit, and StorageUnavailable."""

    def place(self, file: IncomingFile, path: str) -> None:
        """Make `file` durable under `path`: when this returns, power may fail.

        Never overwrites: raises FileExistsError if something lies there; also StorageFull and
        StorageUnavailable, and then the file is not placed.
        """

    def take_back(self, file: IncomingFile, path: str) -> None:
        """Undo the placement of `file` at `path`; it may be placed again. Raises StorageUnavailable."""

    def open(self, path: str) -> ByteSource:
        """Open an object to read; raises ObjectNotFound, ObjectUnreadable, and InvalidKey for what is no key.

        Any other StorageUnavailable says nothing of this object: the storage as a whole does not answer.
        """

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path`."""

    def free_bytes(self) -> int:
        """Free space, in bytes."""
