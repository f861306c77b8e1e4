"""The size of an image as its codestream tells it, which decoders believe and allocate memory for."""

import struct
from typing import Final

_START_OF_IMAGE: Final = b"\xff\xd8"
_JPEG_2000: Final = b"\xff\x4f\xff\x51"
# A JPEG 2000 codestream may lie in a file of boxes, against PS3.5 A.4.4; it begins soon.
_BOXES: Final = 1024
_NO_FRAME_HEADERS: Final = (0xC4, 0xC8, 0xCC)
_JPEG_LS_FRAME_HEADER: Final = 0xF7


def size_of(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 codestream; None for others, and if it does not say."""
    try:
        if codestream.startswith(_START_OF_IMAGE):
            return _jpeg(codestream)
        at = codestream[:_BOXES].find(_JPEG_2000)
        return None if at < 0 else _jpeg_2000(codestream, at)
    except struct.error:
        return None


def _jpeg(codestream: bytes) -> tuple[int, int] | None:
    """From the frame header (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2)."""
    at = 2
    while at + 9 <= len(codestream) and codestream[at] == 0xFF:
        marker = codestream[at + 1]
        if marker == _JPEG_LS_FRAME_HEADER or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS):
            rows, columns = struct.unpack_from(">HH", codestream, at + 5)
            return rows, columns
        # Any number of bytes FF may stand before a marker.
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", codestream, at + 2)[0]
    return None


def _jpeg_2000(codestream: bytes, at: int) -> tuple[int, int]:
    """From the marker segment SIZ (ISO 15444-1 A.5.1)."""
    right, lower, left, upper = struct.unpack_from(">4L", codestream, at + 8)
    return lower - upper, right - left
