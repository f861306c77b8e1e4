"""The DICOM file format: the head that is written before a data set, and reading a file's head (PS3.10 7.1)."""

import struct
from dataclasses import dataclass

from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, clean_uid
from pacs_server.errors import InvalidInstance

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

_PREAMBLE = bytes(128) + b"DICM"
_SHORT = struct.Struct("<HH2sH")
_LONG_VRS = {b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"OL", b"OV", b"UC", b"UR", b"SV", b"UV"}


@dataclass(frozen=True, slots=True)
class FileHead:
    """What a file's head says: which transfer syntax, which class, and where its data set begins (bytes)."""

    transfer_syntax_uid: str
    media_storage_sop_class_uid: str
    data_set_offset: int


def encode_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str) -> bytes:
    """Preamble, prefix and File Meta Information for one instance (PS3.10 Table 7.1-1)."""
    meta = b"".join(
        (
            struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1",
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _element(0x0016, b"AE", source_ae) if source_ae else b"",
        )
    )
    return _PREAMBLE + _SHORT.pack(2, 0, b"UL", 4) + len(meta).to_bytes(4, "little") + meta


def decode_head(head: bytes) -> FileHead | None:
    """Read the head of a file; None if this is no DICOM file at all.

    Files without preamble, and bare data sets without File Meta Information, are recognised by
    their first element, as most software does. Raises InvalidInstance if the head is damaged.
    """
    if head[128:132] == b"DICM":
        return _decode_meta(head, 132)
    if head[:4] == b"\x02\0\0\0" and head[4:6] == b"UL":
        return _decode_meta(head, 0)
    # A bare data set begins in group 0008, with a length that makes sense for it.
    if len(head) < 8 or head[:2] != b"\x08\0" or head[3] != 0:
        return None
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if not explicit and int.from_bytes(head[4:8], "little") > 1024:
        return None
    return FileHead(EXPLICIT_VR_LITTLE_ENDIAN if explicit else IMPLICIT_VR_LITTLE_ENDIAN, "", 0)


def _decode_meta(head: bytes, offset: int) -> FileHead:
    values: dict[int, str] = {}
    while offset + 8 <= len(head):
        group, element, vr, length = _SHORT.unpack_from(head, offset)
        if group != 2:
            # The group length may be wrong; the first element of another group is what ends it.
            break
        offset += 8
        if vr in _LONG_VRS:
            if offset + 4 > len(head):
                break
            length = int.from_bytes(head[offset : offset + 4], "little")
            offset += 4
        if offset + length > len(head):
            raise InvalidInstance("File Meta Information is cut")
        values[element] = clean_uid(head[offset : offset + length].decode("latin-1"))
        offset += length
    if not values.get(0x0010):
        raise InvalidInstance("File Meta Information without Transfer Syntax UID")
    return FileHead(values[0x0010], values.get(0x0002, ""), offset)


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, element, vr, len(value)) + value
