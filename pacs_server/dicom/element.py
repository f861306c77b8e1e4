"""Data elements and items of sequences as values, their bytes as they were read (PS3.5 7)."""

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

    `value` holds items for a sequence, bytes in the byte order of `encoding` otherwise; with
    `undefined_length` and bytes it is all that stands before the sequence delimiter. `raw` is the
    element as it was read, None once anything in it was replaced. In Implicit VR `vr` is the
    dictionary's, which may be "US or SS".
    """

    tag: int
    vr: str
    value: bytes | memoryview | tuple[Item, ...]
    encoding: Encoding = EXPLICIT_LE
    undefined_length: bool = False
    raw: memoryview | None = None

    @property
    def content(self) -> bytes:
        """The value as bytes; none for a sequence."""
        return b"" if isinstance(self.value, tuple) else bytes(self.value)

    @property
    def number(self) -> int:
        """The first value of a US element, 0 when it has none; raises TranscodeError if it is a sequence."""
        if isinstance(self.value, tuple):
            raise TranscodeError(f"{tag_text(self.tag)} is not a number")
        return int.from_bytes(self.value[:2], "little" if self.encoding.little_endian else "big")


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """What the encoding of other elements depends on, from their data set or from the one around it."""

    signed: bool = False
    bits_allocated: int = 16

    def within(self, elements: Iterable[Element]) -> "PixelDescription":
        """The description that holds for these elements of one data set or item."""
        signed, bits_allocated = self.signed, self.bits_allocated
        for element in elements:
            if element.tag == PIXEL_REPRESENTATION:
                signed = element.number == 1
            elif element.tag == BITS_ALLOCATED:
                bits_allocated = element.number
        return PixelDescription(signed, bits_allocated)

    def vr_of(self, element: Element) -> str:
        """The VR of an element; "US or SS" is what Pixel Representation says (PS3.3 C.7.6.3.1)."""
        if element.vr == "US or SS":
            return "SS" if self.signed else "US"
        return element.vr
