"""Compare the file of one instance with its row: the file is there, readable, of the right size and digest.

Reading is gentle: the caller sets the rate, and the page cache holds afterwards what it held before.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pacs_server.archive.stored_file import USUAL_HEAD, header_of
from pacs_server.dicom.header import Header
from pacs_server.dicom.part10 import FileHead, decode_head
from pacs_server.errors import InvalidInstance, InvalidKey, ObjectNotFound, ObjectUnreadable
from pacs_server.index.integrity import IndexedInstance
from pacs_server.kit.words import counted
from pacs_server.storage.contract import ByteSource, Readable, Storage

CHUNK: Final = 256 * 1024
# The File Meta Information and the header behind it end within so many bytes, almost always.
_HEAD: Final = 2 * USUAL_HEAD
# Told how many bytes are about to be read; may wait, and may raise to end the reading.
BeforeRead = Callable[[int], None]


class FindingKind(StrEnum):
    """The kinds of faults that can be found."""

    MISSING = "missing"
    SIZE = "size"
    CHANGED = "changed"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    DRIFT = "drift"
    MISPLACED = "misplaced"
    ORPHAN = "orphan"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of an instance, of a stored file without a row, or of a counter of the index.

    `repaired` says what was done about it, and is empty if nothing was. No field holds patient data.
    """

    kind: FindingKind
    uid: str
    path: str
    detail: str
    repaired: str = ""


@dataclass(frozen=True, slots=True)
class Checks:
    """Whether the digest and the header of a file are compared with the index, besides its size."""

    digest: bool = True
    header: bool = True


def check(storage: Storage, row: IndexedInstance, checks: Checks, spend: BeforeRead) -> Finding | None:
    """Compare a row with its file; None if they agree. Raises StorageUnavailable if the storage does not answer."""
    stored = row.stored
    try:
        with storage.open(stored.path) as source:
            try:
                found = _fault(source, row, checks, spend)
            except ObjectUnreadable as error:
                found = FindingKind.UNREADABLE, error.reason
    except ObjectNotFound:
        found = FindingKind.MISSING, "there is no such file"
    except (ObjectUnreadable, InvalidKey) as error:
        found = FindingKind.UNREADABLE, str(error)
    return None if found is None else Finding(found[0], stored.uids.sop, stored.path, found[1])


_Fault = tuple[FindingKind, str]


def _fault(source: ByteSource, row: IndexedInstance, checks: Checks, spend: BeforeRead) -> _Fault | None:
    if source.size != row.stored.size:
        return FindingKind.SIZE, f"{counted(source.size, 'byte')} instead of {row.stored.size}"
    pieces = gentle_pieces(source, spend, CHUNK if checks.digest else _HEAD)
    first = b""
    if checks.header:
        first = next(pieces, b"")
        fault = _header_fault(_Start(source, first), row)
        if fault is not None:
            return fault
    if not checks.digest:
        return None
    digest = hashlib.sha256(first[row.stored.data_set_offset :])
    position = len(first)
    for piece in pieces:
        digest.update(memoryview(piece)[max(0, row.stored.data_set_offset - position) :])
        position += len(piece)
    return None if digest.hexdigest() == row.stored.digest else (FindingKind.CHANGED, "the digest differs")


def _header_fault(start: Readable, row: IndexedInstance) -> _Fault | None:
    try:
        head = decode_head(start.read(0, USUAL_HEAD))
        if head is None:
            return FindingKind.DAMAGED, "no DICOM file"
        header = header_of(start, head.data_set_offset, head.transfer_syntax_uid)
    except InvalidInstance as error:
        return FindingKind.DAMAGED, str(error)
    drifted = _differing(row, head, header)
    return (FindingKind.DRIFT, f"the file says otherwise: {', '.join(drifted)}") if drifted else None


def _differing(row: IndexedInstance, head: FileHead, header: Header) -> list[str]:
    """The names of the attributes on which row and file differ; their values may be patient data."""
    uids, stored = header.uids, row.stored
    in_file: Mapping[str, object] = {name: header.values.get(name, "") for name in row.values} | {
        "study_instance_uid": uids.study,
        "series_instance_uid": uids.series,
        "sop_instance_uid": uids.sop,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": head.transfer_syntax_uid,
        "data_set_offset": head.data_set_offset,
    }
    in_row: Mapping[str, object] = {**row.values} | {
        "study_instance_uid": stored.uids.study,
        "series_instance_uid": stored.uids.series,
        "sop_instance_uid": stored.uids.sop,
        "sop_class_uid": stored.sop_class_uid,
        "transfer_syntax_uid": stored.transfer_syntax_uid,
        "data_set_offset": stored.data_set_offset,
    }
    return sorted(name for name, value in in_file.items() if in_row[name] != value)


class _Start:
    """An open object whose first piece has been read already."""

    def __init__(self, source: ByteSource, first: bytes) -> None:
        self._source = source
        self._first = first
        self.size = source.size

    def read(self, offset: int, length: int) -> bytes:
        """As `Readable`."""
        if offset + length <= len(self._first) or len(self._first) == self.size:
            return self._first[offset : offset + length]
        return self._source.read(offset, length)


def gentle_pieces(source: ByteSource, spend: BeforeRead, chunk: int = CHUNK) -> Iterator[bytes]:
    """Read an open object from start to end, and leave the page cache as it was. Raises as `read` and `spend`."""
    descriptor = source.descriptor
    # If the kernel read ahead, the next piece would be in the cache and look as if somebody else had read it.
    _advise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    position = 0
    while position < source.size:
        wanted = min(chunk, source.size - position)
        spend(wanted)
        piece = _cached(descriptor, wanted, position)
        if piece is None:
            piece = source.read(position, wanted)
            _advise(descriptor, position, wanted, os.POSIX_FADV_DONTNEED)
        if not piece:
            return
        position += len(piece)
        yield piece


def _advise(descriptor: int | None, offset: int, length: int, advice: int) -> None:
    if descriptor is not None:
        with suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, advice)


def _cached(descriptor: int | None, size: int, position: int) -> bytes | None:
    """Read bytes from the page cache, where they stay because somebody uses them; None unless all are there."""
    if descriptor is None:
        return None
    buffer = bytearray(size)
    try:
        got = os.preadv(descriptor, [buffer], position, os.RWF_NOWAIT)
    except OSError:
        # The bytes are not in the cache, or the file system cannot tell.
        return None
    return bytes(buffer) if got == size else None
