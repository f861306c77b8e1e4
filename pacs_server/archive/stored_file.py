"""Read a stored file: it tells by itself everything that its row in the index holds."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header, read_header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.part10 import Provenance, decode_head
from pacs_server.errors import InvalidInstance
from pacs_server.index.instances import StoredInstance
from pacs_server.storage.contract import ByteSource, Readable, pieces
from pacs_server.storage.keys import version_of

# The header of almost every object ends within so many bytes.
USUAL_HEAD: Final = 64 * 1024
# No header is read beyond so many bytes.
_LARGEST_HEAD: Final = 8 * 1024 * 1024
_READ_SIZE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file, read and checked as it was when it was received; `received_at` is in UTC."""

    instance: StoredInstance
    header: Header
    origin: Origin
    received_at: datetime


def read_stored(source: ByteSource, key: str) -> StoredFile:
    """Read a whole file that is stored under `key`. Raises InvalidInstance, StorageUnavailable.

    A file that does not say when it was received counts as received when it was last changed, from nobody.
    """
    head = decode_head(source.read(0, USUAL_HEAD))
    if head is None:
        raise InvalidInstance("no DICOM file")
    offset = head.data_set_offset
    header = header_of(source, offset, head.transfer_syntax_uid)
    instance = StoredInstance(
        uids=header.uids,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        path=key,
        data_set_offset=offset,
        size=source.size,
        digest=_digest(source, offset),
        version=version_of(key),
    )
    told = head.provenance or Provenance(_modified_at(source), head.source_ae, "")
    origin = Origin(told.calling_ae, "", told.peer, Door.DIMSE, told.move_originator)
    return StoredFile(instance, header, origin, told.received_at)


def header_of(file: Readable, offset: int, transfer_syntax_uid: str, start: bytes = b"") -> Header:
    """Read the header of the data set at `offset`; if it is long, with a second read.

    `start` is what the caller has of its first bytes; if that is enough, nothing is read. Raises InvalidInstance.
    """
    size = file.size - offset
    if len(start) < min(size, USUAL_HEAD):
        start = file.read(offset, USUAL_HEAD)
    complete = len(start) >= size
    try:
        return read_header(start, transfer_syntax_uid, complete=complete, size=size)
    except InvalidInstance:
        if complete:
            raise
    more = file.read(offset, _LARGEST_HEAD)
    return read_header(more, transfer_syntax_uid, complete=len(more) >= size, size=size)


def _modified_at(source: ByteSource) -> datetime:
    return datetime.fromtimestamp(source.modified_ns / 1e9, UTC)


def _digest(source: ByteSource, offset: int) -> str:
    digest = hashlib.sha256()
    for piece in pieces(source, _READ_SIZE, start=offset):
        digest.update(piece)
    return digest.hexdigest()
