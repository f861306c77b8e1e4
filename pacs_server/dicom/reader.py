"""**The** reader of whole data sets: bytes to elements, strict and limited in depth and number (PS3.5 7).

The reader is strict: malformed data is an error, and so are too many elements or too deep a nesting. To read only the
header of an instance, see `skim`, which tolerates more and keeps only the elements that are wanted.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pacs_server.dicom.element import Element, Item
from pacs_server.dicom.encoding import IMPLICIT_LE, Encoding
from pacs_server.dicom.tags import (
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    is_private_creator,
    tag_text,
)
from pacs_server.dicom.vr import SHORT_VRS, dictionary_vr, implicit_vr, looks_like_vr
from pacs_server.errors import TranscodeError

_MAX_DEPTH = 100
# Each element takes about half a kilobyte of memory.
_MAX_ELEMENTS = 1_000_000
_SHORT_VRS = {vr.encode(): vr for vr in SHORT_VRS}


@dataclass(slots=True)
class _Allowance:
    """The limits of one read: the nesting depth, and the number of elements that may still be read.

    `known_sequences` tells whether a UN element may be read as a sequence.
    """

    depth: int
    elements: int
    known_sequences: bool


def read_elements(
    data: memoryview,
    encoding: Encoding,
    *,
    max_depth: int = _MAX_DEPTH,
    max_elements: int = _MAX_ELEMENTS,
    known_sequences: bool = False,
) -> tuple[Element, ...]:
    """The elements of a data set; raises TranscodeError if it is malformed or exceeds `max_depth` or `max_elements`.

    With `known_sequences`, an element of VR UN that holds a sequence is read as a sequence (PS3.5 6.2.2). Otherwise its
    value stays bytes.
    """
    allowance = _Allowance(max_depth, max_elements, known_sequences)
    return _Reader(data, encoding, allowance).data_set(len(data))


class _Reader:
    """Reads elements from `position` on. The readers of all parts of a data set share one allowance."""

    def __init__(
        self, data: memoryview, encoding: Encoding, allowance: _Allowance, position: int = 0, depth: int = 0
    ) -> None:
        self._data = data
        self._encoding = encoding
        self._allowance = allowance
        self._depth = depth
        self.position = position
        self._plain_head = struct.Struct(f"{encoding.byte_order}HHL").unpack_from
        self._explicit_head = struct.Struct(f"{encoding.byte_order}HH2sH").unpack_from
        self._long_length = struct.Struct(f"{encoding.byte_order}L").unpack_from

    def data_set(self, end: int, *, delimited: bool = False) -> tuple[Element, ...]:
        """The elements up to `end`, or up to an item delimiter if the data set is `delimited`."""
        elements: list[Element] = []
        creators: dict[int, str] = {}
        while self.position < end:
            if self._depth == 0 and end - self.position < 8 and not any(self._data[self.position : end]):
                break  # too short for an element, and all zero: padding that some writers add
            element = self._element(end, creators)
            if element.tag == ITEM_END:
                if not delimited:
                    raise TranscodeError("an item ends that never began")
                return tuple(elements)
            elements.append(element)
        if delimited:
            raise TranscodeError("an item of undefined length has no end")
        return tuple(elements)

    def items(self, end: int, *, delimited: bool) -> tuple[Item, ...]:
        """The items up to `end`, or up to a sequence delimiter if the sequence is `delimited`."""
        self._depth += 1
        if self._depth > self._allowance.depth:
            raise TranscodeError(f"sequences nested deeper than {self._allowance.depth}")
        items = tuple(self._items(end, delimited=delimited))
        self._depth -= 1
        return items

    def _items(self, end: int, *, delimited: bool) -> Iterator[Item]:
        while self.position < end:
            tag, length = self._item_head(end)
            if tag == SEQUENCE_END and delimited:
                return
            if tag != ITEM:
                raise TranscodeError(f"{tag_text(tag)} stands where an item should")
            self._count()
            undefined = length == UNDEFINED_LENGTH
            item_end = end if undefined else self._end(length, end, tag)
            yield Item(self.data_set(item_end, delimited=undefined), undefined)
        if delimited:
            raise TranscodeError("a sequence of undefined length has no end")

    def _element(self, end: int, creators: dict[int, str]) -> Element:
        self._count()
        start = self.position
        tag, vr, length = self._head(end, creators)
        undefined = length == UNDEFINED_LENGTH
        value: memoryview | tuple[Item, ...]
        if undefined:
            vr, value = self._undefined(tag, vr, end)
        elif vr == "SQ":
            value = self.items(self._end(length, end, tag), delimited=False)
        elif vr == "UN" and self._allowance.known_sequences and dictionary_vr(tag) == "SQ":
            vr, value = self._known(self._end(length, end, tag))
        else:
            value_start, self.position = self.position, self._end(length, end, tag)
            value = self._data[value_start : self.position]
            if is_private_creator(tag):
                creators[tag & 0xFFFF] = bytes(value).decode("latin-1").strip(" \0")
        return Element(tag, vr, value, self._encoding, undefined, self._data[start : self.position])

    def _undefined(self, tag: int, vr: str, end: int) -> tuple[str, memoryview | tuple[Item, ...]]:
        if tag == PIXEL_DATA:
            return "OB", self._span(self._fragments, end)
        if vr == "UN" and not self._encoding.implicit_vr:
            # PS3.5 6.2.2: UN of undefined length holds a sequence in Implicit VR Little Endian.
            if self._allowance.known_sequences:
                return "SQ", self._unknown(end, delimited=True)
            return "UN", self._span(self._unknown, end)
        if vr not in {"SQ", "UN"}:
            raise TranscodeError(f"{tag_text(tag)} {vr} has undefined length")
        return "SQ", self.items(end, delimited=True)

    def _span(self, skip: Callable[[int], object], end: int) -> memoryview:
        """The bytes that `skip` steps over, without the sequence delimiter at their end."""
        start = self.position
        skip(end)
        return self._data[start : self.position - 8]

    def _known(self, end: int) -> tuple[str, memoryview | tuple[Item, ...]]:
        """VR and value of a UN element that is a sequence by the dictionary; bytes if it cannot be read as one."""
        start = self.position
        try:
            return "SQ", self._unknown(end, delimited=False)
        except TranscodeError:
            self.position = end
            return "UN", self._data[start:end]

    def _unknown(self, end: int, *, delimited: bool = True) -> tuple[Item, ...]:
        """The items in the value of a UN element, which are in Implicit VR Little Endian (PS3.5 6.2.2)."""
        inner = _Reader(self._data, IMPLICIT_LE, self._allowance, self.position, self._depth)
        items = inner.items(end, delimited=delimited)
        self.position = inner.position
        return items

    def _fragments(self, end: int) -> None:
        # PS3.5 A.4: fragments are items of defined length up to a sequence delimiter.
        tag = ITEM
        while tag == ITEM:
            tag, length = self._item_head(end)
            self.position = self._end(length, end, PIXEL_DATA)
        if tag != SEQUENCE_END:
            raise TranscodeError("the fragments of Pixel Data have no end")

    def _item_head(self, end: int) -> tuple[int, int]:
        """Tag and length of an item or delimiter, which have no VR (PS3.5 7.5)."""
        group, number, length = self._plain_head(self._data, self._advance(8, end))
        return group << 16 | number, length

    def _head(self, end: int, creators: dict[int, str]) -> tuple[int, str, int]:
        """Tag, VR and length of an element."""
        at = self._advance(8, end)
        if self._encoding.implicit_vr:
            group, number, length = self._plain_head(self._data, at)
            tag = group << 16 | number
            return tag, implicit_vr(tag, creators), length
        group, number, raw_vr, length = self._explicit_head(self._data, at)
        tag = group << 16 | number
        if group == 0xFFFE:
            return tag, "", self._long_length(self._data, at + 4)[0]
        if vr := _SHORT_VRS.get(raw_vr):
            return tag, vr, length
        if not looks_like_vr(raw_vr):
            raise TranscodeError(f"{tag_text(tag)} has no valid VR")
        return tag, raw_vr.decode("ascii"), self._long_length(self._data, self._advance(4, end))[0]

    def _advance(self, size: int, end: int) -> int:
        """Advance by `size` bytes; returns the position at which these bytes begin."""
        start, self.position = self.position, self.position + size
        if self.position > end:
            raise TranscodeError("the data set ends within an element")
        return start

    def _end(self, length: int, end: int, tag: int) -> int:
        if self.position + length > end:
            raise TranscodeError(f"{tag_text(tag)} is longer than what holds it")
        return self.position + length

    def _count(self) -> None:
        self._allowance.elements -= 1
        if self._allowance.elements < 0:
            raise TranscodeError("the data set has too many elements")
