"""The transfer syntax of compressed bulk data whose sender names its media type only (PS3.18 Table 8.7.3-5).

The Standard has a default for each media type. Where the first bytes tell more, they decide: a lossy image that is
called lossless would deceive whoever looks at it.
"""

import re
from typing import Final

JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
JPEG_PROGRESSIVE: Final = "1.2.840.10008.1.2.4.55"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
JPEG_LS_LOSSY: Final = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS: Final = "1.2.840.10008.1.2.4.201"
HTJ2K: Final = "1.2.840.10008.1.2.4.203"

_DEFAULTS: Final = {
    "image/jpeg": JPEG_LOSSLESS_SV1,
    "image/jls": JPEG_LS,
    "image/jp2": JPEG_2000_LOSSLESS,
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": HTJ2K_LOSSLESS,
    "image/jxl": "1.2.840.10008.1.2.4.110",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "application/x-deflate": "1.2.840.10008.1.2.8.1",
    "video/mpeg": "1.2.840.10008.1.2.4.100",
    "video/mp4": "1.2.840.10008.1.2.4.102",
    "video/h265": "1.2.840.10008.1.2.4.107",
}
OLD_NAMES: Final = {
    "image/x-jls": "image/jls",
    "image/x-dicom-rle": "image/dicom-rle",
    "image/jhc": "image/jphc",
    "video/mpeg2": "video/mpeg",
}
"""What older clients call some of these media types, and what the Standard calls them."""

MEDIA_TYPES: Final = (*_DEFAULTS, *OLD_NAMES)
"""The media types of compressed bulk data that are taken."""

# ISO/IEC 10918-1 B.1.1: the segments before the frame header, each with its length, and the frame header.
_SEGMENTS = re.compile(rb"\xff\xd8|\xff+([\xc0-\xfe])(..)", re.DOTALL)
_FRAME_HEADERS: Final = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}
_SCAN: Final = 0xDA
_LOSSY_JPEG: Final = {0xC0: JPEG_BASELINE, 0xC1: JPEG_EXTENDED, 0xC2: JPEG_PROGRESSIVE}


def syntax_of(media_type: str, start: bytes) -> str | None:
    """The transfer syntax of bulk data of this media type that begins with `start`; None if it is not compressed."""
    media_type = OLD_NAMES.get(media_type, media_type)
    default = _DEFAULTS.get(media_type)
    if media_type in ("image/jpeg", "image/jls"):
        return _jpeg(start) or default
    reversible = _is_reversible(start)
    if media_type == "image/jp2" and reversible is False:
        return JPEG_2000
    if media_type == "image/jphc" and reversible is False:
        return HTJ2K
    return default


def _jpeg(start: bytes) -> str | None:
    """What a JPEG or JPEG-LS stream is; None if its first bytes do not tell."""
    at, frame = 0, 0
    while (found := _SEGMENTS.match(start, at)) is not None:
        if found[1] is None:
            at = found.end()
            continue
        marker = found[1][0]
        if marker in _LOSSY_JPEG:
            return _LOSSY_JPEG[marker]
        if marker in _FRAME_HEADERS:
            frame = marker
        length = int.from_bytes(found[2], "big")
        if marker == _SCAN and frame:
            return _lossless_jpeg(frame, start[found.end() : found.end() + length - 2])
        at = found.end() + length - 2
    return None


def _lossless_jpeg(frame: int, scan: bytes) -> str | None:
    """By the scan header, whose third last byte is the predictor of lossless JPEG, and NEAR of JPEG-LS."""
    if len(scan) < 4:
        return None
    if frame == 0xF7:
        return JPEG_LS if scan[-3] == 0 else JPEG_LS_LOSSY
    return JPEG_LOSSLESS_SV1 if scan[-3] == 1 else JPEG_LOSSLESS


def _is_reversible(start: bytes) -> bool | None:
    """Whether the wavelet of a JPEG 2000 codestream is the reversible one (ISO/IEC 15444-1 A.6.1); None if unknown."""
    at = start.find(b"\xff\x52")
    return start[at + 13] == 1 if 0 <= at < len(start) - 13 else None
