"""Data elements and sequence items, with their values as the bytes that were read (PS3.5 7)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pacs_server.dicom.encoding import EXPLICIT_LE, Encoding
from pacs_server.dicom.tags import BITS_ALLOCATED, PIXEL_REPRESENTATION, tag_text
from pacs_server.errors import TranscodeError


class Item(NamedTuple):
    """One item of a sequence."""

    elements: tuple["Element", ...]
    undefined_length: bool


class Element(NamedTuple):
    """One data element.

    `value` is a tuple of items for a sequence, otherwise bytes in the byte order of `encoding`. If the element has
    `undefined_length`, these bytes are everything before the sequence delimiter. `raw` is the whole element as it was
    read, or None once any part of it was replaced. In Implicit VR, `vr` comes from the data dictionary and may be
    "US or SS".
    """

    tag: int
    vr: str
    value: bytes | memoryview | tuple[Item, ...]
    encoding: Encoding = EXPLICIT_LE
    undefined_length: bool = False
    raw: memoryview | None = None

    @property
    def content(self) -> bytes:
        """The value as bytes; empty for a sequence."""
        return b"" if isinstance(self.value, tuple) else bytes(self.value)

    @property
    def number(self) -> int:
        """The first value of a US element, 0 if it is empty; raises TranscodeError if the element is a sequence."""
        if isinstance(self.value, tuple):
            raise TranscodeError(f"{tag_text(self.tag)} is not a number")
        return int.from_bytes(self.value[:2], "little" if self.encoding.little_endian else "big")


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """The pixel attributes that the encoding of other elements depends on: Pixel Representation and Bits Allocated.

    An item that lacks one of them takes it from the data set around the item.
    """

    signed: bool = False
    bits_allocated: int = 16

    def within(self, elements: Iterable[Element]) -> "PixelDescription":
        """The description that applies to these elements of one data set or item."""
        signed, bits_allocated = self.signed, self.bits_allocated
        for element in elements:
            if element.tag == PIXEL_REPRESENTATION:
                signed = element.number == 1
            elif element.tag == BITS_ALLOCATED:
                bits_allocated = element.number
        return PixelDescription(signed, bits_allocated)

    def vr_of(self, element: Element) -> str:
        """The VR of an element. For "US or SS", Pixel Representation decides (PS3.3 C.7.6.3.1)."""
        if element.vr == "US or SS":
            return "SS" if self.signed else "US"
        return element.vr
