"""Stepping over the elements of a data set from header to header, without looking at what is not asked for.

There is no recursion into sequences, and no value is copied before it is wanted. The first bytes of a data
set are enough, and senders' habits are forgiven. Nothing that a sender writes raises anything but `Cut`
and `InvalidInstance`.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pacs_server.dicom.encoding import Encoding
from pacs_server.dicom.tags import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED_LENGTH
from pacs_server.dicom.text import plain_value
from pacs_server.dicom.vr import LONG_VRS, SHORT_VRS, looks_like_vr
from pacs_server.errors import InvalidInstance

MAX_DEPTH = 32
MAX_ELEMENTS = 100_000
# A longer value is looked at only when it is wanted.
_MAX_PLAIN_BYTES = 256

_DELIMITERS = (ITEM_END, SEQUENCE_END)
_SHORT_VRS = {vr.encode(): vr for vr in SHORT_VRS} | {b"": ""}  # "" in Implicit VR


class ElementPosition(NamedTuple):
    """Where an element's value starts, and its length in bytes as the data set says it; the VR is "" if not told."""

    tag: int
    vr: str
    start: int
    length: int


Skimmed = dict[int, ElementPosition | str]
"""What was found while skimming, by tag: a value that is plain text as that text, anything else as its position."""


class Cut(Exception):
    """The bytes end in the middle of this element."""

    def __init__(self, tag: int) -> None:
        self.tag = tag


class Skimmer:
    """Steps over the elements of a data set, `max_elements` at most."""

    def __init__(self, data: bytes, encoding: Encoding, *, max_elements: int = MAX_ELEMENTS) -> None:
        self.data = data
        self.order = encoding.byte_order
        self._implicit_head = struct.Struct(f"{self.order}HHL").unpack_from
        self._explicit_head = struct.Struct(f"{self.order}HH2sH").unpack_from
        self._long_length = struct.Struct(f"{self.order}L").unpack_from
        # Some senders use the other VR encoding than they negotiated: the first element tells.
        self._explicit = not encoding.implicit_vr if len(data) < 6 else looks_like_vr(data[4:6])
        self._max_elements = max_elements
        self._seen = 0

    def skim(self, at: int, last_tag: int, wanted: Mapping[int, bytes], found: Skimmed) -> tuple[int, int]:
        """Step over plain elements from `at` on, keep the wanted ones; returns where it ended and the last tag.

        Plain is what is whole, not past `last_tag` and, in Explicit VR, of a short length: nearly all of a
        header, which is why these few lines stand apart from the general walk. `wanted` maps tags to the VR
        where the data set does not say it, "" for an element that is never taken as text.
        """
        last = seen = 0
        data, explicit, size = self.data, self._explicit, len(self.data)
        vr = b""
        while size - at >= 8:
            if explicit:
                group, number, vr, length = self._explicit_head(data, at)
            else:
                group, number, length = self._implicit_head(data, at)
            tag = group << 16 | number
            start = at + 8
            at = start + length
            if vr not in _SHORT_VRS or at > size or tag > last_tag:
                at = start - 8
                break
            if tag in wanted:
                found[tag] = self._kept(tag, vr, wanted[tag], start, length)
            last = tag
            seen += 1
        self._seen += seen
        self._check_count()
        return at, last

    def _kept(self, tag: int, vr: bytes, wanted_vr: bytes, start: int, length: int) -> ElementPosition | str:
        """A plain value as its text; an element that has to be looked at as such."""
        if length <= _MAX_PLAIN_BYTES and wanted_vr:
            text = plain_value(self.data[start : start + length], vr or wanted_vr)
            if text is not None:
                return text
        return ElementPosition(tag, _SHORT_VRS[vr], start, length)

    def elements(self, start: int, end: int) -> Iterator[ElementPosition]:
        """The elements of one data set or item, each before it is stepped over; raises Cut, InvalidInstance."""
        while end - start >= 8:
            element = self._head(start)
            if element.tag == ITEM_END:
                return
            yield element
            start = self.end(element)
            if start > end:
                raise Cut(element.tag)

    def items(self, sequence: ElementPosition) -> Iterator[tuple[int, int]]:
        """Where each item's content starts and ends; raises Cut, InvalidInstance."""
        start = sequence.start
        end = len(self.data) if sequence.length == UNDEFINED_LENGTH else start + sequence.length
        while end - start >= 8:
            item = self._head(start)
            if item.tag != ITEM:
                return
            start = self._end(item)
            yield item.start, start

    def value(self, element: ElementPosition) -> bytes:
        """The bytes of an element's value; none when its length is undefined."""
        return b"" if element.length == UNDEFINED_LENGTH else self.data[element.start : element.start + element.length]

    def end(self, element: ElementPosition) -> int:
        """Where the element ends, its delimiter included; raises Cut if its delimiter is not there."""
        try:
            return self._end(element)
        except Cut:
            raise Cut(element.tag) from None

    def _end(self, element: ElementPosition) -> int:
        """Whatever has no length is closed by a delimiter."""
        if element.length != UNDEFINED_LENGTH:
            return element.start + element.length
        at, depth = element.start, 1
        while depth:
            inner = self._head(at)
            at = inner.start
            if inner.tag in _DELIMITERS:
                depth -= 1
            elif inner.length == UNDEFINED_LENGTH:
                depth += 1
            else:
                at += inner.length
            # A sequence and its item are two levels here.
            if depth > 2 * MAX_DEPTH:
                raise InvalidInstance(f"sequences are nested deeper than {MAX_DEPTH} levels")
        return at

    def _head(self, at: int) -> ElementPosition:
        self._seen += 1
        self._check_count()
        try:
            group, number, length = self._implicit_head(self.data, at)
            tag = group << 16 | number
            # PS3.5 7.5: items and delimiters have no VR.
            if not self._explicit or group == 0xFFFE:
                return ElementPosition(tag, "", at + 8, length)
            _, _, raw_vr, short_length = self._explicit_head(self.data, at)
            vr = raw_vr.decode("latin_1")
            if vr in LONG_VRS:
                return ElementPosition(tag, vr, at + 12, self._long_length(self.data, at + 8)[0])
        except struct.error:
            raise Cut(0) from None
        if looks_like_vr(raw_vr):
            return ElementPosition(tag, vr, at + 8, short_length)
        # PS3.5 6.2.2: what a UN of undefined length holds is Implicit VR.
        return ElementPosition(tag, "", at + 8, length)

    def _check_count(self) -> None:
        if self._seen > self._max_elements:
            raise InvalidInstance(f"the header has more than {self._max_elements} elements")
