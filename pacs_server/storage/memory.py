"""A storage in memory, for tests of what stands on it; `fail_with` makes the next placement fail."""

import time
from types import TracebackType
from typing import Self

from pacs_server.errors import ObjectNotFound, PacsError
from pacs_server.storage.contract import Bytes, ByteSource, IncomingFile


class MemoryIncoming:
    """A file that is being received, in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0
        self.placed = False
        self.on_its_way = True

    def write(self, data: Bytes) -> None:
        """Append `data`."""
        self.data += data
        self.size = len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on."""
        return bytes(self.data[offset : offset + length])

    def settled(self) -> None:
        """Forget that it is on its way."""
        self.on_its_way = False

    def discard(self) -> None:
        """Forget that it is on its way, unless it was placed."""
        self.on_its_way = self.on_its_way and self.placed


class MemorySource:
    """An open object in memory."""

    descriptor = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.modified_ns = time.time_ns()

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on."""
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""


class MemoryStorage:
    """Files in a dictionary."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fail_with: PacsError | None = None
        self.free = 1 << 40

    def incoming(self) -> IncomingFile:
        """Begin a file."""
        return MemoryIncoming()

    def place(self, file: IncomingFile, path: str) -> None:
        """Keep a file under `path`."""
        if self.fail_with is not None:
            raise self.fail_with
        if path in self.files:
            raise FileExistsError(path)
        self.files[path] = file.read(0, file.size)
        _own(file).placed = True

    def take_back(self, file: IncomingFile, path: str) -> None:
        """Undo a placement."""
        del self.files[path]
        _own(file).placed = False

    def open(self, path: str) -> ByteSource:
        """Open a file to read."""
        if path not in self.files:
            raise ObjectNotFound(f"cannot open {path}: no such file")
        return MemorySource(self.files[path])

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path`."""
        return path in self.files

    def free_bytes(self) -> int:
        """Free space, in bytes."""
        return self.free


def _own(file: IncomingFile) -> MemoryIncoming:
    if not isinstance(file, MemoryIncoming):
        raise TypeError("a file of another storage")
    return file
