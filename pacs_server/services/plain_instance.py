"""A stored image in another transfer syntax, made while it is sent: one frame, or one piece, is in memory at a time.

`transcode` needs the whole instance in memory. Here only what lies before and behind the pixels is.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from pacs_server.dicom.codecs import BROKEN_DATA, decoder_for
from pacs_server.dicom.element import Element
from pacs_server.dicom.encoding import EXPLICIT_LE, encoding_of
from pacs_server.dicom.frame_codecs import Pixels
from pacs_server.dicom.frame_codecs import encode as encode_frame
from pacs_server.dicom.pixels import (
    ENCAPSULATED_ONLY,
    LENGTH_LIMIT,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    native,
)
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode
from pacs_server.dicom.tags import PIXEL_DATA, SEQUENCE_END, UNDEFINED_LENGTH
from pacs_server.dicom.vr import LONG_VRS, implicit_vr
from pacs_server.dicom.writer import Writer
from pacs_server.errors import TooLarge, TranscodeError
from pacs_server.services.frames import OpenFrames
from pacs_server.services.transcode import actual_encoding

_PIECE: Final = 256 * 1024
# What lies behind the pixels, such as signatures, is short.
_MOST_BEHIND: Final = 16 * 1024 * 1024
_writer = Writer(EXPLICIT_LE)


class _Image:
    """An image whose frames are made anew; its user closes it. For one thread at a time."""

    def __init__(self, frames: OpenFrames) -> None:
        """Read what is needed to begin. Raises TranscodeError, ResourceLimitation, StorageUnavailable.

        The frames are closed if that fails.
        """
        self._frames = frames
        self._map = frames.map
        self._first: Pixels | None = None
        self._syntax = frames.instance.transfer_syntax_uid
        try:
            self._encoding = actual_encoding(frames.source.read(0, 8), encoding_of(self._syntax))
            self._prepare()
            self._end = self._behind()
        except BROKEN_DATA as error:
            frames.close()
            raise TranscodeError(" ".join(str(error).split()) or type(error).__name__) from error
        except BaseException:
            frames.close()
            raise

    def close(self) -> None:
        """Close the stored instance."""
        self._frames.close()

    def _prepare(self) -> None:
        """Read what lies before the pixels, and the first frame."""
        raise NotImplementedError

    def _pixels(self, number: int) -> Pixels:
        pixels = self._frames.pixels(number) if number > 1 or self._first is None else self._first
        self._first = None
        return pixels

    def _before(self) -> bytes:
        """What lies before the pixels, with the colours of the first frame, whose samples are interleaved."""
        self._first = self._frames.pixels(1)
        colour = self._first.colour.encode("ascii")
        colour += b" " * (len(colour) % 2)
        changed = {PHOTOMETRIC_INTERPRETATION: Element(PHOTOMETRIC_INTERPRETATION, "CS", colour)}
        if self._map.image.samples_per_pixel > 1:
            changed[PLANAR_CONFIGURATION] = Element(PLANAR_CONFIGURATION, "US", bytes(2))
        elements = self._header()
        if self._map.is_encapsulated:
            elements = native(elements, decoder_for(self._syntax))
        by_tag = {element.tag: element for element in elements if element.tag not in ENCAPSULATED_ONLY} | changed
        return encode([by_tag[tag] for tag in sorted(by_tag)], EXPLICIT_LE)

    def _header(self) -> tuple[Element, ...]:
        return read_elements(memoryview(self._frames.header()), self._encoding)

    def _behind(self) -> bytes:
        # Encapsulated pixels end with a delimiter.
        start = self._map.end + (8 if self._map.is_encapsulated else 0)
        size = self._frames.source.size - start
        if size > _MOST_BEHIND:
            raise TooLarge("too much lies behind the pixels")
        data = self._frames.source.read(start, max(size, 0))
        return encode(read_elements(memoryview(data), self._encoding), EXPLICIT_LE)


class PlainInstance(_Image):
    """The data set of an image in Explicit VR Little Endian."""

    def _prepare(self) -> None:
        if self._map.is_encapsulated:
            self._begin, length = self._decoded_begin()
        else:
            self._begin, length = self._native_begin()
        self._length = length

    @property
    def size(self) -> int:
        """The length of the data set in bytes."""
        return len(self._begin) + self._length + len(self._end)

    def pieces(self) -> Iterator[bytes]:
        """The data set, once. Raises TranscodeError, StorageUnavailable."""
        yield self._begin
        if self._map.is_encapsulated:
            yield from self._decoded()
        else:
            yield from self._native()
        yield self._end

    # ---------------------------------------------------------------- encapsulated

    def _decoded_begin(self) -> tuple[bytes, int]:
        image = self._map.image
        if image.bits_allocated % 8:
            raise TranscodeError("frames of single bits are not decoded one by one")
        if image.size > LENGTH_LIMIT:
            raise TranscodeError("the uncompressed pixels do not fit into Pixel Data")
        length = image.size + image.size % 2
        # PS3.5 A.2: OW if Bits Allocated is more than 8.
        return self._before() + _writer.head(PIXEL_DATA, "OW" if image.bits_allocated > 8 else "OB", length), length

    def _decoded(self) -> Iterator[bytes]:
        for number in range(1, self._map.count + 1):
            samples = self._pixels(number).samples
            if samples.nbytes * self._map.count != self._map.image.size:
                raise TranscodeError("a frame has another size than its image says")
            yield samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes()
        if self._map.image.size % 2:
            yield b"\0"

    # ---------------------------------------------------------------- native

    def _native_begin(self) -> tuple[bytes, int]:
        length = self._map.end - self._map.start
        raw = self._frames.source.read(self._map.header_end, 8)
        vr = implicit_vr(self._map.tag, {}) if self._encoding.implicit_vr else raw[4:6].decode("latin-1")
        if vr not in LONG_VRS or length % self._map.word:
            raise TranscodeError("Pixel Data has a VR or a length that it cannot have")
        return encode(self._header(), EXPLICIT_LE) + _writer.head(self._map.tag, vr, length), length

    def _native(self) -> Iterator[bytes]:
        word = self._map.word
        for start in range(self._map.start, self._map.end, _PIECE):
            piece = self._frames.source.read(start, min(_PIECE, self._map.end - start))
            yield piece if word == 1 else np.frombuffer(piece, f"u{word}").byteswap().tobytes()


class EncodedInstance(_Image):
    """The data set of an image in a lossless compressed transfer syntax; its size is not known before it is made."""

    size = None

    def __init__(self, frames: OpenFrames, transfer_syntax_uid: str) -> None:
        """Encode the first frame; raises as `_Image`, and TranscodeError if there is no encoder for such pixels."""
        self._wanted = transfer_syntax_uid
        self._codestream: bytes | None = None
        super().__init__(frames)

    def _prepare(self) -> None:
        if self._map.tag != PIXEL_DATA or self._map.image.bits_allocated % 8:
            raise TranscodeError("such pixels have no form in this transfer syntax")
        # PS3.5 A.4: encapsulated Pixel Data are OB of undefined length and begin with an offset table, empty here.
        head = _writer.head(PIXEL_DATA, "OB", UNDEFINED_LENGTH) + _writer.item(b"")
        self._begin = self._before() + head
        self._codestream = self._encoded(1)

    def pieces(self) -> Iterator[bytes]:
        """The data set, once. Raises TranscodeError, StorageUnavailable."""
        yield self._begin
        for number in range(1, self._map.count + 1):
            made = self._codestream if number == 1 and self._codestream is not None else self._encoded(number)
            self._codestream = None
            yield _writer.item(made + b"\0" * (len(made) % 2))
        yield _writer.head(SEQUENCE_END, "", 0) + self._end

    def _encoded(self, number: int) -> bytes:
        return encode_frame(self._pixels(number), self._map, self._wanted)
