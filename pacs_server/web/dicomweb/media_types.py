"""**The** table of the media types of DICOMweb, with the transfer syntaxes of frames (PS3.18 8.7.3)."""

from typing import Final

from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.kit import media_types

DICOM: Final = media_types.DICOM
JSON: Final = media_types.JSON
PLAIN_JSON: Final = "application/json"
XML: Final = "application/dicom+xml"
OCTET_STREAM: Final = "application/octet-stream"
ZIP: Final = "application/zip"
_ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"

# PS3.18 Tables 8.7.3-4 and 8.7.3-5. The first transfer syntax of each media type is the default.
_TRANSFER_SYNTAXES: Final[dict[str, tuple[str, ...]]] = {
    OCTET_STREAM: (EXPLICIT_VR_LITTLE_ENDIAN, _ENCAPSULATED_UNCOMPRESSED),
    "image/jpeg": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (70, 50, 51, 57)),
    "image/dicom-rle": ("1.2.840.10008.1.2.5",),
    "application/x-deflate": ("1.2.840.10008.1.2.8.1",),
    "image/jls": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)),
    "image/jp2": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91)),
    "image/jpx": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (92, 93)),
    "image/jphc": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)),
    "image/jxl": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)),
    "video/mpeg": tuple(f"1.2.840.10008.1.2.4.{n}" for n in ("100", "100.1", "101", "101.1")),
    "video/mp4": tuple(f"1.2.840.10008.1.2.4.{n}{part}" for n in range(102, 107) for part in ("", ".1")),
    "video/h265": tuple(f"1.2.840.10008.1.2.4.{n}" for n in (107, 108)),
}
_MEDIA_TYPES: Final = {uid: media_type for media_type, uids in _TRANSFER_SYNTAXES.items() for uid in uids}


def media_type_of_frames(transfer_syntax_uid: str) -> str:
    """The media type of a frame in a transfer syntax; application/octet-stream if there is none of its own."""
    return _MEDIA_TYPES.get(transfer_syntax_uid, OCTET_STREAM)


def transfer_syntaxes_of(media_type: str) -> tuple[str, ...]:
    """The transfer syntaxes that a media type may stand for, the default first; none for an unknown one."""
    return _TRANSFER_SYNTAXES.get(media_type, ())


def compressed_media_types() -> list[str]:
    """The media types of compressed frames."""
    return [media_type for media_type in _TRANSFER_SYNTAXES if media_type != OCTET_STREAM]
