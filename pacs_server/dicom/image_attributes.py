"""Reads attributes of an image from the bytes before its pixels, on demand and without judging the rest (PS3.5 7).

What is missing, cut or malformed counts as absent, so that an image with an odd header can still be shown.
"""

import struct
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice

from pacs_server.dicom.encoding import encoding_of
from pacs_server.dicom.skim import Cut, ElementPosition, Skimmer
from pacs_server.dicom.vr import NUMBERS, dictionary_vr
from pacs_server.errors import InvalidInstance

_SHARED_GROUPS, _PER_FRAME_GROUPS = 0x52009229, 0x52009230
_MAX_ELEMENTS = 4_000_000


class Attributes:
    """The attributes of a data set or item."""

    def __init__(self, skimmer: Skimmer, start: int, end: int) -> None:
        self._skimmer = skimmer
        # Where each element begins, and those that were asked for.
        self._starts: dict[int, int] = {}
        self._elements: dict[int, ElementPosition] = {}
        # Of each sequence the starts and ends of the items that were stepped over, and those of the rest.
        self._items: dict[int, tuple[array[int], Iterator[int]]] = {}
        with suppress(Cut, InvalidInstance):
            skimmer.heads(start, end, self._starts)

    @classmethod
    def of(cls, header: bytes, transfer_syntax_uid: str) -> "Attributes":
        """The attributes in the first bytes of a data set that is not deflated."""
        skimmer = Skimmer(header, encoding_of(transfer_syntax_uid), max_elements=_MAX_ELEMENTS)
        return cls(skimmer, 0, len(header))

    def __contains__(self, tag: int) -> bool:
        return tag in self._starts

    def _element(self, tag: int) -> ElementPosition | None:
        found = self._elements.get(tag)
        if found is None and (start := self._starts.get(tag)) is not None:
            found = self._elements[tag] = self._skimmer.element(start)
        return found

    def data(self, tag: int) -> bytes:
        """The value as it is encoded."""
        element = self._element(tag)
        return b"" if element is None else self._skimmer.value(element)

    def texts(self, tag: int) -> list[str]:
        """The values of an attribute of text, in ASCII, without padding."""
        text = self.data(tag).decode("ascii", "replace")
        return [each.strip(" \0") for each in text.split("\\")] if text else []

    def text(self, tag: int) -> str:
        """The first value of an attribute of text."""
        return next(iter(self.texts(tag)), "")

    def numbers(self, tag: int) -> list[float]:
        """The values of an attribute of numbers, in text or binary; nothing if one of them is no number."""
        element = self._element(tag)
        if element is None:
            return []
        try:
            kind = NUMBERS.get(element.vr or dictionary_vr(tag))
            if kind is None:
                return [float(text) for text in self.texts(tag)]
            data = self.data(tag)
            count = len(data) // struct.calcsize(f"={kind}")
            return [float(n) for n in struct.unpack_from(f"{self._skimmer.order}{count}{kind}", data)]
        except (ValueError, struct.error):
            return []

    def number(self, tag: int) -> float | None:
        """The first value of an attribute of numbers."""
        return next(iter(self.numbers(tag)), None)

    def words(self, tag: int, *, signed: bool = False) -> list[int]:
        """A value of 16-bit numbers."""
        data = self.data(tag)
        return list(struct.unpack_from(f"{self._skimmer.order}{len(data) // 2}{'h' if signed else 'H'}", data))

    def word(self, tag: int, *, signed: bool = False) -> int | None:
        """The first number of a value of 16-bit numbers."""
        return next(iter(self.words(tag, signed=signed)), None)

    @property
    def byte_order(self) -> str:
        """The byte order of binary numbers, as the prefix of a `struct` format."""
        return self._skimmer.order

    def item(self, tag: int, index: int = 0) -> "Attributes | None":
        """One item of a sequence; the others are stepped over, each of them once however many are asked for."""
        element = self._element(tag)
        if element is None:
            return None
        bounds, rest = self._items.setdefault(tag, (array("Q"), chain.from_iterable(self._skimmer.items(element))))
        with suppress(Cut, InvalidInstance):
            bounds.extend(islice(rest, max(0, 2 * index + 2 - len(bounds))))
        span = bounds[2 * index : 2 * index + 2]
        return Attributes(self._skimmer, *span) if span else None


class FrameAttributes:
    """The attributes that apply to one frame: its functional groups come before the shared ones, those before the rest.

    PS3.3 C.7.6.16.
    """

    def __init__(self, data_set: Attributes, number: int) -> None:
        self.data_set = data_set
        groups = (data_set.item(_PER_FRAME_GROUPS, number - 1), data_set.item(_SHARED_GROUPS))
        self._groups = [group for group in groups if group is not None]

    def macro(self, sequence: int) -> Attributes:
        """The attributes of a functional group: its item, or the data set itself where images have no groups."""
        for group in self._groups:
            if (item := group.item(sequence)) is not None:
                return item
        return self.data_set
