"""Makes instances of what comes apart: a data set in the DICOM JSON Model, and its bulk data by URI (PS3.18 10.5).

The instance is made in pieces, so that its bulk data is never in memory as a whole. It is in Explicit VR Little Endian,
or in the transfer syntax of the compressed pixel data that comes with it.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from pacs_server.dicom.json_model import DataSet, element_text, text_of
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.dicom.tags import ITEM, ITEM_END, PIXEL_DATA, SEQUENCE_END, SPECIFIC_CHARACTER_SET, UNDEFINED_LENGTH
from pacs_server.dicom.tags import tag_text as tag_of
from pacs_server.dicom.text_encoder import Encode
from pacs_server.dicom.vr import BYTES_VRS, NUMBERS, padding
from pacs_server.dicom.writer import Writer, writer_for
from pacs_server.errors import InvalidInstance

# Bulk data that is not compressed is little endian bytes, whatever else is said of it (PS3.18 8.7.3.3.1).
_NATIVE: Final = {"", "*", "1.2.840.10008.1.2", EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.1.99"}
_LONGEST: Final = 0xFFFFFFFE
# Small elements are handed on together.
_PIECE: Final = 64 * 1024


class BulkData(Protocol):
    """The bytes of one value, or of one frame of it."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces."""


Bulk = Mapping[str, Sequence[BulkData]]
"""Bulk data by its URI: one for a value, or one for each frame of Pixel Data."""


def is_native(transfer_syntax_uid: str) -> bool:
    """Whether bulk data that is said to be in this transfer syntax is not compressed; "" and "*" say nothing."""
    return transfer_syntax_uid in _NATIVE


def instance_pieces(data_set: DataSet, transfer_syntax_uid: str, bulk: Bulk) -> Iterator[bytes]:
    """The encoded data set, in pieces. Raises InvalidInstance if a value does not fit or bulk data is missing.

    `transfer_syntax_uid` is Explicit VR Little Endian or one with encapsulated Pixel Data. Text is in the character set
    that the data set names if that can represent all of it, else in ISO_IR 192.
    """
    writer = writer_for(transfer_syntax_uid)
    charset, encode = _attempt(writer, data_set)
    encoder = _Encoder(writer, encode, bulk, encapsulated=not is_native(transfer_syntax_uid))
    return _joined(encoder.data_set(data_set, charset))


def _attempt(writer: Writer, data_set: DataSet) -> tuple[bytes, Encode]:
    """The first character set that can represent all text, as an element and as an encoder; the last one always can."""
    attempts = writer.attempts(text_of(data_set, f"{SPECIFIC_CHARACTER_SET:08X}"))
    texts = list(_texts(data_set))
    for charset, encode in attempts[:-1]:
        try:
            for text, vr in texts:
                encode(text, vr)
        except UnicodeEncodeError:
            continue
        return charset, encode
    return attempts[-1]


def _texts(data_set: DataSet) -> Iterator[tuple[str, str]]:
    for element in data_set.values():
        if element["vr"] == "SQ":
            for item in element.get("Value", ()):
                yield from _texts(item)
        elif element["vr"] not in NUMBERS and element["vr"] not in BYTES_VRS and element.get("Value"):
            yield element_text(element), element["vr"]


class _Encoder:
    """Encodes the elements of one instance."""

    def __init__(self, writer: Writer, encode: Encode, bulk: Bulk, *, encapsulated: bool) -> None:
        self._writer = writer
        self._encode = encode
        self._bulk = bulk
        self._encapsulated = encapsulated

    def data_set(self, data_set: DataSet, charset: bytes = b"") -> Iterator[bytes]:
        """The elements in the order of their tags, `charset` among them."""
        for tag in sorted(int(name, 16) for name in data_set):
            # PS3.5 7.1, 7.2: a data set begins at group 0008, and group lengths are retired.
            if tag < SPECIFIC_CHARACTER_SET or not tag & 0xFFFF:
                continue
            if tag > SPECIFIC_CHARACTER_SET and charset:
                yield charset
                charset = b""
            if tag != SPECIFIC_CHARACTER_SET:
                yield from self._element(tag, data_set[f"{tag:08X}"])
        yield charset

    def _element(self, tag: int, element: Mapping[str, Any]) -> Iterator[bytes]:
        vr = element["vr"]
        if vr == "SQ":
            return self._sequence(tag, element.get("Value", ()))
        if "BulkDataURI" in element:
            found = self._bulk.get(element["BulkDataURI"])
            if not found:
                raise InvalidInstance(f"the bulk data of {tag_of(tag)} is not in the request")
            return self._frames(found) if self._is_encapsulated(tag) else self._value(tag, vr, found)
        if vr in BYTES_VRS:
            inline = _Inline(base64.b64decode(element.get("InlineBinary", "")))
            encapsulated = self._is_encapsulated(tag) and inline.size
            return self._frames([inline]) if encapsulated else self._value(tag, vr, [inline])
        return iter((self._writer.element(tag, vr, self._plain(tag, vr, element)),))

    def _is_encapsulated(self, tag: int) -> bool:
        return self._encapsulated and tag == PIXEL_DATA

    def _plain(self, tag: int, vr: str, element: Mapping[str, Any]) -> bytes:
        values = element.get("Value", ())
        if vr in NUMBERS:
            raw = self._writer.numbers(vr, values)
            if values and not raw:
                raise InvalidInstance(f"a number in {tag_of(tag)} does not fit its VR")
            return raw
        if vr == "AT":
            return self._writer.tags(int(value, 16) for value in values)
        raw = self._encode(element_text(element), vr)
        if len(raw) > self._writer.limit(vr):
            raise InvalidInstance(f"the text of {tag_of(tag)} is too long for its VR")
        return raw

    def _sequence(self, tag: int, items: Iterable[DataSet]) -> Iterator[bytes]:
        """Of undefined length, because the length of bulk data within it is not asked for beforehand."""
        yield self._writer.head(tag, "SQ", UNDEFINED_LENGTH)
        for item in items:
            yield self._writer.head(ITEM, "", UNDEFINED_LENGTH)
            yield from self.data_set(item)
            yield self._writer.head(ITEM_END, "", 0)
        yield self._writer.head(SEQUENCE_END, "", 0)

    def _value(self, tag: int, vr: str, found: Sequence[BulkData]) -> Iterator[bytes]:
        size = sum(each.size for each in found)
        if size + size % 2 > _LONGEST:
            raise InvalidInstance(f"{tag_of(tag)} is longer than a value can be")
        yield self._writer.head(tag, vr, size + size % 2)
        for each in found:
            yield from each.pieces()
        if size % 2:
            yield padding(vr)

    def _frames(self, found: Sequence[BulkData]) -> Iterator[bytes]:
        """Encapsulated Pixel Data with an empty offset table, and one fragment for each frame (PS3.5 A.4)."""
        yield self._writer.head(PIXEL_DATA, "OB", UNDEFINED_LENGTH)
        yield self._writer.head(ITEM, "", 0)
        for frame in found:
            yield from self._value(ITEM, "OB", [frame])
        yield self._writer.head(SEQUENCE_END, "", 0)


class _Inline:
    """Bytes that stand in the data set."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.size = len(raw)

    def pieces(self) -> Iterator[bytes]:
        yield self._raw


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces."""
    waiting = bytearray()
    for piece in pieces:
        if waiting and len(waiting) + len(piece) > _PIECE:
            yield bytes(waiting)
            waiting.clear()
        if len(piece) >= _PIECE:
            yield piece
        else:
            waiting += piece
    if waiting:
        yield bytes(waiting)
