"""A file that is being received: it has a name in `incoming/` until its row is durable."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from pacs_server.storage.contract import Bytes
from pacs_server.storage.disk_errors import storage_error
from pacs_server.storage.file_source import read_at
from pacs_server.storage.filesystem.incoming_journal import MOVED


class FileSystemIncoming:
    """A file in `incoming/`."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = 0
        self.placed = self.moved = self._gone = False

    def write(self, data: Bytes) -> None:
        """Append `data`."""
        size = len(data)
        try:
            written = os.write(self.descriptor, data) if size else 0
            while written < size:
                # A disk that fills up takes a part of the data before it refuses the rest.
                written += os.write(self.descriptor, memoryview(data)[written:])
        except OSError as error:
            raise storage_error("write a file", error) from error
        self.size += size

    def overwrite(self, offset: int, data: bytes) -> None:
        """Write `data` over bytes that were written; raises OSError."""
        if os.pwrite(self.descriptor, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, as far as they were written."""
        try:
            return read_at(self.descriptor, offset, min(length, self.size - offset))
        except OSError as error:
            raise storage_error("read a file back", error) from error

    def settled(self) -> None:
        """Remove the name in `incoming/`: the row is durable."""
        self.placed = False
        self.discard()

    def is_listed(self) -> bool:
        """Whether the name in `incoming/` is there."""
        try:
            os.lstat(self.path)
        except (OSError, ValueError):
            return False
        return True

    def discard(self) -> None:
        """Remove the name in `incoming/`, unless the file was placed and is not settled."""
        if self.descriptor >= 0:
            with suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = -1
        if self.placed or self._gone:
            return
        self._gone = True
        with suppress(OSError):
            os.unlink(self.path)
        if self.moved:
            with suppress(OSError):
                os.unlink(moved_note(self.path))


def moved_note(entry: str) -> Path:
    """Where it is noted to which key the file of an entry was moved."""
    return Path(entry).with_suffix(MOVED)
