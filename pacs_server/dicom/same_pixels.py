"""Compares Pixel Data of two data sets, one of them encapsulated at least, frame by frame (PS3.5 8, A.4)."""

import io
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from pydicom.uid import (
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pacs_server.dicom.codecs import DEFLATED_IMAGE_FRAME, JPEG_XL_LOSSLESS, decoder_for
from pacs_server.dicom.element_stream import DataSetBytes, StreamedElement, fragments
from pacs_server.dicom.pixels import ImageDescription, decoded_frames
from pacs_server.errors import TranscodeError

# Only these never lose anything. JPEG 2000 (.91) and JPEG XL (.112) may or may not.
_LOSSLESS = frozenset(
    {RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL}
    | {JPEG_XL_LOSSLESS, DEFLATED_IMAGE_FRAME}
)
# Codecs need a whole frame in memory. Larger ones are not decoded.
_MAX_FRAME = 1 << 28


def same_pixels(one: StreamedElement, other: StreamedElement, *, described_alike: bool) -> bool:
    """Whether two Pixel Data elements hold the same pixels; raises TranscodeError if that cannot be known.

    `described_alike` says that the attributes before Pixel Data are the same. Otherwise the photometric interpretations
    after decoding have to be the same. Pixels are never the same if a lossy codec is involved, unless both are the same
    codestreams.
    """
    first, second = _Pixels(one), _Pixels(other)
    if described_alike and first.fragments_equal(second):
        return True
    if not first.is_lossless or not second.is_lossless:
        return False
    return same_bytes(first.decoded(), second.decoded(), b"\0", 1) and first.colour == second.colour


def same_bytes(one: Iterator[bytes], other: Iterator[bytes], padding: bytes, most: int | None = None) -> bool:
    """Whether two values, in chunks of any lengths, are the same but for bytes of `padding` at the end of the longer.

    There may be `most` of these bytes. If the values are the same, both have been read to their ends.
    """
    rest = left = b""
    while (rest := rest or next(one, b"")) and (left := left or next(other, b"")):
        common = min(len(rest), len(left))
        if rest[:common] != left[:common]:
            return False
        rest, left = rest[common:], left[common:]
    longer = 0
    for chunk in chain((rest, left), one, other):
        longer += len(chunk)
        if chunk.strip(padding) or (most is not None and longer > most):
            return False
    return True


class _Pixels:
    """Pixel Data of one side; `colour` is the photometric interpretation once `decoded` has been read.

    `span` is where encapsulated Pixel Data begins and ends in the data set; None if it is native.
    """

    def __init__(self, element: StreamedElement) -> None:
        self.colour = ""
        self._element = element
        self._description = element.level.image
        self.data_set = element.level.data_set
        self.span = element.skip_fragments() if element.is_encapsulated else None

    @property
    def is_lossless(self) -> bool:
        """Whether the pixels are as they were before they were encoded."""
        return self.span is None or self.data_set.transfer_syntax_uid in _LOSSLESS

    def fragments_equal(self, other: "_Pixels") -> bool:
        """Whether both are the same codestreams; offset tables and the division into fragments do not count."""
        if self.span is None or other.span is None:
            return False
        if self.data_set.transfer_syntax_uid != other.data_set.transfer_syntax_uid:
            return False
        one, two = fragments(self.data_set, *self.span), fragments(other.data_set, *other.span)
        return same_bytes(one, two, b"\0", 1)

    def decoded(self) -> Iterator[bytes]:
        """The pixels in chunks, samples interleaved."""
        image = ImageDescription.of(self._description)
        if image.pixels_per_frame * image.bits_allocated > 8 * _MAX_FRAME:
            raise TranscodeError("a frame is too large to be decoded")
        if self.span is None:
            return self._native(image)
        frames = self._frames(*self.span)
        return frames if image.bits_allocated > 1 else _packed(frames)

    def _frames(self, start: int, end: int) -> Iterator[bytes]:
        decoder = decoder_for(self.data_set.transfer_syntax_uid)
        file = io.BufferedReader(_Part(self.data_set, start, end))
        for frame, colour in decoded_frames(self._description, file, decoder):
            self.colour = colour
            yield frame

    def _native(self, image: ImageDescription) -> Iterator[bytes]:
        self.colour = image.photometric_interpretation
        if self._element.length not in (image.size, image.size + 1):
            raise TranscodeError("Pixel Data is not as long as its attributes say")
        chunks = self._element.chunks()
        return chunks if image.planar_configuration == 0 else _interleaved(chunks, image)


class _Part(io.RawIOBase):
    """Encapsulated Pixel Data as a file, which decoders read frame by frame."""

    def __init__(self, data_set: DataSetBytes, start: int, end: int) -> None:
        self._data_set = data_set
        self._start = start
        self._size = end - start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._at)
        data = self._data_set.read(self._start + self._at, wanted) if wanted > 0 else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _packed(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Single-bit pixels, of which each comes as a byte, packed without padding between frames (PS3.5 8.1.1)."""
    rest = np.empty(0, "u1")
    for frame in frames:
        pixels = np.concatenate((rest, np.frombuffer(frame, "u1")))
        end = len(pixels) - len(pixels) % 8
        rest = pixels[end:]
        if end:
            yield np.packbits(pixels[:end], bitorder="little").tobytes()
    if len(rest):
        yield np.packbits(rest, bitorder="little").tobytes()


def _interleaved(chunks: Iterator[bytes], image: ImageDescription) -> Iterator[bytes]:
    """Frames with Planar Configuration 1, colour by plane, as frames with colour by pixel (PS3.3 C.7.6.3.1.3)."""
    sample = image.bits_allocated // 8
    size = image.pixels_per_frame * sample
    frame = bytearray()
    for chunk in chunks:
        frame += chunk
        while size and len(frame) >= size:
            planes = np.frombuffer(bytes(frame[:size]), f"V{sample}").reshape(image.samples_per_pixel, -1)
            yield planes.T.tobytes()
            del frame[:size]
    if frame:
        yield bytes(frame)
