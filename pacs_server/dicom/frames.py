"""Finds where each frame of an image lies in its data set, without reading the pixels (PS3.3 C.7.6.3, PS3.5 8, A.4).

A `FrameMap` is found once, can be kept (`encode`, `decode`), and then says for one frame which bytes to read. Frames
are counted from 1, as in PS3.18. Offsets count from the first byte of the data set.
"""

import json
import zlib
from array import array
from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise
from sys import byteorder
from typing import Protocol

import numpy as np

from pacs_server.dicom.element import Element
from pacs_server.dicom.encoding import EXPLICIT_BE, EXPLICIT_LE, Encoding, encoding_of
from pacs_server.dicom.fragments import Table, bounds_of, fragments_in
from pacs_server.dicom.pixels import IMAGE_TAGS, PHOTOMETRIC_INTERPRETATION, ImageDescription
from pacs_server.dicom.skim import Cut, ElementPosition, Skimmer
from pacs_server.dicom.tags import BITS_ALLOCATED, PIXEL_DATA, PIXEL_REPRESENTATION, UNDEFINED_LENGTH
from pacs_server.errors import FrameNotFound, InvalidInstance, TranscodeError

FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00008, 0x7FE00009
_PIXELS = (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA)
_BITS_STORED = 0x00280101
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002
# How much of the data set is read to find Pixel Data: the header is nearly always within the first of these sizes.
_HEADS = (1 << 16, 1 << 20, 1 << 23, 1 << 26)
_MAX_ELEMENTS = 4_000_000
_VERSION = 1


class Readable(Protocol):
    """A data set that can be read from any offset."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on; fewer where the data set ends."""


