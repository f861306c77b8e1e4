"""What the archive asks of a storage; `filesystem` is the real one, `memory` the double for tests."""

from typing import BinaryIO, Protocol

Bytes = bytes | bytearray | memoryview


class IncomingFile(Protocol):
    """A file that is being received; nobody sees it until it is placed."""

    size: int

    def write(self, data: Bytes) -> None:
        """Append `data`. Raises StorageFull and StorageUnavailable."""

    def read(self, size: int) -> bytes:
        """The first `size` bytes of what was written."""

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

    def open(self, path: str) -> BinaryIO:
        """Open a file to read. Raises StorageUnavailable."""

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path`."""

    def free_bytes(self) -> int:
        """Free space, in bytes."""
