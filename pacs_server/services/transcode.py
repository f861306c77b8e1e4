"""Lossless transcoding of a stored instance into an uncompressed transfer syntax.

Pixel values come out as they are decoded and nothing else changes: elements that say nothing about
how pixels are encoded keep their bytes. Video and the like cannot be had uncompressed.
"""

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs_server.dicom.codecs import BROKEN_DATA, decoder_for
from pacs_server.dicom.encoding import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Encoding, inflated
from pacs_server.dicom.pixels import LENGTH_LIMIT, native
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode
from pacs_server.errors import TranscodeError

_NATIVE: dict[str, Encoding] = {
    ImplicitVRLittleEndian: IMPLICIT_LE,
    ExplicitVRLittleEndian: EXPLICIT_LE,
    DeflatedExplicitVRLittleEndian: EXPLICIT_LE,
    ExplicitVRBigEndian: EXPLICIT_BE,
}
_TARGETS: dict[str, Encoding] = {ExplicitVRLittleEndian: EXPLICIT_LE, ImplicitVRLittleEndian: IMPLICIT_LE}


def transcode(data: bytes | memoryview, stored_transfer_syntax: str, wanted: str) -> bytes:
    """The data set `data` in the transfer syntax `wanted`.

    `wanted` is Explicit or Implicit VR Little Endian, or the stored one, which changes nothing.
    Raises TranscodeError when there is no lossless way.
    """
    if wanted == stored_transfer_syntax:
        return bytes(data)
    try:
        return _transcoded(memoryview(data), stored_transfer_syntax, wanted)
    except (TranscodeError, *BROKEN_DATA) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        names = f"{UID(stored_transfer_syntax).name} ({stored_transfer_syntax}) to {UID(wanted).name}"
        raise TranscodeError(f"cannot transcode {names}: {reason}") from error


def can_transcode(stored_transfer_syntax: str, wanted: str) -> bool:
    """Whether there is a way from one transfer syntax to the other, if the data are in order."""
    if wanted == stored_transfer_syntax:
        return True
    try:
        return wanted in _TARGETS and (stored_transfer_syntax in _NATIVE or bool(decoder_for(stored_transfer_syntax)))
    except TranscodeError:
        return False


def _transcoded(data: memoryview, stored: str, wanted: str) -> bytes:
    if wanted not in _TARGETS:
        raise TranscodeError("only uncompressed little endian can be made")
    target, source = _TARGETS[wanted], _NATIVE.get(stored, EXPLICIT_LE)
    decoder = None if stored in _NATIVE else decoder_for(stored)
    if stored == DeflatedExplicitVRLittleEndian:
        data = _inflated(data)
    source = actual_encoding(data, source)
    elements = read_elements(data, source)
    if source == target and decoder is None:
        return bytes(data)
    return encode(elements if decoder is None else native(elements, decoder), target)


def _inflated(data: memoryview) -> memoryview:
    plain, ended = inflated(data, LENGTH_LIMIT)
    if not ended:
        raise TranscodeError("the deflated data set is truncated or too long")
    return memoryview(plain)


def actual_encoding(data: bytes | memoryview, source: Encoding) -> Encoding:
    """`source`, or the other VR encoding where the first element shows that some writer got it wrong."""
    vr = bytes(data[4:6])
    if len(data) < 8 or not source.little_endian or (vr.isalpha() and vr.isupper()) != source.implicit_vr:
        return source
    return EXPLICIT_LE if source.implicit_vr else IMPLICIT_LE
