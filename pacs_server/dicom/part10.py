"""The DICOM file format: encodes and decodes the head of a file, which precedes the data set (PS3.10 7.1).

The head consists of preamble, prefix and File Meta Information.
"""

import json
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from pacs_server.dicom.encoding import EXPLICIT_LE
from pacs_server.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    PRIVATE_INFORMATION_CREATOR_UID,
    clean_uid,
)
from pacs_server.dicom.vr import LONG_VRS, looks_like_vr
from pacs_server.dicom.writer import Field, Writer
from pacs_server.errors import InvalidInstance

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

_PREAMBLE = bytes(128) + b"DICM"
PREFIX_END = len(_PREAMBLE)
_ELEMENT_HEAD = struct.Struct("<HH2sH")
_LONG_VRS = frozenset(vr.encode() for vr in LONG_VRS)
# PS3.10 7.1: File Meta Information is in Explicit VR Little Endian.
_writer = Writer(EXPLICIT_LE)
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID = (_writer.field(0x00020000 | n, "UI") for n in (2, 3, 0x10))
_SOURCE_AE, _PRIVATE_INFORMATION = _writer.field(0x00020016, "AE"), _writer.field(0x00020102, "OB")


@dataclass(frozen=True, slots=True)
class Provenance:
    """When and from whom an instance was received, which its data set does not say. `received_at` is in UTC.

    `move_originator` is the AE title that had it sent by C-MOVE, if one did.
    """

    received_at: datetime
    calling_ae: str
    peer: str
    move_originator: str = ""


@dataclass(frozen=True, slots=True)
class Seal:
    """What a file says of itself just before it is synced: if all of it is so, the file is whole.

    `size` is the size of the file in bytes, `digest` the SHA-256 of its data set in hexadecimal, `version` that of the
    instance. Of two files of one process the one with the higher `number` was sealed later; 0 says that its sender was
    refused all the same.
    """

    size: int
    digest: str
    number: int
    version: int

    def encode(self) -> bytes:
        """The seal as it stands in the head, in `SEAL_SIZE` bytes."""
        return b"%016d %s %020d %010d" % (self.size, self.digest.encode("ascii"), self.number, self.version)


SEAL_SIZE = 16 + 1 + 64 + 1 + 20 + 1 + 10
NO_SEAL = b" " * SEAL_SIZE


@dataclass(frozen=True, slots=True)
class FileHead:
    """The content of a file's head. `data_set_offset` is the offset in bytes at which the data set begins.

    `provenance` is None unless this server wrote the file and recorded the provenance in it; `seal` is None unless the
    file was sealed.
    """

    transfer_syntax_uid: str
    media_storage_sop_class_uid: str
    data_set_offset: int
    source_ae: str = ""
    provenance: Provenance | None = None
    media_storage_sop_instance_uid: str = ""
    seal: Seal | None = None


def encode_head(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae: str,
    provenance: Provenance | None = None,
) -> bytes:
    """Preamble, prefix and File Meta Information for one instance (PS3.10 Table 7.1-1).

    `provenance` is written to Private Information (0002,0102), whose format only the writer of a file has to know. It
    leaves room for a seal, which `seal_offset` finds.
    """
    if provenance is None:
        return _encode_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_ae, None)
    uid = sop_instance_uid.encode("latin-1", "replace")
    who = provenance.calling_ae, provenance.peer, provenance.move_originator
    texts = (sop_class_uid, transfer_syntax_uid, source_ae, *who)
    if sum(map(len, texts)) > _MOST_REMEMBERED:
        return _encode_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_ae, provenance)
    before, between, after = _around_uid_and_moment(len(uid), *texts)
    return b"".join((before, uid, between, _moment(provenance.received_at), after))


def _encode_head(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae: str,
    provenance: Provenance | None,
) -> bytes:
    meta = b"".join(
        (
            _FILE_META_INFORMATION_VERSION,
            _text_element(_SOP_CLASS_UID, sop_class_uid),
            _text_element(_SOP_INSTANCE_UID, sop_instance_uid),
            _text_element(_TRANSFER_SYNTAX_UID, transfer_syntax_uid),
            _IMPLEMENTATION,
            _text_element(_SOURCE_AE, source_ae) if source_ae else b"",
            _private_information(provenance) if provenance else b"",
        )
    )
    return _PREAMBLE + _GROUP_LENGTH + len(meta).to_bytes(4, "little") + meta


@lru_cache(maxsize=256)
def _around_uid_and_moment(  # noqa: PLR0917
    length: int, sop_class_uid: str, transfer_syntax_uid: str, source_ae: str, calling_ae: str, peer: str, mover: str
) -> tuple[bytes, bytes, bytes]:
    """What stands around a SOP Instance UID of this length and the moment when the instance was received."""
    provenance = Provenance(_SOME_MOMENT, calling_ae, peer, mover)
    head = _encode_head(sop_class_uid, "9" * length, transfer_syntax_uid, source_ae, provenance)
    at = head.index(b"\x02\x00\x03\x00UI") + 8
    moment = _moment(_SOME_MOMENT)
    begins = head.rindex(_MOMENT_BEGIN + moment) + len(_MOMENT_BEGIN)
    return head[:at], head[at + length : begins], head[begins + len(moment) :]


def _moment(at: datetime) -> bytes:
    return at.astimezone(UTC).isoformat(timespec="microseconds").encode("ascii")


def plain_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """The head that `encode_head` makes of UIDs alone, at a small part of its cost."""
    uid = sop_instance_uid.encode("latin-1", "replace")
    before, after = _around_uid(sop_class_uid, len(uid), transfer_syntax_uid)
    return before + uid + after


