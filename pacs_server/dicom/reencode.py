"""A data set taken apart into elements and put together in another encoding, values kept as bytes.

No value is decoded on the way: text keeps its bytes whatever its character set, numbers are at most
byte-swapped. Pydicom's own writer decodes and encodes every value, which would change ill-formed ones.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacs_server.errors import TranscodeError

PIXEL_DATA = 0x7FE00010
BITS_ALLOCATED, PIXEL_REPRESENTATION = 0x00280100, 0x00280103
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 100
# Each takes about half a kilobyte while the data set is apart.
_MAX_ELEMENTS = 1_000_000
# PS3.5 7.1.2: these have a 16-bit length; all others, and those still to come, 32 bits.
_SHORT = frozenset({"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH"})
_SHORT |= {"SL", "SS", "ST", "TM", "UI", "UL", "US"}
# PS3.5 7.3: bytes in a word that byte ordering applies to; AT is two 16-bit numbers.
_WORD = {"AT": 2, "OW": 2, "SS": 2, "US": 2, "FL": 4, "OF": 4, "OL": 4, "SL": 4, "UL": 4}
_WORD |= {"FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is encoded (PS3.5 Annex A)."""

    implicit_vr: bool = False
    little_endian: bool = True


IMPLICIT_LE = Encoding(implicit_vr=True)
EXPLICIT_LE = Encoding()
EXPLICIT_BE = Encoding(little_endian=False)
_ENCODINGS = {ImplicitVRLittleEndian: IMPLICIT_LE, ExplicitVRBigEndian: EXPLICIT_BE}


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """The encoding of a transfer syntax, for the deflated one once it is inflated (PS3.5 10)."""
    return _ENCODINGS.get(transfer_syntax_uid, EXPLICIT_LE)


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a sequence."""

    elements: tuple["Element", ...]
    undefined_length: bool


@dataclass(frozen=True, slots=True)
class Element:
    """One data element.

    `value` holds items for a sequence, bytes in the byte order of `encoding` otherwise; with
    `undefined_length` and bytes it is all that stands before the sequence delimiter. `raw` is the
    element as it was read, None once anything in it was replaced.
    """

    tag: int
    vr: str
    value: bytes | memoryview | tuple[Item, ...]
    encoding: Encoding = EXPLICIT_LE
    undefined_length: bool = False
    raw: memoryview | None = None


@dataclass(slots=True)
class _Allowance:
    """How deep sequences may be nested, and how many elements may still come."""

    depth: int
    elements: int


def parse(
    data: memoryview, encoding: Encoding, *, max_depth: int = _MAX_DEPTH, max_elements: int = _MAX_ELEMENTS
) -> tuple[Element, ...]:
    """The elements of a data set; raises TranscodeError where it is broken, too deep or has too many of them."""
    return _Parser(data, encoding, _Allowance(max_depth, max_elements)).data_set(len(data))


def encode(elements: Iterable[Element], target: Encoding) -> bytes:
    """The elements as a data set in `target`, which is little endian; group lengths (retired) are left out."""
    return b"".join(_data_set(tuple(elements), target, _Pixel()))


class _Parser:
    def __init__(
        self, data: memoryview, encoding: Encoding, allowance: _Allowance, position: int = 0, depth: int = 0
    ) -> None:
        self._data = data
        self._allowance = allowance
        self._encoding = encoding
        self._byte_order = "<" if encoding.little_endian else ">"
        self._depth = depth
        self.position = position

    def data_set(self, end: int, *, delimited: bool = False) -> tuple[Element, ...]:
        elements: list[Element] = []
        creators: dict[int, str] = {}
        while self.position < end:
            if self._depth == 0 and end - self.position < 8 and not any(self._data[self.position : end]):
                break  # too short for an element: zeros that some writers pad with
            element = self._element(end, creators)
            if element.tag == _ITEM_END:
                if not delimited:
                    raise TranscodeError("an item ends that never began")
                return tuple(elements)
            elements.append(element)
        if delimited:
            raise TranscodeError("an item of undefined length has no end")
        return tuple(elements)

    def items(self, end: int, *, delimited: bool) -> tuple[Item, ...]:
        self._depth += 1
        if self._depth > self._allowance.depth:
            raise TranscodeError(f"sequences nested deeper than {self._allowance.depth}")
        items = tuple(self._items(end, delimited=delimited))
        self._depth -= 1
        return items

    def _items(self, end: int, *, delimited: bool) -> Iterator[Item]:
        while self.position < end:
            group, number, length = self._unpack("HHL", end)
            tag = group << 16 | number
            if tag == _SEQUENCE_END and delimited:
                return
            if tag != _ITEM:
                raise TranscodeError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) stands where an item should")
            self._count()
            undefined = length == _UNDEFINED
            item_end = end if undefined else self._end(length, end, tag)
            yield Item(self.data_set(item_end, delimited=undefined), undefined)
        if delimited:
            raise TranscodeError("a sequence of undefined length has no end")

    def _element(self, end: int, creators: dict[int, str]) -> Element:
        self._count()
        start = self.position
        tag, vr, length = self._header(end)
        if self._encoding.implicit_vr:
            vr = _implicit_vr(tag, creators)
        undefined = length == _UNDEFINED
        value: memoryview | tuple[Item, ...]
        if undefined:
            vr, value = self._undefined(tag, vr, end)
        elif vr == "SQ":
            value = self.items(self._end(length, end, tag), delimited=False)
        else:
            value_start, self.position = self.position, self._end(length, end, tag)
            value = self._data[value_start : self.position]
            if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
                creators[tag & 0xFFFF] = bytes(value).decode("latin-1").strip(" \0")
        return Element(tag, vr, value, self._encoding, undefined, self._data[start : self.position])

    def _undefined(self, tag: int, vr: str, end: int) -> tuple[str, memoryview | tuple[Item, ...]]:
        if tag == PIXEL_DATA:
            return "OB", self._span(self._fragments, end)
        if vr == "UN" and not self._encoding.implicit_vr:
            # PS3.5 6.2.2: UN of undefined length holds a sequence in Implicit VR Little Endian.
            return "UN", self._span(self._unknown, end)
        if vr not in {"SQ", "UN"}:
            raise TranscodeError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {vr} has undefined length")
        return "SQ", self.items(end, delimited=True)

    def _span(self, skip: Callable[[int], None], end: int) -> memoryview:
        """What `skip` passes over, without the sequence delimiter at its end."""
        start = self.position
        skip(end)
        return self._data[start : self.position - 8]

    def _unknown(self, end: int) -> None:
        inner = _Parser(self._data, IMPLICIT_LE, self._allowance, self.position, self._depth)
        inner.items(end, delimited=True)
        self.position = inner.position

    def _fragments(self, end: int) -> None:
        # PS3.5 A.4: fragments are items of defined length up to a sequence delimiter.
        tag = _ITEM
        while tag == _ITEM:
            group, number, length = self._unpack("HHL", end)
            tag = group << 16 | number
            self.position = self._end(length, end, PIXEL_DATA)
        if tag != _SEQUENCE_END:
            raise TranscodeError("the fragments of Pixel Data have no end")

    def _header(self, end: int) -> tuple[int, str, int]:
        group, number = self._unpack("HH", end)
        tag = group << 16 | number
        if self._encoding.implicit_vr or group == 0xFFFE:
            return tag, "", self._unpack("L", end)[0]
        vr = bytes(self._data[self.position : self.position + 2]).decode("latin-1")
        self.position += 2
        if vr in _SHORT:
            return tag, vr, self._unpack("H", end)[0]
        if not (vr.isascii() and vr.isalpha() and vr.isupper()):
            raise TranscodeError(f"({group:04X},{number:04X}) has no valid VR")
        return tag, vr, self._unpack("xxL", end)[0]

    def _count(self) -> None:
        self._allowance.elements -= 1
        if self._allowance.elements < 0:
            raise TranscodeError("the data set has too many elements")

    def _unpack(self, layout: str, end: int) -> tuple[int, ...]:
        parts = _layout(self._byte_order + layout)
        start, self.position = self.position, self.position + parts.size
        if self.position > end:
            raise TranscodeError("the data set ends within an element")
        return parts.unpack_from(self._data, start)

    def _end(self, length: int, end: int, tag: int) -> int:
        if self.position + length > end:
            raise TranscodeError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is longer than what holds it")
        return self.position + length


# There are about ten.
_layout = lru_cache(struct.Struct)
_dictionary_vr = lru_cache(maxsize=1024)(dictionary_VR)


def _implicit_vr(tag: int, creators: dict[int, str]) -> str:
    """The VR by the dictionary, "US or SS" as such; UN when there is none (PS3.5 6.2.2, 7.8)."""
    group, number = tag >> 16, tag & 0xFFFF
    if group == 0xFFFE:
        return ""
    if number == 0:
        return "UL"
    if group & 1 and 0x10 <= number <= 0xFF:
        return "LO"
    try:
        vr: str = private_dictionary_VR(tag, creators[number >> 8]) if group & 1 else _dictionary_vr(tag)
    except KeyError:
        return "UN"
    return "OW" if vr.endswith("OW") else vr  # PS3.5 A.1: "OB or OW" is OW in Implicit VR


@dataclass(frozen=True, slots=True)
class _Pixel:
    """What the encoding of other elements depends on, from this data set or the one around it."""

    signed: bool = False
    bits_allocated: int = 16

    def within(self, elements: Iterable[Element]) -> "_Pixel":
        signed, bits_allocated = self.signed, self.bits_allocated
        for element in elements:
            if element.tag == PIXEL_REPRESENTATION:
                signed = number(element) == 1
            elif element.tag == BITS_ALLOCATED:
                bits_allocated = number(element)
        return _Pixel(signed, bits_allocated)


def number(element: Element) -> int:
    """The first value of a US element, 0 when it has none."""
    if isinstance(element.value, tuple):
        raise TranscodeError(f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}) is not a number")
    return int.from_bytes(element.value[:2], "little" if element.encoding.little_endian else "big")


def _data_set(elements: tuple[Element, ...], target: Encoding, around: _Pixel) -> Iterator[bytes | memoryview]:
    pixel = around.within(elements)
    for element in elements:
        if element.tag & 0xFFFF == 0:
            continue
        if element.raw is not None and element.encoding == target:
            yield element.raw
        else:
            yield from _encoded(element, target, pixel)


def _encoded(element: Element, target: Encoding, pixel: _Pixel) -> Iterator[bytes | memoryview]:
    vr, value = element.vr, element.value
    if vr == "US or SS":
        vr = "SS" if pixel.signed else "US"
    if isinstance(value, tuple):
        content: bytes | memoryview = b"".join(_item(item, target, pixel) for item in value)
    elif element.encoding.little_endian:
        content = value
    else:
        content = _swapped(value, _word(element, pixel), element.tag)
    yield _element_header(element.tag, vr, _UNDEFINED if element.undefined_length else len(content), target)
    yield content
    if element.undefined_length:
        yield _mark(_SEQUENCE_END, 0)


def _item(item: Item, target: Encoding, pixel: _Pixel) -> bytes:
    content = b"".join(_data_set(item.elements, target, pixel))
    if item.undefined_length:
        return _mark(_ITEM, _UNDEFINED) + content + _mark(_ITEM_END, 0)
    return _mark(_ITEM, len(content)) + content


def _mark(tag: int, length: int) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length)


def _element_header(tag: int, vr: str, length: int, target: Encoding) -> bytes:
    if target.implicit_vr:
        return _mark(tag, length)
    if vr in _SHORT and length > 0xFFFF:
        vr = "UN"  # PS3.5 6.2.2: too long for a 16-bit length
    layout = "<HH2sH" if vr in _SHORT else "<HH2sxxL"
    return struct.pack(layout, tag >> 16, tag & 0xFFFF, vr.encode("latin-1"), length)


def _word(element: Element, pixel: _Pixel) -> int:
    """Bytes to reverse at a time; UN is little endian in every transfer syntax (PS3.5 6.2.2)."""
    if element.tag == PIXEL_DATA and element.vr == "OW" and pixel.bits_allocated > 16:
        return pixel.bits_allocated // 8  # PS3.5 7.3: a pixel is one number, most significant byte first
    return _WORD.get(element.vr, 1)


def _swapped(value: bytes | memoryview, word: int, tag: int) -> bytes | memoryview:
    if word == 1:
        return value
    if word not in (2, 4, 8) or len(value) % word:
        raise TranscodeError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) cannot be byte-swapped by {word}")
    return np.frombuffer(value, dtype=f"u{word}").byteswap().tobytes()
