"""Data sets that are read before their turn to be sent."""

from typing import Final

from pacs_server.kit.closing import Closing
from pacs_server.scu.sending import OpenDataSet

# What is larger is only opened: it goes out in several writes, and the remote takes the first while others are read.
_MOST: Final = 768 * 1024


class ReadAhead(Closing):
    """An open data set, in memory if it is not large. Closes it."""

    def __init__(self, source: OpenDataSet) -> None:
        """Read it. Raises StorageUnavailable, and closes it then."""
        self._source = source
        self.size = source.size
        try:
            self._data = source.read(0, self.size) if self.size <= _MOST else b""
        except BaseException:
            source.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer where the data set ends. Raises StorageUnavailable."""
        if not self._data:
            return self._source.read(offset, length)
        return self._data if not offset and length >= len(self._data) else self._data[offset : offset + length]

    def close(self) -> None:
        """Close the data set."""
        self._source.close()