@lru_cache(maxsize=256)
def _around_uid(sop_class_uid: str, length: int, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """What stands before and after a SOP Instance UID of this length, which is the only thing that differs."""
    head = encode_head(sop_class_uid, "9" * length, transfer_syntax_uid, "")
    at = head.rindex(b"\x02\x00\x03\x00UI", 0, len(head)) + 8
    return head[:at], head[at + length :]


def seal_offset(head: bytes) -> int:
    """Where in a head that `encode_head` made with a provenance there is room for a seal."""
    return len(head) - len(_SEAL_END) - SEAL_SIZE


def decode_head(head: bytes) -> FileHead | None:
    """Read the head of a file; None if the file is not a DICOM file.

    Files without preamble, and bare data sets without File Meta Information, are recognised by
    their first element, as most software does. Raises InvalidInstance if the head is damaged.
    """
    if head[128:132] == b"DICM":
        return _decode_meta(head, 132)
    # Some clients send File Meta Information without its group length too, so it may begin with any element.
    if head[:2] == b"\x02\0" and looks_like_vr(head[4:6]):
        return _decode_meta(head, 0)
    # A bare data set begins with an element of group 0008 whose length is plausible.
    if len(head) < 8 or head[:2] != b"\x08\0" or head[3] != 0:
        return None
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if not explicit and int.from_bytes(head[4:8], "little") > 1024:
        return None
    return FileHead(EXPLICIT_VR_LITTLE_ENDIAN if explicit else IMPLICIT_VR_LITTLE_ENDIAN, "", 0)


def _decode_meta(head: bytes, offset: int) -> FileHead:
    values: dict[int, bytes] = {}
    while offset + 8 <= len(head):
        group, element, vr, length = _ELEMENT_HEAD.unpack_from(head, offset)
        if group != 2:
            # The group length may be wrong, so File Meta Information ends at the first element of another group.
            break
        offset += 8
        if vr in _LONG_VRS:
            if offset + 4 > len(head):
                break
            length = int.from_bytes(head[offset : offset + 4], "little")
            offset += 4
        if offset + length > len(head):
            raise InvalidInstance("File Meta Information is cut")
        values[element] = head[offset : offset + length]
        offset += length
    syntax = _text(values, 0x0010)
    if not syntax:
        raise InvalidInstance("File Meta Information without Transfer Syntax UID")
    ours = _text(values, 0x0100) == PRIVATE_INFORMATION_CREATOR_UID
    provenance, seal = _told(values.get(0x0102, b"")) if ours else (None, None)
    source_ae, sop_instance_uid = _text(values, 0x0016), _text(values, 0x0003)
    return FileHead(syntax, _text(values, 0x0002), offset, source_ae, provenance, sop_instance_uid, seal)


def _text(values: dict[int, bytes], element: int) -> str:
    return clean_uid(values.get(element, b"").decode("latin-1"))


def _private_information(provenance: Provenance) -> bytes:
    received_at = _moment(provenance.received_at).decode("ascii")
    # JSON in ASCII preserves any character. Encoding each text by itself is ten times faster than encoding a dict.
    calling_ae, peer = json.dumps(provenance.calling_ae), json.dumps(provenance.peer)
    told = f'{{"received_at": "{received_at}", "calling_ae": {calling_ae}, "peer": {peer}, '
    if provenance.move_originator:
        told += f'"move_originator": {json.dumps(provenance.move_originator)}, '
    # The seal comes last, so that its place is known from the end.
    even = " " * ((len(told) + len(_SEAL_BEGIN) + SEAL_SIZE + len(_SEAL_END)) % 2)
    return _CREATOR + _PRIVATE_INFORMATION.element(f"{told}{even}".encode("ascii") + _SEAL_BEGIN + NO_SEAL + _SEAL_END)


def _told(value: bytes) -> tuple[Provenance | None, Seal | None]:
    """What `_private_information` encoded; None for what is damaged, as the data set is usable without."""
    try:
        told = json.loads(value)
        received_at = datetime.fromisoformat(told["received_at"]).astimezone(UTC)
        originator = str(told.get("move_originator", ""))
        provenance = Provenance(received_at, str(told["calling_ae"]), str(told["peer"]), originator)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None, None
    return provenance, _seal(told.get("seal"))


def _seal(text: object) -> Seal | None:
    found = _SEAL.fullmatch(text) if isinstance(text, str) else None
    return Seal(int(found[1]), found[2], int(found[3]), int(found[4])) if found else None


def _text_element(field: Field, text: str) -> bytes:
    return field.element(text.encode("latin-1", "replace"))


# In characters: longer texts about where instances come from are not remembered.
_MOST_REMEMBERED = 1024
_SOME_MOMENT, _MOMENT_BEGIN = datetime(2000, 1, 1, tzinfo=UTC), b'{"received_at": "'
_SEAL = re.compile(r"([0-9]{16}) ([0-9a-f]{64}) ([0-9]{20}) ([0-9]{10})")
_SEAL_BEGIN, _SEAL_END = b'"seal": "', b'"}'

# These parts are the same in every file.
_GROUP_LENGTH = _writer.head(0x00020000, "UL", 4)
_FILE_META_INFORMATION_VERSION = _writer.element(0x00020001, "OB", b"\0\1")
_IMPLEMENTATION = _writer.element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode())
_IMPLEMENTATION += _writer.element(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME.encode())
_CREATOR = _writer.element(0x00020100, "UI", PRIVATE_INFORMATION_CREATOR_UID.encode())
