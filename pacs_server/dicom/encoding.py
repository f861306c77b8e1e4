"""How a transfer syntax encodes a data set: with or without VRs, in which byte order, deflated or not (PS3.5 A)."""

import zlib
from dataclasses import dataclass

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacs_server.errors import TranscodeError


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a data set are encoded."""

    implicit_vr: bool = False
    little_endian: bool = True

    @property
    def byte_order(self) -> str:
        """The byte order as the prefix of a `struct` format."""
        return "<" if self.little_endian else ">"


IMPLICIT_LE = Encoding(implicit_vr=True)
EXPLICIT_LE = Encoding()
EXPLICIT_BE = Encoding(little_endian=False)
# Deflated Explicit VR, and the two JPIP Referenced Deflate ones: the data set itself is compressed (PS3.5 A.5).
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_ENCODINGS = {str(ImplicitVRLittleEndian): IMPLICIT_LE, str(ExplicitVRBigEndian): EXPLICIT_BE}


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """The encoding of a transfer syntax (PS3.5 10). For the deflated one, the encoding after inflating."""
    return _ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LE)


def is_deflated(transfer_syntax_uid: str) -> bool:
    """Whether the whole data set is compressed, and not only the pixels in it."""
    return transfer_syntax_uid in _DEFLATED


def deflated(data: bytes) -> bytes:
    """A data set as a raw deflate stream, padded to even length (PS3.5 A.5)."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = compressor.compress(data) + compressor.flush()
    return packed + b"\0" * (len(packed) % 2)


def inflated(data: bytes | memoryview, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of a deflated data set, and whether the stream ended with them; raises TranscodeError."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, limit)
    except zlib.error as error:
        raise TranscodeError("the deflated data set cannot be inflated") from error
    return plain, inflater.eof
