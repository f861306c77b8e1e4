"""A file that is open to be read at any offset."""

import errno
import os
import stat

from pacs_server.kit.closing import Closing
from pacs_server.storage.disk_errors import object_error


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes of an open file, fewer only where the file ends; raises OSError."""
    if length <= 0:
        return b""
    data = os.pread(descriptor, length, offset)
    # Linux reads at most 2 GiB at a time.
    while data and len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class FileSource(Closing):
    """The file of a stored object; see `ByteSource`."""

    __slots__ = ("_key", "descriptor", "modified_ns", "size")

    def __init__(self, path: str, key: str) -> None:
        """Open the file at `path`, which is called `key` in errors; raises as `Storage.open`."""
        self._key = key
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            state = os.fstat(self.descriptor)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            self.close()
            raise object_error("open", key, error) from error
        self.size = state.st_size
        self.modified_ns = state.st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes; see `Readable`."""
        try:
            return read_at(self.descriptor, offset, min(length, self.size - offset))
        except OSError as error:
            raise object_error("read", self._key, error) from error

    def close(self) -> None:
        """Close the file; a second time changes nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
