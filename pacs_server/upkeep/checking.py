"""One instance held against its file: there, of its size, readable, the same bytes, told right by the index.

Reads gently: at a pace that the caller sets, and what was not in the page cache before is not there afterwards.
"""

import errno
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
from pacs_server.errors import InvalidInstance, InvalidKey, ObjectNotFound, ObjectUnreadable, StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.integrity import IndexedInstance
from pacs_server.storage.contract import ByteSource, Readable
from pacs_server.storage.filesystem import FileSystemStorage

CHUNK: Final = 256 * 1024
# As much as a header takes with the File Meta Information before it.
_HEAD: Final = 2 * USUAL_HEAD
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
# Told the bytes about to be read; may wait, and may raise to end the reading.
Spend = Callable[[int], None]


class FindingKind(StrEnum):
    """What can be wrong."""

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
    """One thing that is wrong: with an instance, or a file below the archive's root, or a counter of a UID.

    `repaired` says what was done about it, '' if it is as it was found. No patient data in any of it.
    """

    kind: FindingKind
    uid: str
    path: str
    detail: str
    repaired: str = ""


@dataclass(frozen=True, slots=True)
class Checks:
    """What is held against the index besides being there and its size: the digest, the header."""

    digest: bool = True
    header: bool = True


def check(storage: FileSystemStorage, row: IndexedInstance, checks: Checks, spend: Spend) -> Finding | None:
    """What is wrong with the file of an instance, None if nothing. Raises StorageUnavailable if there is no archive."""
    stored = row.stored
    try:
        with storage.open(stored.path) as source:
            try:
                found = _look(source, row, checks, spend)
            except ObjectUnreadable as error:
                found = FindingKind.UNREADABLE, error.reason
    except ObjectNotFound:
        found = FindingKind.MISSING, "there is no such file"
    except (ObjectUnreadable, InvalidKey) as error:
        found = FindingKind.UNREADABLE, str(error)
    return None if found is None else Finding(found[0], stored.uids.sop, stored.path, found[1])


_Found = tuple[FindingKind, str]


def refuse_shortage(error: BaseException | None) -> None:
    """Raise StorageUnavailable if it says nothing of the file."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise StorageUnavailable(f"cannot read files: {error.strerror}") from error


def _look(source: ByteSource, row: IndexedInstance, checks: Checks, spend: Spend) -> _Found | None:
    if source.size != row.stored.size:
        return FindingKind.SIZE, f"{source.size} bytes instead of {row.stored.size}"
    pieces = gentle_pieces(source, spend, CHUNK if checks.digest else _HEAD)
    first = b""
    if checks.header:
        first = next(pieces, b"")
        wrong = _read_header(_Start(source, first), row)
        if wrong is not None:
            return wrong
    if not checks.digest:
        return None
    digest = hashlib.sha256(first[row.stored.data_set_offset :])
    position = len(first)
    for piece in pieces:
        digest.update(memoryview(piece)[max(0, row.stored.data_set_offset - position) :])
        position += len(piece)
    return None if digest.hexdigest() == row.stored.digest else (FindingKind.CHANGED, "the digest differs")


def _read_header(start: Readable, row: IndexedInstance) -> _Found | None:
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
    """The names of what the row and the file's header do not agree on; values may be patient data."""
    uids, stored = header.uids, row.stored
    told: Mapping[str, object] = {name: header.values.get(name, "") for name in row.values} | {
        "study_instance_uid": uids.study,
        "series_instance_uid": uids.series,
        "sop_instance_uid": uids.sop,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": head.transfer_syntax_uid,
        "data_set_offset": head.data_set_offset,
    }
    kept = dict(row.values) | _kept(stored)
    return sorted(name for name, value in told.items() if kept[name] != value)


def _kept(stored: StoredInstance) -> dict[str, object]:
    return {
        "study_instance_uid": stored.uids.study,
        "series_instance_uid": stored.uids.series,
        "sop_instance_uid": stored.uids.sop,
        "sop_class_uid": stored.sop_class_uid,
        "transfer_syntax_uid": stored.transfer_syntax_uid,
        "data_set_offset": stored.data_set_offset,
    }


class _Start:
    """The start of an open object, most of which has been read already."""

    def __init__(self, source: ByteSource, first: bytes) -> None:
        self._source = source
        self._first = first
        self.size = source.size

    def read(self, offset: int, length: int) -> bytes:
        """As `Readable`."""
        if offset + length <= len(self._first) or len(self._first) == self.size:
            return self._first[offset : offset + length]
        return self._source.read(offset, length)


def gentle_pieces(source: ByteSource, spend: Spend, chunk: int = CHUNK) -> Iterator[bytes]:
    """An open object from its start to its end, leaving the page cache as it was; raises as `read`, and as `spend`."""
    descriptor = source.descriptor
    # Reading ahead would bring in what the next piece then takes for somebody else's.
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
    """What is in the page cache as a whole: somebody uses it, and it stays there. None if it is not."""
    if descriptor is None:
        return None
    buffer = bytearray(size)
    try:
        got = os.preadv(descriptor, [buffer], position, os.RWF_NOWAIT)
    except OSError:
        # Not in the cache, or a file system that cannot tell.
        return None
    return bytes(buffer) if got == size else None
