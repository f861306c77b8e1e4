"""The deflated transfer syntax: a raw deflate stream of the whole data set, padded to even length (PS3.5 A.5)."""

import zlib

from pacs_server.errors import TranscodeError


def deflated(data: bytes) -> bytes:
    """A data set as it goes on the wire."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = compressor.compress(data) + compressor.flush()
    return packed + b"\0" * (len(packed) % 2)


def inflated(data: bytes | memoryview, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of a data set, and whether the stream ended with them; raises TranscodeError."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, limit)
    except zlib.error as error:
        raise TranscodeError("the deflated data set cannot be inflated") from error
    return plain, inflater.eof
