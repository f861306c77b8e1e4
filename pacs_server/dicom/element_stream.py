"""Reads a data set forwards, element by element, with one piece of it in memory at a time (PS3.5 7).

`reader` gives all elements of a data set at once and needs the whole data set in memory. Here the value of an element
comes in chunks, and every value has to be read before the next element. Malformed data raises TranscodeError.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pacs_server.dicom.element import Element
from pacs_server.dicom.encoding import EXPLICIT_LE, IMPLICIT_LE, Encoding, encoding_of, is_deflated
from pacs_server.dicom.pixels import IMAGE_TAGS
from pacs_server.dicom.tags import (
    BITS_ALLOCATED,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    is_private_creator,
    tag_text,
)
from pacs_server.dicom.vr import SHORT_VRS, WORD_BYTES, implicit_vr, looks_like_vr
from pacs_server.errors import TranscodeError

_READ_SIZE = 1024 * 1024
# Most headers end within so many bytes, and most heads behind a value that was skipped within so many.
_HEADER_SIZE = 64 * 1024
_BEHIND_SKIPPED = 4 * 1024
_MAX_DEPTH = 64
_SHORT_VRS = {vr.encode(): vr for vr in SHORT_VRS}


@dataclass(frozen=True, slots=True)
class DataSetBytes:
    """An encoded data set; `read(offset, length)` returns the bytes at any offset, fewer where the data set ends."""

    read: Callable[[int, int], bytes]
    size: int
    transfer_syntax_uid: str

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `end`, which is the end of the data set if it is not given."""
        end = self.size if end is None else end
        while start < end and (piece := self.read(start, min(_READ_SIZE, end - start))):
            yield piece
            start += len(piece)

    def elements(self) -> "ElementStream":
        """The elements of the data set, for somebody who reads most of the values."""
        return self._elements(ByteStream(self._plain(self.pieces())))

    def heads(self) -> "ElementStream":
        """The elements of the data set, for somebody who skips long values, which are then not read."""
        pieces = self._growing_pieces(0, _HEADER_SIZE)
        if is_deflated(self.transfer_syntax_uid):
            return self._elements(ByteStream(self._plain(pieces)))
        return self._elements(ByteStream(pieces, jump=self._jump))

    def heads_from(self, start: int, encoding: Encoding) -> "ElementStream":
        """The elements from the one at `start` on, as `heads`; `encoding` is how they are known to be encoded."""
        source = ByteStream(self._growing_pieces(start, _BEHIND_SKIPPED), jump=self._jump)
        source.position = start
        return ElementStream(self, source, encoding)

    def _elements(self, source: "ByteStream") -> "ElementStream":
        return ElementStream(self, source, _actual(source.peek(6), encoding_of(self.transfer_syntax_uid)))

    def _plain(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        return _inflated(pieces) if is_deflated(self.transfer_syntax_uid) else pieces

    def _growing_pieces(self, start: int, size: int) -> Iterator[bytes]:
        while start < self.size and (piece := self.read(start, min(size, self.size - start))):
            yield piece
            start += len(piece)
            size = min(2 * size, _READ_SIZE)

    def _jump(self, position: int) -> Iterator[bytes]:
        if position > self.size:
            raise TranscodeError("the data set ends within an element")
        return self._growing_pieces(position, _BEHIND_SKIPPED)


class ByteStream:
    """Bytes that come in pieces, read forwards; `position` is how many have been read."""

    def __init__(self, pieces: Iterator[bytes], *, jump: Callable[[int], Iterator[bytes]] | None = None) -> None:
        """`jump` returns the pieces from any position on, if the bytes can be read from there."""
        self._pieces = pieces
        self._jump = jump
        self._piece = b""
        self._at = 0
        self.position = 0

    @property
    def is_seekable(self) -> bool:
        """Whether `position` is an offset in bytes that can be read from anywhere."""
        return self._jump is not None

    def peek(self, length: int) -> bytes:
        """The next `length` bytes without reading them, fewer where the bytes end."""
        while len(self._piece) - self._at < length and (piece := next(self._pieces, b"")):
            self._piece, self._at = self._piece[self._at :] + piece, 0
        return self._piece[self._at : self._at + length]

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        return b"".join(self.chunks(length))

    def chunks(self, length: int) -> Iterator[bytes]:
        """The next `length` bytes in chunks."""
        while length:
            if self._at == len(self._piece):
                self._piece, self._at = next(self._pieces, b""), 0
            chunk = self._piece[self._at : self._at + length]
            if not chunk:
                raise TranscodeError("the data set ends within an element")
            self._at += len(chunk)
            self.position += len(chunk)
            length -= len(chunk)
            yield chunk

    def skip(self, length: int) -> None:
        """Step over the next `length` bytes; those that were not read yet are not read if there is a way around."""
        if self._jump is None or length <= len(self._piece) - self._at:
            for _ in self.chunks(length):
                pass
            return
        self._pieces = self._jump(self.position + length)
        self._piece, self._at = b"", 0
        self.position += length


class ElementStream:
    """The elements of a data set or item.

    What was read by `value` is known from then on: `creators` are the private creators (the last byte of the element
    number to the name), which Implicit VR needs, and `image` the elements that describe pixels.
    """

    def __init__(
        self,
        data_set: DataSetBytes,
        source: ByteStream,
        encoding: Encoding,
        *,
        length: int = UNDEFINED_LENGTH,
        around: "ElementStream | None" = None,
    ) -> None:
        """`around` is the data set or item that holds this item; without it, the elements go on to the last byte."""
        self.data_set = data_set
        self.source = source
        self.encoding = encoding
        self.creators: dict[int, str] = {}
        self.image: dict[int, Element] = {}
        self.depth: int = 0 if around is None else around.depth + 1
        self._around = around
        self._end = None if length == UNDEFINED_LENGTH else source.position + length
        self._plain_head = struct.Struct(f"{encoding.byte_order}HHL").unpack
        self._explicit_head = struct.Struct(f"{encoding.byte_order}HH2sH").unpack
        self._long_length = struct.Struct(f"{encoding.byte_order}L").unpack
        if self.depth > _MAX_DEPTH:
            raise TranscodeError(f"sequences nested deeper than {_MAX_DEPTH}")

    @property
    def bits_allocated(self) -> int:
        """Bits Allocated of this item, or of what is around it."""
        if BITS_ALLOCATED in self.image:
            return self.image[BITS_ALLOCATED].number
        return 16 if self._around is None else self._around.bits_allocated

    def next(self) -> "StreamedElement | None":
        """The next element, None at the end; the value of the one before has been read."""
        if self._is_at_end():
            return None
        raw = self.source.take(8)
        group, number, length = self._plain_head(raw)
        tag = group << 16 | number
        if tag == ITEM_END and self._end is None and self._around is not None:
            return None
        if group == 0xFFFE:
            raise TranscodeError(f"{tag_text(tag)} stands where an element should")
        vr = implicit_vr(tag, self.creators) if self.encoding.implicit_vr else ""
        if not vr:
            vr, length = self._explicit(raw)
        if length != UNDEFINED_LENGTH:
            self._check(length)
        elif tag != PIXEL_DATA and vr not in ("SQ", "UN"):
            raise TranscodeError(f"{tag_text(tag)} {vr} has undefined length")
        return StreamedElement(self, tag, vr, length)

    def _is_at_end(self) -> bool:
        if self._end is not None and self.source.position > self._end:
            raise TranscodeError("an item is shorter than what it holds")
        if self._around is not None:
            return self.source.position == self._end
        rest = self.source.peek(8)
        # What is too short for an element and all zero is padding that some writers add.
        return len(rest) < 8 and not any(rest)

    def _explicit(self, raw: bytes) -> tuple[str, int]:
        _, _, raw_vr, length = self._explicit_head(raw)
        if vr := _SHORT_VRS.get(raw_vr):
            return vr, length
        if not looks_like_vr(raw_vr):
            raise TranscodeError("an element has no valid VR")
        return raw_vr.decode("ascii"), self._long_length(self.source.take(4))[0]

    def _check(self, length: int) -> None:
        if self._end is not None and self.source.position + length > self._end:
            raise TranscodeError("an element is longer than what holds it")


class StreamedElement:
    """One element whose value has not been read yet.

    `items`, `chunks`, `value`, `skip` or `skip_fragments` read it, once.
    """

    def __init__(self, level: ElementStream, tag: int, vr: str, length: int) -> None:
        self.level = level
        self.tag = tag
        self.vr = vr
        self.length = length

    @property
    def has_vr(self) -> bool:
        """Whether the data set itself says what VR the element has."""
        return not self.level.encoding.implicit_vr and self.vr != "UN"

    @property
    def is_encapsulated(self) -> bool:
        """Whether the value is encapsulated Pixel Data (PS3.5 A.4)."""
        return self.tag == PIXEL_DATA and self.length == UNDEFINED_LENGTH

    @property
    def is_sequence(self) -> bool:
        """Whether the value is known to be items. The value of a UN element of defined length may be items as well."""
        return self.vr == "SQ" or (self.length == UNDEFINED_LENGTH and self.tag != PIXEL_DATA)

    def items(self) -> Iterator[ElementStream]:
        """The items; each has to be read to its end before the next one."""
        source = self.level.source
        end = None if self.length == UNDEFINED_LENGTH else source.position + self.length
        # PS3.5 6.2.2: the value of a UN element is in Implicit VR Little Endian.
        encoding = IMPLICIT_LE if self.vr == "UN" else self.level.encoding
        while end is None or source.position < end:
            tag, length = _item_head(source, encoding)
            if tag == SEQUENCE_END and end is None:
                return
            beyond = end is not None and length != UNDEFINED_LENGTH and source.position + length > end
            if tag != ITEM or beyond:
                raise TranscodeError(f"{tag_text(tag)} stands where an item should, or is too long")
            yield ElementStream(self.level.data_set, source, encoding, length=length, around=self.level)
        if end is not None and source.position > end:
            raise TranscodeError("an item is longer than what holds it")

    def chunks(self) -> Iterator[bytes]:
        """The value in little endian, in chunks."""
        chunks = self.level.source.chunks(self.length)
        word = self.word
        return chunks if word == 1 else _swapped(chunks, word)

    def value(self, limit: int) -> bytes:
        """The value in little endian; raises TranscodeError if it is longer than `limit`."""
        tag, level = self.tag, self.level
        if self.length > limit:
            raise TranscodeError(f"{tag_text(tag)} is too long")
        value = b"".join(self.chunks())
        if tag in IMAGE_TAGS:
            level.image[tag] = Element(tag, self.vr, value)
        elif is_private_creator(tag):
            level.creators[tag & 0xFFFF] = value.decode("latin-1").strip(" \0")
        return value

    def skip(self) -> None:
        """Step over the value, whatever it is."""
        if self.length != UNDEFINED_LENGTH:
            self.level.source.skip(self.length)
        elif self.is_encapsulated:
            self.skip_fragments()
        else:
            for item in self.items():
                while (element := item.next()) is not None:
                    element.skip()

    def skip_fragments(self) -> tuple[int, int]:
        """Read over encapsulated Pixel Data; returns where its first item begins in the data set and its last one ends.

        Only a data set that is not deflated has such places.
        """
        source = self.level.source
        if is_deflated(self.level.data_set.transfer_syntax_uid):
            raise TranscodeError("encapsulated Pixel Data in a deflated data set")
        start, tag = source.position, ITEM
        while tag == ITEM:
            tag, length = _item_head(source, self.level.encoding)
            if tag == ITEM:
                source.skip(length)
        if tag != SEQUENCE_END:
            raise TranscodeError("the fragments of Pixel Data have no end")
        return start, source.position - 8

    @property
    def word(self) -> int:
        """The number of bytes to reverse together to have the value in little endian; 1 if it is so already."""
        if self.level.encoding.little_endian:
            return 1
        if self.tag == PIXEL_DATA and self.vr == "OW" and self.level.bits_allocated > 16:
            return self.level.bits_allocated // 8  # PS3.5 7.3: a pixel is one number
        return WORD_BYTES.get(self.vr, 1)


def fragments(data_set: DataSetBytes, start: int, end: int) -> Iterator[bytes]:
    """The bytes of the fragments between two places that `skip_fragments` returned, without the offset table."""
    source = ByteStream(data_set.pieces(start, end))
    _, length = _item_head(source, EXPLICIT_LE)
    for _ in source.chunks(length):
        pass
    while source.position < end - start:
        _, length = _item_head(source, EXPLICIT_LE)
        yield from source.chunks(length)


def _item_head(source: ByteStream, encoding: Encoding) -> tuple[int, int]:
    """Tag and length of an item or delimiter, which have no VR (PS3.5 7.5)."""
    group, number, length = struct.unpack(f"{encoding.byte_order}HHL", source.take(8))
    return group << 16 | number, length


def _swapped(chunks: Iterator[bytes], word: int) -> Iterator[bytes]:
    if word not in (2, 4, 8):
        raise TranscodeError(f"nothing can be byte-swapped by {word}")
    rest = b""
    for chunk in chunks:
        whole = rest + chunk
        end = len(whole) - len(whole) % word
        rest = whole[end:]
        if end:
            yield np.frombuffer(whole[:end], dtype=f"u{word}").byteswap().tobytes()
    if rest:
        raise TranscodeError(f"a value cannot be byte-swapped by {word}")


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            plain = inflater.decompress(piece, _READ_SIZE)
            while plain:
                yield plain
                plain = b"" if inflater.eof else inflater.decompress(inflater.unconsumed_tail, _READ_SIZE)
            if inflater.eof:
                return
    except zlib.error as error:
        raise TranscodeError("the deflated data set cannot be inflated") from error
    raise TranscodeError("the deflated data set is truncated")


def _actual(start: bytes, encoding: Encoding) -> Encoding:
    """`encoding`, or the other VR encoding where the first element shows that the writer used that one."""
    if len(start) < 6 or not encoding.little_endian or looks_like_vr(start[4:6]) != encoding.implicit_vr:
        return encoding
    return EXPLICIT_LE if encoding.implicit_vr else IMPLICIT_LE