@dataclass(frozen=True, slots=True)
class FrameMap:
    """Where the frames of a data set lie.

    `image` describes the pixels. `header_end` is where the element with the pixels begins, whose tag is `tag`; what is
    needed to understand the pixels lies before it. Native frames lie one after the other between `start` and `end`,
    each of `frame_bits` bits; `word` is the number of bytes to reverse together (1 in little endian). Encapsulated
    frames have `frame_bits` 0 and `bounds`, one more than frames: between two of them lie the items of one frame. If
    `single`, each frame is known to be one item.
    """

    image: ImageDescription
    tag: int
    header_end: int
    start: int
    end: int
    frame_bits: int = 0
    word: int = 1
    single: bool = False
    bounds: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def is_encapsulated(self) -> bool:
        """Whether each frame is a codestream of its own."""
        return not self.frame_bits

    @property
    def memory(self) -> int:
        """How many bytes of memory the map takes, roughly."""
        return 1000 + self.bounds.itemsize * len(self.bounds)

    @property
    def count(self) -> int:
        """The number of frames."""
        return self.image.number_of_frames

    def check(self, number: int) -> None:
        """Raise FrameNotFound unless there is a frame of this number."""
        if not 1 <= number <= self.count:
            raise FrameNotFound(f"there is no frame {number}, the instance has {self.count}")

    def ranges(self, source: Readable, number: int) -> list[tuple[int, int]]:
        """Offset and length of the pieces that make up a frame as it is stored, without the tags of items.

        Raises FrameNotFound, and BrokenTable if the offset table of the data set turns out to be wrong. Only a frame
        that `is_aligned` begins and ends with a byte.
        """
        self.check(number)
        if self.is_encapsulated:
            start, end = self.bounds[number - 1], self.bounds[number]
            return [(start + 8, end - start - 8)] if self.single else fragments_in(source, start, end)
        first = self.start + (number - 1) * self.frame_bits // 8
        last = self.start + (number * self.frame_bits + 7) // 8
        if last > self.end:
            raise TranscodeError(f"Pixel Data ends before frame {number}")
        return [(first, last - first)]

    @property
    def is_aligned(self) -> bool:
        """Whether the stored bytes of a frame are the frame: it begins with a byte, and is in little endian."""
        return self.is_encapsulated or (self.frame_bits % 8 == 0 and self.word == 1)

    def read(self, source: Readable, number: int, pieces: list[tuple[int, int]] | None = None) -> bytes:
        """One frame: its codestream, or its native pixels in little endian, single bits from the first byte on.

        `pieces` are the ranges, if they are known. Raises as `ranges`, and TranscodeError if the data set is cut.
        """
        pieces = pieces or self.ranges(source, number)
        if not self.is_aligned:
            return self._unaligned(source, number, *pieces[0])
        data = [source.read(*piece) for piece in pieces]
        if any(len(piece) != length for piece, (_, length) in zip(data, pieces, strict=True)):
            raise TranscodeError("the data set ends within a frame")
        return data[0] if len(data) == 1 else b"".join(data)

    def _unaligned(self, source: Readable, number: int, first: int, length: int) -> bytes:
        before = (first - self.start) % self.word
        data = source.read(first - before, -(-(before + length) // self.word) * self.word)
        if self.word > 1:
            # PS3.5 7.3: big endian reverses whole words, and a frame of bytes may begin in the middle of one.
            data = np.frombuffer(data[: len(data) // self.word * self.word], f"u{self.word}").byteswap().tobytes()
        data = data[before : before + length]
        if len(data) != length:
            raise TranscodeError("the data set ends within a frame")
        shift = (number - 1) * self.frame_bits % 8
        if self.frame_bits % 8 == 0:
            return data
        # PS3.5 8.1.1: there is no padding between frames of single bits.
        bits = np.unpackbits(np.frombuffer(data, "u1"), bitorder="little")[shift : shift + self.frame_bits]
        return np.packbits(bits, bitorder="little").tobytes()

    def encode(self) -> bytes:
        """The map in a few bytes, or a few for each frame, for `decode`."""
        plain = [astuple(self.image), self.tag, self.header_end, self.start, self.end]
        head = json.dumps([_VERSION, *plain, self.frame_bits, self.word, self.single])
        steps = array("Q", [b - a for a, b in pairwise((0, *self.bounds))])
        if byteorder == "big":
            steps.byteswap()
        return zlib.compress(head.encode("ascii") + b"\n" + steps.tobytes())

    @classmethod
    def decode(cls, data: bytes) -> "FrameMap | None":
        """The map that `encode` put into these bytes; None if broken, or from another version of this program."""
        try:
            return cls._decoded(data)
        except (ValueError, TypeError, zlib.error):
            return None

    @classmethod
    def _decoded(cls, data: bytes) -> "FrameMap | None":
        head, _, raw = zlib.decompress(data).partition(b"\n")
        version, *plain = json.loads(head)
        if version != _VERSION:
            return None
        image, tag, header_end, start, end, frame_bits, word, single = plain
        bounds = array("Q", np.frombuffer(raw, "<u8").cumsum(dtype="u8").tobytes())
        return cls(ImageDescription(*image), tag, header_end, start, end, frame_bits, word, single, bounds)


def find_frames(source: Readable, transfer_syntax_uid: str, *, trust_tables: bool = True) -> FrameMap:
    """Find the frames of a data set that is not deflated; without `trust_tables`, whatever its offset tables say.

    Reads the header, and for encapsulated frames without an offset table the heads of all fragments. Raises
    FrameNotFound if there are no pixels, TranscodeError if frames cannot be told apart.
    """
    encoding = encoding_of(transfer_syntax_uid)
    found, pixels, at, encoding = _find(source, encoding)
    image = _described(found, pixels.tag)
    if pixels.length == UNDEFINED_LENGTH:
        table = Table(image.number_of_frames, *(found[t].content if t in found else b"" for t in (_OFFSETS, _LENGTHS)))
        bounds, single = bounds_of(source, pixels.start, table, trust_tables=trust_tables)
        return FrameMap(image, pixels.tag, at, bounds[0], bounds[-1], single=single, bounds=bounds)
    bits = image.pixels_per_frame * image.bits_allocated
    if image.photometric_interpretation == "YBR_FULL_422":
        bits = bits // 3 * 2  # PS3.3 C.7.6.3.1.2: two luminance samples share one of each colour
    if not bits:
        raise FrameNotFound("the instance has no pixels")
    word = 1 if encoding.little_endian else _word(pixels, image)
    end = min(pixels.start + pixels.length, source.size)
    return FrameMap(image, pixels.tag, at, pixels.start, end, bits, word)


def find_codestream(source: Readable, transfer_syntax_uid: str) -> FrameMap:
    """A map whose one frame is all of encapsulated Pixel Data, as for video; raises as `find_frames`."""
    found, pixels, at, _ = _find(source, encoding_of(transfer_syntax_uid))
    if pixels.length != UNDEFINED_LENGTH:
        raise FrameNotFound("Pixel Data is not encapsulated")
    image = replace(_described(found, pixels.tag), number_of_frames=1)
    bounds, single = bounds_of(source, pixels.start, Table(1))
    return FrameMap(image, pixels.tag, at, bounds[0], bounds[-1], single=single, bounds=bounds)


def _word(pixels: ElementPosition, image: ImageDescription) -> int:
    """The number of bytes that big endian reverses (PS3.5 7.3, A.2)."""
    if pixels.tag == PIXEL_DATA and pixels.vr == "OB":
        return 1
    return max(image.bits_allocated // 8, 2)


def _find(source: Readable, encoding: Encoding) -> tuple[dict[int, Element], ElementPosition, int, Encoding]:
    """The elements that describe the pixels, the element that holds them, where that begins, and the encoding."""
    for length in _HEADS:
        data = source.read(0, length)
        skimmer = Skimmer(data, encoding, max_elements=_MAX_ELEMENTS)
        starts: dict[int, int] = {}
        try:
            skimmer.heads(0, len(data), starts, _PIXELS)
        except Cut:
            pass
        except InvalidInstance as error:
            raise TranscodeError(str(error)) from error
        if (tag := next((tag for tag in _PIXELS if tag in starts), None)) is not None:
            return _elements(skimmer, starts, encoding), skimmer.element(starts[tag]), starts[tag], encoding
        if len(data) >= source.size:
            raise FrameNotFound("the instance has no pixels")
    raise TranscodeError("the attributes before the pixels are too long")


def _elements(skimmer: Skimmer, starts: dict[int, int], encoding: Encoding) -> dict[int, Element]:
    """The elements that describe the pixels."""
    little = EXPLICIT_LE if encoding.little_endian else EXPLICIT_BE
    found = [skimmer.element(starts[tag]) for tag in IMAGE_TAGS if tag in starts]
    return {each.tag: Element(each.tag, each.vr, skimmer.value(each), little) for each in found}


def _described(found: dict[int, Element], tag: int) -> ImageDescription:
    if tag != PIXEL_DATA:
        # PS3.3 C.7.6.24, C.7.6.25: floating point pixels have neither Bits Stored nor Pixel Representation.
        bits = found.get(BITS_ALLOCATED, Element(BITS_ALLOCATED, "US", bytes(2)))
        found = {_BITS_STORED: bits, PIXEL_REPRESENTATION: Element(PIXEL_REPRESENTATION, "US", bytes(2)), **found}
        found.setdefault(PHOTOMETRIC_INTERPRETATION, Element(PHOTOMETRIC_INTERPRETATION, "CS", b"MONOCHROME2 "))
    try:
        image = ImageDescription.of(found)
    except ValueError:
        raise TranscodeError("Number of Frames or Photometric Interpretation cannot be read") from None
    if image.number_of_frames < 1:
        raise FrameNotFound("the instance has no frames")
    return image
