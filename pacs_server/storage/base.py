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

    def discard(self) -> None:
        """Remove the file unless it was placed; never raises."""


class Storage(Protocol):
    """Files by relative path; paths come from `storage.paths` only."""

    def incoming(self) -> IncomingFile:
        """Begin a file. Raises StorageFull when free space is below the limit, and StorageUnavailable."""

    def place(self, file: IncomingFile, path: str, *, replace: bool = False) -> None:
        """Make `file` durable under `path`: when this returns, power may fail.

        Raises FileExistsError if something lies there and `replace` is not set, StorageFull and
        StorageUnavailable.
        """

    def open(self, path: str) -> BinaryIO:
        """Open a file to read. Raises StorageUnavailable."""

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path`."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def free_bytes(self) -> int:
        """Free space, in bytes."""
