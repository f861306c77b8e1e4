"""DICOM files (PS3.10) that come in pieces: their head is read as soon as the first bytes are there."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from pacs_server.dicom.header import read_sop_uids
from pacs_server.dicom.part10 import FileHead, decode_head

Bytes = bytes | bytearray | memoryview

# The head of a file and the UIDs of its SOP Instance lie within so many bytes.
START_BYTES: Final = 64 * 1024


class Part10Stream:
    """A file of which the first bytes have come; `head` is None if it is no DICOM file."""

    def __init__(self, pieces: Iterable[Bytes]) -> None:
        """Reads the first pieces. Raises InvalidInstance if the head is damaged, and what `pieces` raises."""
        self._pieces = iter(pieces)
        self._start = _first(self._pieces, START_BYTES)
        self.head: FileHead | None = decode_head(self._start)

    def sop_uids(self) -> tuple[str, str]:
        """SOP Class UID and SOP Instance UID by the data set. Raises InvalidInstance if it does not tell them."""
        head = self._head()
        return read_sop_uids(self._start[head.data_set_offset :], head.transfer_syntax_uid)

    def data_set(self) -> Iterator[Bytes]:
        """The bytes of the data set, to be read once."""
        return chain((memoryview(self._start)[self._head().data_set_offset :],), self._pieces)

    def _head(self) -> FileHead:
        if self.head is None:
            raise ValueError("no DICOM file")
        return self.head


def _first(pieces: Iterator[Bytes], size: int) -> bytes:
    """The first pieces, joined: so many bytes or more, unless there are not as many."""
    first = bytearray()
    while len(first) < size and (piece := next(pieces, None)) is not None:
        first += piece
    return bytes(first)
