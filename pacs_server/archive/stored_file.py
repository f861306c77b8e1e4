"""What a file of the archive tells by itself: all that its row in the index holds."""

import hashlib
import io
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final, Protocol

from pacs_server.dicom.header import Header, read_header
from pacs_server.dicom.origin import Origin, Via
from pacs_server.dicom.part10 import FileHead, Provenance, decode_head
from pacs_server.errors import InvalidInstance, StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.storage.base import Storage

# The header of all but a few objects ends within the first of these; the second is the limit.
USUAL_HEAD: Final = 64 * 1024
_LARGEST_HEAD: Final = 8 * 1024 * 1024
_READ_SIZE: Final = 1024 * 1024
# `storage.paths` names the versions of an instance.
_VERSION: Final = re.compile(r"\.v([0-9]{1,9})\.dcm$")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the archive, read and checked as it was when it came in; `received_at` is in UTC."""

    instance: StoredInstance
    header: Header
    origin: Origin
    received_at: datetime


class Readable(Protocol):
    """A file whose start can be read; sizes in bytes."""

    @property
    def size(self) -> int:
        """How long it is."""

    def read(self, size: int) -> bytes:
        """The first `size` bytes."""


def read_stored(storage: Storage, path: str) -> StoredFile:
    """Read the whole file at `path`. Raises InvalidInstance, StorageUnavailable.

    A file that does not say when it was received is as old as its last change, and nobody sent it.
    """
    with storage.open(path) as file:
        try:
            return _read(file, path)
        except OSError as error:
            raise StorageUnavailable(f"cannot read {path}: {error.strerror or error}") from error


def header_of(file: Readable, offset: int, transfer_syntax_uid: str) -> Header:
    """Read the header of the data set at `offset`; a long one is tried again with more of the file.

    Raises InvalidInstance.
    """
    start = file.read(offset + USUAL_HEAD)[offset:]
    complete = offset + len(start) >= file.size
    size = file.size - offset
    try:
        return read_header(start, transfer_syntax_uid, complete=complete, size=size)
    except InvalidInstance:
        if complete:
            raise
    more = file.read(offset + _LARGEST_HEAD)[offset:]
    return read_header(more, transfer_syntax_uid, complete=offset + len(more) >= file.size, size=size)


class _Start:
    """The start of an open file, as `header_of` wants it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def read(self, size: int) -> bytes:
        self._file.seek(0)
        return self._file.read(size)


def _read(file: BinaryIO, path: str) -> StoredFile:
    start = _Start(file)
    head = decode_head(start.read(USUAL_HEAD))
    if head is None:
        raise InvalidInstance("no DICOM file")
    offset = head.data_set_offset
    header = header_of(start, offset, head.transfer_syntax_uid)
    version = _VERSION.search(path)
    instance = StoredInstance(
        uids=header.uids,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        path=path,
        data_set_offset=offset,
        size=start.size,
        digest=_digest(file, offset),
        version=int(version[1]) if version else 1,
    )
    told = head.provenance or _guessed(file, head)
    return StoredFile(instance, header, Origin(told.calling_ae, "", told.peer, Via.DIMSE), told.received_at)


def _digest(file: BinaryIO, offset: int) -> str:
    digest = hashlib.sha256()
    file.seek(offset)
    while data := file.read(_READ_SIZE):
        digest.update(data)
    return digest.hexdigest()


def _guessed(file: BinaryIO, head: FileHead) -> Provenance:
    try:
        changed = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    except io.UnsupportedOperation:  # a file in memory
        changed = datetime.now(UTC)
    return Provenance(changed, head.source_ae, "")
